"""
A real Apache Kafka broker: one node in KRaft mode, as a process, with listeners of every kind.
"""

from __future__ import annotations

import itertools
import runpy
import shutil
import socket
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.certificates import Authority
from tests.conftest import missing
from tests.e2e.net import Netns
from tests.servers import Server, free_port, free_ports

_ROOT = Path(__file__).parents[2]
_topics = itertools.count()

USER, PASSWORD = "alice", "s3cret-of-alice"
#: Listener -> protocol, and the certificate that it shows.
LISTENERS = {
    "plain": ("PLAINTEXT", ""),
    "tls": ("SSL", "broker"),
    "mutual": ("SSL", "broker"),
    "expired": ("SSL", "expired"),
    "othername": ("SSL", "othername"),
    "sasl": ("SASL_PLAINTEXT", ""),
    "sasltls": ("SASL_SSL", "broker"),
}
_CLUSTER = "flowexporterflowexpor"
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.partitions=1
delete.topic.enable=true
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.mutual.ssl.client.auth=required
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class Broker(Server):
    """
    The process.

    Args:
        directory: Of its data, its log and its certificates.
        netns: Where it runs; here if ``None``.
        plain: Port of the listener without TLS; a free one if 0.
    """

    def __init__(self, directory: Path, netns: Netns | None = None, plain: int = 0) -> None:
        if not (jars := _jars()):
            missing("Apache Kafka's jars: run tools/setup-tests.sh")
        if shutil.which("java") is None:
            missing("java, to run Apache Kafka")
        self.directory = directory
        self._netns = netns
        self.authority = Authority(directory)
        names = [*LISTENERS, "controller"]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ports["plain"] = plain or self.ports["plain"]
        self.java = ["java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                      "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                      "-cp", f"{jars}/*"]  # fmt: skip
        command = _kafka(self.java)
        command = netns.command(*command) if netns else command
        super().__init__(command, directory / "broker.log", directory)
        self._configure()
        scram = [
            word
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for word in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
        ]
        self._run("kafka.tools.StorageTool", "format", "--standalone", "-t",
                  _CLUSTER, "-c", "server.properties", *scram)  # fmt: skip

    def address(self, listener: str = "plain") -> str:
        """``host:port``."""
        return f"localhost:{self.ports[listener]}"

    def topic(self, partitions: int = 1, **settings: Any) -> str:
        """Make a topic with a name of its own, with settings such as max_message_bytes."""
        name = f"flows-{next(_topics)}"
        configs = {key.replace("_", "."): str(value) for key, value in settings.items()}
        self.create(name, partitions, configs)
        return name

    def create(self, name: str, partitions: int, configs: dict[str, str]) -> None:
        """Make this topic."""
        with self.admin() as admin:
            admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1,
                                        "configs": configs}})  # fmt: skip

    def admin(self) -> Any:
        """A client that administrates."""
        return KafkaAdminClient(bootstrap_servers=self.address())

    def _is_ready(self) -> bool:
        try:
            with self._netns.entered() if self._netns else nullcontext():
                with socket.create_connection(("127.0.0.1", self.ports["plain"]), 1):
                    pass
                with self.admin() as admin:
                    admin.list_topics()
        except (OSError, KafkaError):
            return False
        return True

    def _configure(self) -> None:
        for name, names, expired in (
            ("broker", "DNS:localhost,IP:127.0.0.1", False),
            ("expired", "DNS:localhost", True),
            ("othername", "DNS:elsewhere.test", False),
        ):
            pem, key = self.authority.issue(name, names, expired=expired)
            # PKCS 8 and chain in one file.
            (self.directory / f"{name}.store").write_text(key.read_text() + pem.read_text())
        listeners = {
            name: f"{name.upper()}://127.0.0.1:{port}" for name, port in self.ports.items()
        }
        protocols = {name: kind for name, (kind, _) in LISTENERS.items()}
        lines = [
            _SETTINGS,
            f"controller.quorum.bootstrap.servers=127.0.0.1:{self.ports['controller']}",
            f"log.dirs={self.directory / 'data'}",
            f"listeners={','.join(listeners.values())}",
            "advertised.listeners="
            + ",".join(
                f"{name.upper()}://localhost:{port}"
                for name, port in self.ports.items()
                if name != "controller"
            ),
            "listener.security.protocol.map="
            + ",".join(
                f"{n.upper()}:{p}" for n, p in (protocols | {"controller": "PLAINTEXT"}).items()
            ),
        ]
        for name, (_, certificate) in LISTENERS.items():
            if certificate:
                prefix = f"listener.name.{name}.ssl"
                lines += [
                    f"{prefix}.keystore.type=PEM",
                    f"{prefix}.keystore.location={self.directory / certificate}.store",
                    f"{prefix}.truststore.type=PEM",
                    f"{prefix}.truststore.location={self.authority.pem}",
                ]
        modules = "org.apache.kafka.common.security"
        for name in ("sasl", "sasltls"):
            lines.append(
                f"listener.name.{name}.plain.sasl.jaas.config={modules}.plain.PlainLoginModule "
                f'required user_{USER}="{PASSWORD}" ;'
            )
            lines += [
                f"listener.name.{name}.scram-sha-{bits}.sasl.jaas.config="
                f"{modules}.scram.ScramLoginModule required ;"
                for bits in (256, 512)
            ]
        (self.directory / "server.properties").write_text("\n".join(lines) + "\n")

    def _run(self, main: str, *arguments: str) -> None:
        done = subprocess.run([*self.java, main, *arguments], capture_output=True, text=True,
                              cwd=self.directory, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


class Second(Server):
    """
    Another node of a broker's cluster, with no part in the quorum.

    Args:
        first: Which leads the cluster.
        directory: Of its data and its log.
    """

    def __init__(self, first: Broker, directory: Path) -> None:
        super().__init__(_kafka(first.java), directory / "broker.log", directory)
        self._first = first
        port = free_port()
        (directory / "server.properties").write_text(
            "process.roles=broker\nnode.id=2\ncontroller.listener.names=CONTROLLER\n"
            "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n"
            f"controller.quorum.bootstrap.servers=127.0.0.1:{first.ports['controller']}\n"
            f"inter.broker.listener.name=PLAIN\nlisteners=PLAIN://127.0.0.1:{port}\n"
            f"advertised.listeners=PLAIN://localhost:{port}\nlog.dirs={directory / 'data'}\n"
            "listener.security.protocol.map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
        )
        done = subprocess.run(
            [*first.java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c",
             "server.properties"],
            capture_output=True, text=True, cwd=directory, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def _is_ready(self) -> bool:
        """It is one of the cluster."""
        with self._first.admin() as admin:
            return len(admin.describe_cluster()["brokers"]) == 2


def _kafka(java: list[str]) -> list[str]:
    return [*java, "kafka.Kafka", "server.properties"]


def _jars() -> str:
    """Where they are; empty if they are not."""
    tool = runpy.run_path(str(_ROOT / "tools" / "fetch-kafka.py"))
    cache: Path = tool["cache"]()
    names = [path.rpartition("/")[2] for _, path in tool["pins"]()]
    return str(cache) if all((cache / name).exists() for name in names) else ""
