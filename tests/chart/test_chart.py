"""What the chart makes of its values, held against Kubernetes' words and the agent's own loader."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import capabilities
from exporter.config import Config, ObserveConfig, load
from exporter.credentials import ServerTlsConfig
from exporter.reload import plan
from tests.arch.source import ROOT
from tests.chart.chart import (
    CASES,
    CHART,
    Object,
    Values,
    configuration,
    container,
    environment,
    helm,
    one_of,
    refused,
    render,
)

_THREE = ["BPF", "NET_ADMIN", "PERFMON"]


def loaded(values: Values, directory: Path) -> Config:
    """What the agent takes it for."""
    objects = render(values)
    path = directory / "config.yaml"
    path.write_text(configuration(objects))
    return load(path, environment(one_of(objects, "DaemonSet")), {})


def documented() -> Iterator[tuple[str, str]]:
    """Language and text of each block in the guide and in the chart's README."""
    for path in (ROOT / "docs" / "guide" / "kubernetes.md", CHART / "README.md"):
        yield from re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def pod(values: Values) -> Object:
    """Of an agent."""
    found: Object = one_of(render(values), "DaemonSet")["spec"]["template"]["spec"]
    return found


def mounts(values: Values) -> dict[str, str]:
    """Directory -> the host's path, or the name of the secret, that is mounted there."""
    spec = pod(values)
    volumes = {one["name"]: one for one in spec["volumes"]}
    return {
        one["mountPath"]: volume.get("hostPath", {}).get("path", "")
        or volume.get("secret", {}).get("secretName", "")
        for one in spec["containers"][0]["volumeMounts"]
        for volume in [volumes[one["name"]]]
    }


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_complain_about(case: str) -> None:
    """``helm lint --strict`` with each preset, and with everything on."""
    done = helm("lint", "--strict", "--quiet", values=CASES[case])
    assert (done.code, done.error) == (0, ""), done.output


def test_what_is_made_of_the_values_is_current() -> None:
    """``make docs`` would change nothing, so that every key has its words in all three places."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "chart.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_without_words_is_found(tmp_path: Path) -> None:
    """The generator refuses it, and says which."""
    chart = shutil.copytree(CHART, tmp_path / "helm" / "flow-exporter")
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "chart.py", tmp_path / "tools")
    with (chart / "values.yaml").open("a") as file:
        file.write("more: 1\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "tools" / "chart.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "more has no comment above it" in done.stderr


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    """Each key of values.yaml occurs in a template: none is documented that does nothing."""
    text = "".join(path.read_text() for path in CHART.glob("templates/**/*") if path.is_file())
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    for name in schema.keys() - {"global"}:
        assert f".Values.{name}" in text, name


@pytest.mark.parametrize("case", CASES)
def test_the_agent_takes_its_configuration(case: str, tmp_path: Path) -> None:
    """By the loader that ``run`` uses, with the environment of the pod."""
    config = loaded(CASES[case], tmp_path)
    expected = {
        "default": ["prometheus", "prometheus"],
        "kafka": ["kafka"],
        "otlp": ["otlp"],
        "netobserv": ["grpc"],
        "everything": ["prometheus", "prometheus", "kafka", "otlp", "grpc"],
        "podmonitor": ["prometheus", "prometheus"],
    }
    assert [sink.type for sink in config.sinks] == expected[case]
    assert config.agent.name == "node-1"
    assert config.agent.address == "192.0.2.7"
    assert config.metrics.host_port()[1] == 9401


def test_kafka_with_secrets(tmp_path: Path) -> None:
    """Its files are where the secrets are mounted."""
    sink = loaded(CASES["kafka"], tmp_path).sinks[0].model_dump(mode="json", by_alias=True)
    at = "/etc/flow-exporter/secrets/kafka-"
    assert sink["brokers"] == ["kafka-1:9093", "kafka-2:9093"]
    assert sink["tls"]["ca"] == f"{at}tls/ca.crt"
    assert (sink["tls"]["certificate"], sink["tls"]["key"]) == (
        f"{at}tls/tls.crt", f"{at}tls/tls.key",
    )  # fmt: skip
    assert sink["sasl"]["username_file"] == f"{at}sasl/username"
    assert sink["sasl"]["password_file"] == f"{at}sasl/password"
    mounted = mounts(CASES["kafka"])
    assert (mounted[f"{at}tls"], mounted[f"{at}sasl"]) == ("kafka-files", "kafka-login")


def test_metrics_over_tls(tmp_path: Path) -> None:
    """Files of the secret; probes and monitors go over TLS, and only then."""
    at = "/etc/flow-exporter/secrets/metrics-tls"
    for case, kind, endpoints in (("everything", "ServiceMonitor", "endpoints"),
                                  ("podmonitor", "PodMonitor", "podMetricsEndpoints")):  # fmt: skip
        values = CASES[case]
        config = loaded(values, tmp_path)
        assert config.metrics.tls == ServerTlsConfig(
            certificate=Path(f"{at}/tls.crt"), key=Path(f"{at}/tls.key")
        )
        assert mounts(values)[at] == "flows-metrics"
        assert schemes(values) == {"HTTPS"}
        (endpoint,) = one_of(render(values), kind)["spec"][endpoints]
        assert (endpoint["scheme"], endpoint["tlsConfig"]) == (
            "https", dict(values)[kind[0].lower() + kind[1:]]["tlsConfig"],
        )  # fmt: skip
    plain: Values = {"podMonitor": {"enabled": True, "tlsConfig": {"insecureSkipVerify": True}}}
    (endpoint,) = one_of(render(plain), "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert not {"scheme", "tlsConfig"} & endpoint.keys()
    assert schemes({}) == {"HTTP"}
    assert loaded({}, tmp_path).metrics.tls is None
    own = {"metrics": {"tls": {"certificate": "/a", "key": "/b"}}}
    assert schemes({"config": own}) == {"HTTPS"}


@pytest.mark.parametrize(("enabled", "scheme"), [("true", "HTTPS"), ("false", "HTTP")])
def test_metrics_over_tls_by_netobservs_environment(
    enabled: str, scheme: str, tmp_path: Path
) -> None:
    """The agent serves so, and the probes know it."""
    names = {"EXPORT": "grpc", "TARGET_HOST": "a", "TARGET_PORT": "1", "METRICS_ENABLE": enabled,
             "METRICS_TLS_CERT_PATH": "/a", "METRICS_TLS_KEY_PATH": "/b"}  # fmt: skip
    env = [{"name": name, "value": value} for name, value in names.items()]
    values: Values = {"presets": ["netobserv"], "netobserv": {"env": env}}
    assert schemes(values) == {scheme}
    assert (loaded(values, tmp_path).metrics.tls is not None) is (scheme == "HTTPS")


def schemes(values: Values) -> set[str]:
    """Of the probes."""
    (agent,) = pod(values)["containers"]
    return {
        agent[f"{kind}Probe"]["httpGet"].get("scheme", "HTTP")
        for kind in ("startup", "liveness", "readiness")
    }


def test_observe(tmp_path: Path) -> None:
    """Off unless asked for; then over mutual TLS unless it is said otherwise."""
    at = "/etc/flow-exporter/secrets/observe-tls"
    assert loaded({}, tmp_path).observe == ObserveConfig()
    files = {"certificate": f"{at}/tls.crt", "key": f"{at}/tls.key", "client_ca": f"{at}/ca.crt"}
    expected: list[tuple[Values, Values]] = [
        (CASES["everything"]["observe"], {"address": ":4244", "tls": files}),
        ({"enabled": True, "host": "192.0.2.7", "port": 1, "clients": 2,
          "tls": {"secretName": "s", "certificate": "a", "key": "b", "clientCa": ""}},
         {"address": "192.0.2.7:1", "clients": 2,
          "tls": {"certificate": f"{at}/a", "key": f"{at}/b"}}),
        ({"enabled": True, "host": "127.0.0.1"}, {"address": "127.0.0.1:4244"}),
        ({"enabled": True, "host": "::1"}, {"address": "[::1]:4244"}),
        ({"enabled": True, "plaintext": True}, {"address": ":4244", "plaintext": True}),
    ]  # fmt: skip
    for given, wanted in expected:
        values: Values = {"observe": given}
        config = loaded(values, tmp_path)
        assert config.observe == ObserveConfig.model_validate(wanted)
        secret = given.get("tls", {}).get("secretName")
        assert mounts(values).get(at) == secret
        (agent,) = pod(values)["containers"]
        ports = {one["name"]: one["containerPort"] for one in agent["ports"]}
        assert ports == {"metrics": 9401, "observe": given.get("port", 4244)}
    assert not [path for path in mounts({}) if "observe" in path]


def test_netobserv_as_it_is(tmp_path: Path) -> None:
    """Its environment says where flows go; super-packets count as there."""
    config = loaded(CASES["netobserv"], tmp_path)
    (sink,) = config.sinks
    assert sink.model_dump()["target"] == "192.0.2.7:2055"
    assert config.capture.gso == "packet"


def test_the_users_configuration_is_over_the_charts(tmp_path: Path) -> None:
    """Sections are merged, lists replaced, sinks added; large numbers stay what they are."""
    values: Values = {
        "prometheus": {"labels": ["flow_direction"]},
        "spool": {"enabled": True, "octets": "2GiB"},
        "config": {
            "capture": {"sampling": 4, "pin": "", "flow_memory": 1073741824},
            "metrics": {"page": True},
            "agent": {"name": "mine", "interface": "external"},
            "enrich": {"kubernetes": None},
            "sinks": ["stdout"],
        },
    }
    config = loaded(values, tmp_path)
    assert (config.capture.sampling, config.capture.pin) == (4, "")
    assert config.capture.flow_memory == 1 << 30
    assert config.spool.octets == 2 << 30
    assert (config.metrics.page, config.metrics.host_port()[1]) == (True, 9401)
    assert [sink.type for sink in config.sinks] == ["prometheus", "prometheus", "stdout"]
    assert config.agent.name == "mine"
    assert config.enrich.kubernetes is None


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, _THREE),
        ({"capture": {"netns": ["/.*/"]}}, ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]),
        ({"capture": {"containers": True}}, [*_THREE, "SYS_ADMIN", "SYS_PTRACE"]),
        ({"enrich": {"processes": {}}},
         ["BPF", "DAC_READ_SEARCH", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYS_PTRACE"]),
        ({"enrich": {"processes": None}}, _THREE),
    ],
)  # fmt: skip
def test_privileges_follow_the_configuration(config: Values, wanted: list[str]) -> None:
    """Nothing but what is turned on needs; never privileged, and a root that is read-only."""
    spec = pod({"config": config})
    context = spec["containers"][0]["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": wanted}
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["readOnlyRootFilesystem"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec.get("hostPID", False) is ("SYS_PTRACE" in wanted)
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_without_root() -> None:
    """By the capabilities of the image's program; nothing of the node's root is written then."""
    values: Values = {"runAsNonRoot": True, "pin": {"enabled": False}}
    spec = pod(values)
    context = spec["containers"][0]["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (65532, True)
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, True)
    assert context["capabilities"] == {"drop": ["ALL"], "add": _THREE}
    assert "initContainers" not in spec
    assert not [path for path in mounts(values).values() if path]


def test_directories_of_the_host() -> None:
    """Those that what is turned on needs; nothing of the host may be written but these two."""
    own = {"/etc/flow-exporter/config": "", "/run/flow-exporter": "", "/tmp": ""}
    bpffs = {"/sys/fs/bpf": "/sys/fs/bpf"}
    assert mounts({}) == own | bpffs
    assert mounts({"pin": {"enabled": False, "unpinFirst": False}}) == own
    assert mounts({"pin": {"enabled": False}}) == own | bpffs
    assert mounts({"spool": {"enabled": True}}) == own | bpffs | {
        "/var/lib/flow-exporter/spool": "/var/lib/flow-exporter/spool"
    }
    assert mounts({"config": {"capture": {"netns": ["a"]}}}) == own | bpffs | {
        "/var/run/netns": "/var/run/netns"
    }
    assert mounts({"config": {"enrich": {"processes": {}}}}) == own | bpffs | {
        "/sys/fs/cgroup": "/sys/fs/cgroup",
    }  # fmt: skip


def test_an_upgrade_keeps_what_is_pinned(tmp_path: Path) -> None:
    """One agent at a time, with time to deliver; without pins, it lets go of earlier ones first."""
    daemonset = one_of(render({}), "DaemonSet")
    assert daemonset["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    config = loaded({}, tmp_path)
    assert config.capture.pin == "/sys/fs/bpf/flow-exporter"
    spec = daemonset["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > config.shutdown_timeout + 5
    assert "initContainers" not in spec
    (first,) = pod({"pin": {"enabled": False}})["initContainers"]
    assert first["args"] == ["unpin", "/sys/fs/bpf/flow-exporter"]


@pytest.mark.parametrize(
    "text", [text for language, text in documented() if language == "yaml"],
    ids=lambda text: text.partition(":")[0],
)  # fmt: skip
def test_values_in_the_documents(text: str, tmp_path: Path) -> None:
    """Helm takes each, and the agent what comes of it; secrets that sinks name are mounted."""
    values = yaml.safe_load(text)
    objects = render(values)
    path = tmp_path / "config.yaml"
    # Files are there in the pod.
    path.write_text(re.sub(r"/etc/flow-exporter/secrets/\S+", str(path), configuration(objects)))
    assert load(path, environment(one_of(objects, "DaemonSet")), {}).sinks
    named = set(re.findall(r"(/etc/flow-exporter/secrets/\S+)/\S+", configuration(objects)))
    assert named <= mounts(values).keys()


def test_commands_in_the_documents() -> None:
    """What they set is among the values, and renders; their words are those that bash makes."""
    text = "".join(text for language, text in documented() if language == "console")
    lines = [line for line in text.splitlines() if re.match(r"\$ helm (install|upgrade)", line)]
    assert len(lines) >= 4
    for line in lines:
        # Not shlex: unquoted braces are two words to a shell, and one to shlex.
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {line.removeprefix('$ helm ')}"],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        assert words[2] == str(CHART.relative_to(ROOT))
        flags = [word for word in words[3:] if word not in ("--wait", "--reuse-values")]
        assert {*flags[::2]} <= {"--namespace", "--set"}
        pairs = zip(flags[::2], flags[1::2], strict=True)
        given = [f"--set={value}" for flag, value in pairs if flag == "--set"]
        done = helm("template", words[1], *given)
        assert done.code == 0, done.error


def test_privileges_are_those_that_the_agent_knows(tmp_path: Path) -> None:
    """Of each feature alone: the agent's own table has the same."""
    given: dict[str, Values] = {
        "run": {},
        "capture.netns": {"capture": {"netns": ["a"]}},
        "capture.containers": {"capture": {"containers": True}},
        "enrich.processes": {"enrich": {"processes": {}}},
    }
    assert {one.name for one in capabilities.KEYS} == given.keys() - {"run"}
    for config in given.values():
        values = {"config": config}
        wanted = {
            name.removeprefix("CAP_")
            for feature in capabilities.wanted("run", loaded(values, tmp_path))
            for name in feature.needs
        }
        context = pod(values)["containers"][0]["securityContext"]
        assert set(context["capabilities"]["add"]) == wanted


def test_labels_of_flow_metrics_are_those_that_something_adds(tmp_path: Path) -> None:
    """Those of Kubernetes with Kubernetes, those of databases with databases."""
    both = ["ip_protocol", "flow_direction"]

    def labels(values: Values) -> list[str]:
        return list(loaded(values, tmp_path).sinks[0].model_dump()["labels"])

    assert labels({"kubernetes": {"enabled": False}}) == both
    assert len(labels({})) == 8
    found = labels({"kubernetes": {"enabled": False}, "geoip": {"databases": ["a.mmdb"]}})
    assert found[:2] == both
    assert len(found) == 8
    assert all("geo" in one or "_as_" in one for one in found[2:])


#: A key -> another value of it.
_CHANGES: dict[str, Mapping[str, Any]] = {
    "exclude": {"exclude": [{"name": "dns", "when": "destination.port == 53"}]},
    "log_level": {"log_level": "debug"},
    "shutdown_timeout": {"shutdown_timeout": 5},
    "sinks": {"sinks": [{"type": "stdout"}]},
    "sinks.spool": {"sinks": [{"type": "stdout", "spool": {"directory": "/var/spool/x"}}]},
    "enrich.labels": {"enrich": {"labels": {"site": "berlin"}}},
    "enrich.derive": {"enrich": {"derive": [{"name": "a", "value": "'b'"}]}},
    "enrich.names": {"enrich": {"names": {}}},
    "capture": {"capture": {"sampling": 2}},
    "dedupe": {"dedupe": {"mode": "mark"}},
    "agent": {"agent": {"name": "other"}},
    "metrics": {"metrics": {"otlp_interval": 5}},
    "observe": {"observe": {"address": "127.0.0.1:4244"}},
    "spool": {"spool": {"directory": "/var/spool/y"}},
}


def _named(values: Values) -> Values:
    """With a sink that has a name, which a reload knows it by."""
    config = {"sinks": [{"type": "null", "name": "one"}]} | dict(values)
    return {"presets": [], "config": config, "kubernetes": {"enabled": False}}


@pytest.mark.parametrize("change", _CHANGES)
def test_pods_are_replaced_for_what_they_cannot_take_up(change: str, tmp_path: Path) -> None:
    """
    The checksum on the pods changes with a key exactly if a running agent says that it cannot.

    A spool of a sink that is there already is of those, too; of one that comes with the sink, the
    pod is replaced without need.
    """
    before, after = _named({}), _named(_CHANGES[change])
    if change == "sinks.spool":
        spooled = [{"type": "null", "name": "one", "spool": {"directory": "/var/spool/x"}}]
        after = _named({"sinks": spooled})
    sums = [
        one_of(render(values), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        for values in (before, after)
    ]
    old, new = (loaded(values, tmp_path) for values in (before, after))
    assert (sums[0] != sums[1]) is bool(plan(old, new).ignored)


def test_every_section_is_among_the_changes() -> None:
    """A new one is thought of."""
    assert set(Config.model_fields) <= {name.partition(".")[0] for name in _CHANGES}


def test_nodes_of_all_kinds() -> None:
    """Every Linux node of both architectures, whatever its taints; more can be asked for."""
    spec = pod({"nodeMatchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}]})
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    chosen = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert chosen["nodeSelectorTerms"] == [{"matchExpressions": [
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
        {"key": "virtual", "operator": "DoesNotExist"},
    ]}]  # fmt: skip


def _chosen(selector: Mapping[str, str], workloads: list[Object]) -> list[str]:
    """Kinds of the workloads whose pods have all labels of a selector."""
    return [
        one["kind"] for one in workloads
        if selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]  # fmt: skip


def test_objects_choose_their_own_pods() -> None:
    """Agents or the cache, never both; by ports that they have, at names that there are."""
    objects = render(CASES["everything"]) + render(CASES["podmonitor"])[1:]
    pods = [
        one for one in render(CASES["everything"]) if one["kind"] in ("DaemonSet", "Deployment")
    ]
    chosen = {
        (one["kind"], one["metadata"]["name"].removeprefix("t-flow-exporter")): _chosen(
            spec.get("podSelector", selector).get("matchLabels", selector), pods
        )
        for one in objects
        for spec in [one.get("spec", {})]
        for selector in [spec.get("selector") or {}]
        if selector or "podSelector" in spec
    }
    assert chosen == {
        ("DaemonSet", ""): ["DaemonSet"],
        ("Service", "-metrics"): ["DaemonSet"],
        ("ServiceMonitor", ""): ["DaemonSet"],
        ("PodMonitor", ""): ["DaemonSet"],
        ("Deployment", "-kube-cache"): ["Deployment"],
        ("Service", "-kube-cache"): ["Deployment"],
        ("PodDisruptionBudget", "-kube-cache"): ["Deployment"],
        ("NetworkPolicy", "-kube-cache"): ["Deployment"],
    }
    for workload, name in zip(pods, ("metrics", "grpc"), strict=True):
        assert container(workload)["ports"][0]["name"] == name


def test_who_goes_first() -> None:
    """The class that is made is the one that agents have; another, if that is named."""
    objects = render({})
    (made,) = [one for one in objects if one["kind"] == "PriorityClass"]
    spec = one_of(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["priorityClassName"] == made["metadata"]["name"]
    assert (made["value"], made["preemptionPolicy"]) == (1_000_000, "PreemptLowerPriority")
    assert not made.get("globalDefault")
    assert pod(CASES["podmonitor"])["priorityClassName"] == "system-node-critical"
    assert "PriorityClass" not in {one["kind"] for one in render(CASES["podmonitor"])}
    assert "priorityClassName" not in pod({"priorityClass": {"create": False}})


def test_who_may_ask_the_cache() -> None:
    """Nodes, at its one port; it asks the API server, and nobody else. One pod of it stays."""
    objects = render(CASES["everything"])
    policy = one_of(objects, "NetworkPolicy", "t-flow-exporter-kube-cache")["spec"]
    deployment = one_of(objects, "Deployment", "t-flow-exporter-kube-cache")
    (port,) = container(deployment)["ports"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["ingress"] == [{
        "from": [{"ipBlock": {"cidr": "10.0.0.0/16"}}, {"ipBlock": {"cidr": "fd00::/64"}}],
        "ports": [{"port": port["containerPort"], "protocol": "TCP"}],
    }]  # fmt: skip
    (egress,) = policy["egress"]
    assert [one["port"] for one in egress["ports"]] == [443, 6443]
    budget = one_of(objects, "PodDisruptionBudget", "t-flow-exporter-kube-cache")["spec"]
    assert budget["maxUnavailable"] < deployment["spec"]["replicas"]


def test_agents_of_a_cache_may_ask_nobody() -> None:
    """The cache has the role and a token then, and agents have neither."""
    objects = render({"kubeCache": {"enabled": True}})
    roles = {one["metadata"]["name"] for one in objects if one["kind"] == "ClusterRole"}
    assert roles == {"t-flow-exporter-kube-cache"}
    agent = one_of(objects, "DaemonSet")["spec"]["template"]["spec"]
    cache = one_of(objects, "Deployment", "t-flow-exporter-kube-cache")["spec"]["template"]["spec"]
    assert agent["automountServiceAccountToken"] is False
    assert cache["automountServiceAccountToken"] is True
    assert "grpc://t-flow-exporter-kube-cache:50055" in configuration(objects)


def test_without_kubernetes_there_is_no_role() -> None:
    """Nobody asks for anything then."""
    objects = render({"kubernetes": {"enabled": False}})
    assert not [one for one in objects if one["kind"].startswith("ClusterRole")]
    assert one_of(objects, "DaemonSet")["spec"]["template"]["spec"][
        "automountServiceAccountToken"
    ] is False  # fmt: skip


def test_dashboards_and_alerts_as_they_are(tmp_path: Path) -> None:
    """Files are taken over to the letter, their braces included; each dashboard has the label."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    shutil.rmtree(chart / "dashboards", ignore_errors=True)
    (chart / "dashboards").mkdir()
    dashboard = json.dumps({"title": "{{ not ours }}", "panels": ["\n  x"]}, indent=1)
    (chart / "dashboards" / "Flow_top.json").write_text(dashboard)
    rule = {"alert": "A", "expr": "up == 0", "annotations": {"summary": "{{ $labels.node }}"}}
    groups = {"groups": [{"name": "g", "rules": [rule]}]}
    (chart / "files" / "alerts.yaml").write_text(yaml.safe_dump(groups))
    objects = render({"dashboards": {"enabled": True}, "alerts": {"enabled": True}}, chart)
    made = one_of(objects, "ConfigMap", "t-flow-exporter-flow-top")
    assert made["data"]["Flow_top.json"] == f"{dashboard}\n"
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert one_of(objects, "PrometheusRule")["spec"] == groups


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metrics": {"prot": 1}}, "'prot' not allowed"),
        ({"presets": ["kafak"]}, "value must be one of 'prometheus', 'kafka', 'otlp'"),
        ({"presets": ["kafka"]}, "kafka.brokers is needed"),
        ({"presets": ["otlp"]}, "otlp.endpoint is needed"),
        ({"presets": []}, "flows go nowhere"),
        ({"config": {"sinks": "stdout"}}, "config.sinks must be a list"),
        ({"presets": ["netobserv", "prometheus"]}, "no other preset"),
        ({"networkPolicy": {"enabled": True}, "kubeCache": {"enabled": True}}, "nodeCidrs"),
        ({"kubernetes": {"enabled": False}, "kubeCache": {"enabled": True}}, "nobody would ask"),
        ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "one of them off"),
        ({"pin": {"path": "/tmp/x"}}, "does not match pattern"),
        ({"metrics": {"port": 0}}, "minimum"),
        ({"config": {"metrics": {"tls": {"certificate": "/a", "key": "/b", "client_ca": "/c"}}}},
         "the kubelet has no certificate to show"),
        ({"observe": {"enabled": True}}, "observe.tls.secretName is needed"),
        ({"observe": {"enabled": True, "port": 70000}}, "maximum"),
        ({"runAsNonRoot": True}, "goes without pin.enabled"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(values: Values, words: str) -> None:
    """Helm refuses them, and says why."""
    assert words in refused(values)


def test_what_is_installed_by_default() -> None:
    """These objects, and no others."""
    assert sorted(one["kind"] for one in render({})) == [
        "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "PriorityClass", "Service",
        "ServiceAccount",
    ]  # fmt: skip


def test_the_cache_keeps_what_agents_add() -> None:
    """Labels and annotations of both are the same."""
    objects = render(CASES["everything"])
    cache = one_of(objects, "Deployment", "t-flow-exporter-kube-cache")
    arguments = container(cache)["args"]
    assert "--labels=app,example.com/tier" in arguments
    assert "--annotations=owner" in arguments
    assert "--owners=watch" in arguments


def test_dashboards_have_their_labels(tmp_path: Path) -> None:
    """The preset gives flow metrics every label that the boards ask for, once all is turned on."""
    wanted = yaml.safe_load((CHART / "presets-dashboards.yaml").read_text())["sinks"]
    config = loaded(
        {
            "presets": ["prometheus"],
            "geoip": {"hostPath": "/usr/share/GeoIP", "databases": ["a.mmdb"]},
            "config": {"enrich": {"networks": {"cidrs": {"private": ["10.0.0.0/8"]}}}},
        },
        tmp_path,
    )
    sinks: list[Any] = list(config.sinks)
    for one in wanted:
        assert any(
            set(one["labels"]) <= set(sink.labels) and one.get("schema", "otel") == sink.schema_name
            for sink in sinks
        ), one["name"]
