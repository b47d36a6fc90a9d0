"""The image in a real OCI runtime, as a container runtime of Kubernetes would start it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
#: Where tools/setup-image.sh puts containerd's default profile.
_PROFILE = Path(
    os.environ.get("TEST_SECCOMP_CACHE", Path.home() / ".cache/flow-exporter/seccomp"), "seccomp"
)
#: Debian's word. Another than this machine's can be built and looked at, and is not run.
ARCHITECTURE = os.environ.get(
    "TEST_IMAGE_ARCHITECTURE", "arm64" if platform.machine() == "aarch64" else "amd64"
)
CAPABILITIES = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")


def build(target: Path, umask: int = 0o022, environment: Mapping[str, str] | None = None) -> Path:
    """The image of this checkout: what ``make image`` makes. Skips where it cannot be made."""
    for tool in ("dpkg-deb", "umoci", "eu-strip"):
        if shutil.which(tool) is None:
            missing(f"{tool}: tools/setup-image.sh installs it")
    cache = os.environ.get("IMAGE_CACHE", Path.home() / ".cache/flow-exporter/image")
    if not Path(cache, f"inputs-{ARCHITECTURE}").exists():
        missing(f"packages in {cache}: tools/setup-image.sh fetches them")
    done = subprocess.run(
        ("tools/image.sh", sys.executable, str(target), ARCHITECTURE),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr
    return target / f"image-{ARCHITECTURE}"


def unpack(image: Path, bundle: Path) -> None:
    """With umoci, which reads layers as the specification has them."""
    tag = json.loads((image / "index.json").read_text())["manifests"][0]["annotations"]
    name = tag["org.opencontainers.image.ref.name"]
    command = ("umoci", "unpack", "--image", f"{image}:{name}", str(bundle))
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Security:
    """
    A container's securityContext.

    Args:
        user: runAsUser.
        escalation: allowPrivilegeEscalation: whether a file's capabilities count.
        capabilities: Added to none.
    """

    user: int = 65532
    escalation: bool = True
    capabilities: Sequence[str] = CAPABILITIES


@dataclass(frozen=True)
class Container:
    """
    A pod with hostNetwork, a read-only root and the runtime's default seccomp profile.

    Args:
        bundle: Unpacked.
        security: Who it is.
        volumes: Path inside -> path outside, writable.
    """

    bundle: Path
    security: Security = field(default_factory=Security)
    volumes: Mapping[str, Path] = field(default_factory=dict)

    def program(self, name: str) -> list[str]:
        """An argument vector to which arguments of the agent can be added."""
        if shutil.which("runc") is None:
            missing("runc: tools/setup-image.sh installs it")
        state = self.bundle / "state"
        config = self.bundle / f"{name}.json"
        config.write_text(json.dumps(self._config()))
        return [sys.executable, "-m", "tests.e2e.container", name, str(config), str(state)]

    def _config(self) -> dict[str, Any]:
        """What umoci made of the image's own configuration, with what a pod's would change."""
        config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        granted = list(self.security.capabilities)
        user = self.security.user
        config["process"] |= {
            "terminal": False,
            "user": {"uid": user, "gid": user},
            "noNewPrivileges": not self.security.escalation,
            # As containerd does it: none ambient, so a user that is not root begins with none.
            "capabilities": {
                **dict.fromkeys(("bounding", "effective", "permitted"), granted),
                **{kind: [] for kind in ("inheritable", "ambient")},
            },
        }
        config["root"] = {"path": str(self.bundle / "rootfs"), "readonly": True}
        linux = config["linux"]
        kinds = ("mount", "ipc", "uts", "pid")
        linux["namespaces"] = [{"type": kind} for kind in kinds]
        for key in ("uidMappings", "gidMappings", "resources"):
            linux.pop(key, None)
        config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup"]
        empty = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
        config["mounts"].append({"destination": "/run/flow-exporter", **empty})
        for inside, outside in self.volumes.items():
            bind = {"type": "bind", "source": str(outside), "options": ["rbind", "rw"]}
            config["mounts"].append({"destination": inside, **bind})
        return with_profile(config)


def with_profile(config: dict[str, Any]) -> dict[str, Any]:
    """With containerd's own choice of system calls for these capabilities."""
    if not _PROFILE.exists():
        missing(f"{_PROFILE}: tools/setup-image.sh builds it")
    text = json.dumps(config)
    done = subprocess.run([_PROFILE], input=text, capture_output=True, text=True, check=True)
    changed: dict[str, Any] = json.loads(done.stdout)
    assert changed["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    return changed


def main() -> None:
    """``NAME CONFIG STATE ARGUMENT...``: become runc, and the container its child."""
    name, template, state, *arguments = sys.argv[1:]
    bundle = Path(template).parent / name
    bundle.mkdir(exist_ok=True)
    config = json.loads(Path(template).read_text())
    # The image's entry point stays, its command is replaced.
    config["process"]["args"] = [config["process"]["args"][0], *arguments]
    (bundle / "config.json").write_text(json.dumps(config))
    os.execvp("runc", ["runc", "--root", state, "run", "--bundle", str(bundle), name])


if __name__ == "__main__":
    main()
