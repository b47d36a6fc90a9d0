"""
Objects of Kubernetes as a cluster has them, as dictionaries: what its controllers, its scheduler
and its kubelets would write, and as large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.e2e.truth import Thing

Object = dict[str, Any]
#: Where objects of a kind are, after the namespace.
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
}
_IMAGE = "registry.example.test/shop/web@sha256:" + 64 * "0"
_GROUPS = {"Job": "batch/v1", "CronJob": "batch/v1", "Node": "v1"}


#: Of the template of pods: in the names of ReplicaSets and of their pods.
HASH = "5d4f8c7b9"


def controllers_labels(owner: Object) -> dict[str, str]:
    """What a controller adds to the labels of its pods."""
    kind, name = owner["kind"], owner["metadata"]["name"]
    if kind == "ReplicaSet":
        # Only a Deployment's has it: one that nobody owns adds nothing.
        return {"pod-template-hash": HASH} if name.endswith(f"-{HASH}") else {}
    if kind == "Job":
        return {"batch.kubernetes.io/job-name": name, "job-name": name}
    return {"controller-revision-hash": f"{name}-{HASH}"}


def now() -> str:
    """As Kubernetes writes times: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata(
    name: str, labels: Mapping[str, str] | None = None, owner: Object | None = None
) -> Object:
    """An object's own, with the object that controls it."""
    made: Object = {"name": name, "labels": dict(labels or {})}
    if owner:
        made["ownerReferences"] = [{
            "apiVersion": _GROUPS.get(owner["kind"], "apps/v1"), "kind": owner["kind"],
            "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True,
        }]  # fmt: skip
    return made


def node(name: str, zone: str, addresses: Sequence[str]) -> Object:
    """A node with its addresses, as its kubelet registers it."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "m5.large",
        "topology.kubernetes.io/region": zone[:-1],
        "topology.kubernetes.io/zone": zone,
    }
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "metadata": metadata(name, labels),
        "spec": {"providerID": f"test:///{zone}/{name}"},
        "status": {"addresses": [*listed, {"type": "Hostname", "address": name}]},
    }


def pod(
    name: str,
    node_name: str,
    labels: Mapping[str, str],
    owner: Object | None = None,
    *,
    host_network: bool = False,
    long_lived: bool = True,
) -> Object:
    """A pod that is bound to a node, and has no address yet."""
    container = {
        "name": "main", "image": _IMAGE, "imagePullPolicy": "IfNotPresent",
        "args": ["--listen=:8080", "--log-level=info", "--config=/etc/main/config.yaml"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": f"SETTING_{i}", "value": f"value-{i}" * 3} for i in range(8)]
        + [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"},
                      "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/main", "readOnly": True}],
    }  # fmt: skip
    return {
        "metadata": metadata(name, labels, owner)
        | {"annotations": {"checksum/config": 64 * "a", "example.test/team": "shop"}},
        "spec": {
            "nodeName": node_name,
            "hostNetwork": host_network,
            "containers": [container],
            "restartPolicy": "Always" if long_lived else "Never",
            "volumes": [{"name": "config", "configMap": {"name": "config"}}],
            "tolerations": [
                {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300} for why in ("not-ready", "unreachable")
            ],
        },
    }  # fmt: skip


def pod_status(
    addresses: Sequence[str], host_addresses: Sequence[str], started: str, finished: str = ""
) -> Object:
    """
    What a kubelet says of a pod that has its addresses.

    Args:
        addresses: The pod's, also when it has none any more: it keeps saying what they were.
        host_addresses: The node's.
        started: When the kubelet saw it, before it had an address.
        finished: When its containers ended; empty while they run.
    """
    ended = {"terminated": {"exitCode": 0, "startedAt": started, "finishedAt": finished}}
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
    return {
        "phase": "Succeeded" if finished else "Running",
        "hostIP": host_addresses[0],
        "hostIPs": [{"ip": address} for address in host_addresses],
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "startTime": started,
        "conditions": [
            {"type": kind, "status": str(not finished), "lastTransitionTime": finished or now()}
            for kind in conditions
        ],
        "containerStatuses": [{
            "name": "main", "image": _IMAGE, "imageID": _IMAGE, "ready": not finished,
            "restartCount": 0, "containerID": "containerd://" + 64 * "0",
            "state": ended if finished else {"running": {"startedAt": started}},
        }],
    }  # fmt: skip


def copy_of_pod(
    pattern: Object, thing: Thing, addresses: Sequence[str], host_addresses: Sequence[str]
) -> Object:
    """Another pod that has everything as the pattern has it but what is its own."""
    own = {"name": thing.name, "uid": thing.uid, "labels": dict(thing.labels)}
    status = pattern["status"] | {
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "hostIP": host_addresses[0],
        "hostIPs": [{"ip": address} for address in host_addresses],
    }
    kept = {k: v for k, v in pattern["metadata"].items() if k != "resourceVersion"}
    return pattern | {
        "metadata": kept | own,
        "spec": pattern["spec"] | {"nodeName": thing.node},
        "status": status,
    }


def workload(kind: str, name: str, owner: Object | None = None) -> Object:
    """What owns pods: any kind but a CronJob."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [{"name": "main", "image": _IMAGE}],
            "restartPolicy": "Never" if kind == "Job" else "Always",
        },
    }
    spec: Object = {"template": template}
    if kind != "Job":
        spec["selector"] = {"matchLabels": labels}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"metadata": metadata(name, labels, owner), "spec": spec}


def cron_job(name: str) -> Object:
    """What owns Jobs."""
    spec = {"schedule": "*/5 * * * *", "jobTemplate": {"spec": workload("Job", name)["spec"]}}
    return {"metadata": metadata(name, {"app": name}), "spec": spec}


def service(name: str, families: Sequence[str] = ("IPv4",)) -> Object:
    """A service of the pods labelled with its name; the server gives it addresses."""
    return {
        "metadata": metadata(name, {"app": name}),
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            "ipFamilyPolicy": "PreferDualStack" if len(families) > 1 else "SingleStack",
            "ipFamilies": list(families),
        },
    }


def endpoint_slice(
    name: str, service_name: str, endpoints: Sequence[Object], family: str = "IPv4"
) -> Object:
    """Some of a service's endpoints, as its controller writes them."""
    labels = {
        "kubernetes.io/service-name": service_name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    return {
        "metadata": metadata(name, labels),
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
    }


def endpoint(address: str, thing: Thing) -> Object:
    """A pod as one of a service's endpoints."""
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": thing.node,
        "zone": thing.zone,
        "targetRef": {"kind": thing.kind, "name": thing.name, "namespace": thing.namespace,
                      "uid": thing.uid},
    }  # fmt: skip
