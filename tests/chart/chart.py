"""The Helm chart, rendered by the real helm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.arch.source import ROOT
from tests.conftest import missing

CHART = ROOT / "helm" / "flow-exporter"
NAMESPACE = "flows"
RELEASE = "t"

Object = dict[str, Any]
Values = Mapping[str, Any]

_SECRET = {"enabled": True, "secretName": "kafka-files", "certificate": "tls.crt", "key": "tls.key"}

#: Values that are tried everywhere: each preset, and everything that can be turned on together.
CASES: dict[str, Values] = {
    "default": {},
    "kafka": {
        "presets": ["kafka"],
        "kafka": {"brokers": "kafka-1:9093,kafka-2:9093", "tls": _SECRET,
                  "sasl": {"secretName": "kafka-login"}},
    },
    "otlp": {
        "presets": ["otlp"],
        "otlp": {"endpoint": "collector:4317", "tls": {"enabled": True, "secretName": "files"},
                 "bearer": {"secretName": "token"}},
    },
    "netobserv": {"presets": ["netobserv"], "kubernetes": {"enabled": False}},
    "everything": {
        "presets": ["prometheus", "kafka", "otlp"],
        "image": {"repository": "registry.example:5000/flow-exporter",
                  "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "commonLabels": {"team": "network"},
        "podLabels": {"tier": "node"},
        "podAnnotations": {"example.com/note": "1"},
        "kafka": {"brokers": "kafka:9092"},
        "otlp": {"endpoint": "collector:4318", "protocol": "http", "signal": "metrics"},
        "kubernetes": {"owners": "watch", "labels": ["app", "example.com/tier"],
                       "annotations": ["owner"]},
        "kubeCache": {"enabled": True, "priorityClassName": "system-cluster-critical",
                      "nodeSelector": {"pool": "infra"}, "tolerations": [{"operator": "Exists"}]},
        "networkPolicy": {"enabled": True, "nodeCidrs": ["10.0.0.0/16", "fd00::/64"]},
        "spool": {"enabled": True},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"},
                           "relabelings": [{"action": "labeldrop", "regex": "pod"}],
                           "metricRelabelings": [{"action": "keep", "regex": ".+"}],
                           "tlsConfig": {"ca": {"secret": {"name": "ca", "key": "ca.crt"}},
                                         "serverName": "flows.example"}},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Network"}},
        "metrics": {"host": "127.0.0.1", "service": {"annotations": {"example.com/x": "y"}},
                    "tls": {"secretName": "flows-metrics"}},
        "observe": {"enabled": True, "tls": {"secretName": "flows-observe"}},
        "serviceAccount": {"annotations": {"example.com/role": "flows"}},
        "appArmorProfile": {"type": "Unconfined"},
        "seLinuxOptions": {"type": "spc_t"},
        "extraCapabilities": ["SYS_RESOURCE"],
        "nodeSelector": {"flows": "yes"},
        "nodeMatchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}],
        "secrets": [{"name": "files", "secretName": "flows", "optional": True}],
        "extraArgs": ["--log-level=debug"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "geoip": {"databases": ["country.mmdb"], "hostPath": "/usr/share/GeoIP"},
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "config": {
            "capture": {"containers": True, "netns": ["/.*/"], "flow_memory": 268435456},
            "enrich": {"processes": {}, "labels": {"site": "berlin"}},
            "sinks": [{"type": "grpc", "target": "collector:9999",
                       "tls": {"ca": "/etc/flow-exporter/secrets/files/ca.crt"}}],
        },
    },
    "podmonitor": {
        "podMonitor": {"enabled": True, "tlsConfig": {"insecureSkipVerify": True}},
        "metrics": {"service": {"enabled": False}, "tls": {"secretName": "flows-metrics"}},
        "pin": {"enabled": False},
        "runAsNonRoot": True,
        "priorityClass": {"create": False, "name": "system-node-critical"},
        "serviceAccount": {"create": False},
        "maxUnavailable": 1,
        "tolerations": [],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How helm ended."""

    code: int
    output: str
    error: str


def tools() -> Path:
    """Where helm and kubeconform are; what would be shown is missing without them."""
    chosen = os.environ.get("TEST_HELM_CACHE")
    cache = Path(chosen) if chosen else Path.home() / ".cache" / "flow-exporter" / "helm"
    if not (cache / "bin" / "helm").exists():
        missing("helm: run tools/setup-helm.sh, which needs Go")
    return cache / "bin"


def helm(*arguments: str, values: Values | None = None, chart: Path = CHART) -> Done:
    """One command about the chart; it is the last argument but the values."""
    done = subprocess.run(
        [str(tools() / "helm"), *arguments, str(chart), "--values=-"],
        input=json.dumps(values or {}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def render(values: Values, chart: Path = CHART) -> list[Object]:
    """What would be applied, in order. Fails the test if helm does."""
    objects: list[Object] = json.loads(_rendered(json.dumps(values), chart))
    return objects


@cache
def _rendered(values: str, chart: Path) -> str:
    """Many tests render the same. As JSON, of which each has its own copy."""
    given = json.loads(values)
    done = helm("template", RELEASE, f"--namespace={NAMESPACE}", values=given, chart=chart)
    assert done.code == 0, done.error
    loaded = yaml.load_all(done.output, yaml.CSafeLoader)
    return json.dumps([one for one in loaded if one])


def refused(values: Values) -> str:
    """What helm says about values that it does not take."""
    done = helm("template", RELEASE, values=values)
    assert done.code != 0, "helm takes it"
    return done.error


def one_of(objects: list[Object], kind: str, name: str = "t-flow-exporter") -> Object:
    """The object of a kind and name, of which there is one."""
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def container(workload: Object) -> Object:
    """The first container of a DaemonSet or Deployment."""
    found: Object = workload["spec"]["template"]["spec"]["containers"][0]
    return found


def environment(workload: Object) -> dict[str, str]:
    """Of its container, on a node that is called ``node-1`` and has 192.0.2.7."""
    fields = {"spec.nodeName": "node-1", "status.hostIP": "192.0.2.7"}
    return {
        one["name"]: one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container(workload).get("env", [])
    }


def configuration(objects: list[Object]) -> str:
    """The agent's, as YAML."""
    return str(one_of(objects, "ConfigMap")["data"]["config.yaml"])
