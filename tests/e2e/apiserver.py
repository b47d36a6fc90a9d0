"""
A real Kubernetes API server with etcd behind it: kube-apiserver, without a cluster.

Built by tools/setup-kubernetes.sh from Kubernetes' own sources. There are no controllers, no
scheduler and no kubelet: what they would write, the test writes (see tests.e2e.cluster). Tokens and
role-based access control are as in a cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from tests import patience
from tests.certificates import Authority
from tests.conftest import missing
from tests.e2e.agent import wait_until
from tests.e2e.etcd import Etcd
from tests.e2e.kubeclient import Client, Refused
from tests.e2e.net import Netns
from tests.servers import free_ports

#: May do everything.
_ADMIN = "token-of-the-administrator"
#: Left out: what needs controllers that are not there, and what only costs time.
_NO_ADMISSION = (
    "ServiceAccount",
    "DefaultTolerationSeconds",
    "TaintNodesByCondition",
    "LimitRanger",
    "ResourceQuota",
    "Priority",
)
_FLAGS = (
    "--authorization-mode=RBAC",
    f"--disable-admission-plugins={','.join(_NO_ADMISSION)}",
    "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108",
    "--service-account-issuer=https://kubernetes.default.svc",
    # Nobody is told of this one address in the service "kubernetes".
    "--advertise-address=192.0.2.1",
    "--endpoint-reconciler-type=none",
    # The test says when: a client that comes back later must not find its place gone by chance.
    "--etcd-compaction-interval=0",
    "--enable-priority-and-fairness=false",
    "--max-requests-inflight=0",
    "--max-mutating-requests-inflight=0",
    "--profiling=false",
    "--v=0",
)
#: Collects garbage a fourth as often: its memory is small, and its processor time is everybody's.
_ENVIRONMENT = {"GOGC": "400"}
_ETCD_FLAGS = (
    "--log-level=error",
    # No machine loses power here: a process that is killed loses nothing without it.
    "--unsafe-no-fsync",
    "--quota-backend-bytes=4294967296",
    # So often the API server hears which revision it is at; clusters have 5 s. Bookmarks say it.
    "--watch-progress-notify-interval=1s",
)
#: Of etcd, where it runs. It wants it to look like a host and a port.
_SOCKET = "etcd:1"

#: Service accounts' requests are written down.
_AUDIT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
  - {level: None}
"""
#: Flags: watches are answered by etcd, which knows all that was since it was compacted. With the
#: cache that the server has otherwise, what was before its own start is gone.
UNCACHED = ("--watch-cache=false",)


@dataclass(frozen=True)
class Request:
    """
    One that a service account made.

    Args:
        account: ``namespace:name``.
        verb: As role-based access control has it: ``list``, ``watch``, ``get``, ...
        resource: As ``pods`` or ``replicasets``; empty for what is none.
        path: With its parameters.
        code: Of the answer; of a watch, that of its beginning.
    """

    account: str
    verb: str
    resource: str
    path: str
    code: int


def reading(*resources: str) -> list[dict[str, list[str]]]:
    """Rules: list and watch, and nothing else; each as ``pods`` or ``apps/replicasets``."""
    split = [one.rpartition("/") for one in resources]
    return [
        {"apiGroups": [group], "resources": [name], "verbs": ["list", "watch"]}
        for group, _, name in split
    ]


def directory_of_binaries() -> Path:
    """Where the programs are; what would be shown is missing without them."""
    chosen = os.environ.get("TEST_KUBERNETES_CACHE")
    cache = Path(chosen) if chosen else Path.home() / ".cache" / "flow-exporter" / "kubernetes"
    if not (cache / "bin" / "kube-apiserver").exists():
        missing("kube-apiserver: run tools/setup-kubernetes.sh, which needs Go")
    return cache / "bin"


class ApiServer:
    """
    kube-apiserver and etcd, as processes.

    Args:
        directory: For their data, logs, keys and configuration.
        netns: Where they run; here if ``None``. They listen on 127.0.0.1 there.
        flags: Of the API server, more than it has.
    """

    def __init__(
        self, directory: Path, netns: Netns | None = None, flags: Sequence[str] = ()
    ) -> None:
        self._binaries = directory_of_binaries()
        self._directory = directory
        self._netns = netns
        self._flags = (*_FLAGS, *flags)
        self.authority = Authority(directory)
        with netns.entered() if netns else nullcontext():
            self.port, *self._etcd_ports = free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "tokens.csv").write_text(f'{_ADMIN},admin,admin,"system:masters"\n')
        self._audit = directory / "audit.jsonl"
        (directory / "audit.yaml").write_text(_AUDIT)
        self.authority.issue("apiserver", "DNS:localhost,IP:127.0.0.1")
        self.authority.issue("service-account", "DNS:service-account")
        self.admin = self.client(_ADMIN)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the API server had to say: warnings and errors."""
        return (self._directory / "kube-apiserver.log").read_text()

    def client(self, token: str) -> Client:
        """A client with a token."""
        return Client(self.port, self.authority.pem, token, self._netns)

    def start(self) -> None:
        """Start what does not run, and wait until it is ready."""
        if "etcd" not in self._processes:
            self._spawn("etcd", self._etcd_arguments())
        if "kube-apiserver" not in self._processes:
            self._spawn("kube-apiserver", self._arguments())
        wait_until(self._is_ready, "the API server is ready", 120 * patience.FACTOR)

    def kill(self) -> None:
        """The API server, as a machine that loses power; etcd stays."""
        self._kill("kube-apiserver")

    def close(self) -> None:
        """Both. Again is fine."""
        self.admin.close()
        self._kill("kube-apiserver")
        self._kill("etcd")

    def revision(self) -> int:
        """The newest: every change of whatever object adds one."""
        answer = self.admin.call("GET", "/api/v1/namespaces?limit=1")
        return int(answer["metadata"]["resourceVersion"])

    def compact(self) -> int:
        """
        Let etcd forget all that was, as it does every five minutes in a cluster.

        Returns:
            The revision before which nothing is known any more.
        """
        revision = self.revision()
        with self.etcd() as etcd:
            etcd.compact(revision)
        return revision

    def etcd(self) -> Etcd:
        """A client of etcd."""
        return Etcd(self._directory / _SOCKET)

    def token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """
        A token of a service account, as a pod gets it: signed, bound, and with an end.

        Args:
            namespace: Of the account, which must be there.
            name: Of the account.
            seconds: How long it is good; the server takes 600 and more.
        """
        answer = self.admin.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {"spec": {"expirationSeconds": seconds}},
        )
        return str(answer["status"]["token"])

    def reader(
        self, name: str, rules: Sequence[Mapping[str, Sequence[str]]], namespace: str = "default"
    ) -> str:
        """
        A token of a new service account that may do what the rules say, and nothing else.

        Args:
            name: Of the account and of its role.
            rules: As in a ClusterRole.
            namespace: Of the account, made if it is not there.
        """
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        group = "rbac.authorization.k8s.io"
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        self.admin.ensure("/api/v1/namespaces", {"metadata": {"name": namespace}})
        self.admin.ensure(
            f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}}
        )
        role = {"metadata": {"name": name}, "rules": rules}
        self.admin.ensure(f"{rbac}/clusterroles", role)
        self.admin.ensure(f"{rbac}/clusterrolebindings", {
            "metadata": {"name": name}, "subjects": [account],
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        })  # fmt: skip
        return self.token(namespace, name)

    def account_files(self, token: str = _ADMIN, name: str = "account") -> Path:
        """
        What a pod has in /var/run/secrets/kubernetes.io/serviceaccount.
        """
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        (directory / "ca.crt").write_bytes(self.authority.pem.read_bytes())
        (directory / "namespace").write_text("default")
        (directory / "token").write_text(token)
        return directory

    def kubeconfig(self, token: str = _ADMIN, name: str = "kubeconfig") -> Path:
        """A configuration file of a client, with the token in it."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority.pem)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path = self._directory / name
        path.write_text(yaml.safe_dump(content))
        return path

    def requests(self) -> list[Request]:
        """What service accounts asked for, all servers since the first one together, in order."""
        text = self._audit.read_text() if self._audit.exists() else ""
        found: dict[str, Request] = {}
        for line in text.splitlines():
            event = json.loads(line)
            # A watch is written down when it begins, and again when it ends.
            found.setdefault(event["auditID"], Request(
                event["user"]["username"].removeprefix("system:serviceaccount:"), event["verb"],
                event.get("objectRef", {}).get("resource", ""), event["requestURI"],
                event.get("responseStatus", {}).get("code", 0),
            ))  # fmt: skip
        return list(found.values())

    def memory(self) -> int:
        """Octets that the API server has in memory now."""
        status = Path(f"/proc/{self._processes['kube-apiserver'].pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        command = [str(self._binaries / name), *arguments]
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._netns.command(*command) if self._netns else command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory,
                env=os.environ | _ENVIRONMENT,
            )  # fmt: skip

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def _is_ready(self) -> bool:
        for name, process in self._processes.items():
            log = self._directory / f"{name}.log"
            assert process.poll() is None, f"{name} ended: {log.read_text()[-3000:]}"
        try:
            self.admin.call("GET", "/readyz")
            # It is ready before it has the addresses that services are made of.
            self.admin.call("GET", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
            self.admin.call("GET", "/api/v1/namespaces/default")
        except (OSError, Refused):
            return False
        return True

    def _etcd_arguments(self) -> list[str]:
        clients, peers = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        return [
            *_ETCD_FLAGS,
            f"--data-dir={self._directory / 'etcd'}",
            f"--listen-client-urls={clients},unix://{_SOCKET}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        ]

    def _arguments(self) -> list[str]:
        signer = self._directory / "service-account"
        return [
            *self._flags,
            f"--etcd-servers=http://127.0.0.1:{self._etcd_ports[0]}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._directory / 'apiserver.pem'}",
            f"--tls-private-key-file={self._directory / 'apiserver.key'}",
            f"--audit-policy-file={self._directory / 'audit.yaml'}",
            f"--audit-log-path={self._audit}",
            f"--token-auth-file={self._directory / 'tokens.csv'}",
            f"--service-account-key-file={signer}.pem",
            f"--service-account-signing-key-file={signer}.key",
        ]
