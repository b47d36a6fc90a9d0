"""
Images of several machines under one name: ``join.py TARGET IMAGE...``, each an OCI layout.

Whoever pulls the name gets the image of its own machine. Source: OCI image specification, image
index.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_NAME = "org.opencontainers.image.ref.name"


def main() -> None:
    """Write TARGET anew, and print the digest of the index."""
    target, *images = map(Path, sys.argv[1:])
    shutil.rmtree(target, ignore_errors=True)
    for image in images:
        shutil.copytree(image, target, dirs_exist_ok=True)
    blobs = target / "blobs/sha256"
    manifests = [_described(image) for image in images]
    names = {manifest.pop("annotations")[_NAME] for manifest in manifests}
    if len(names) != 1:
        sys.exit(f"image: these are of different versions: {', '.join(sorted(names))}")
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    content = json.dumps(index, separators=(",", ":")).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    entry = {
        "mediaType": _INDEX,
        "digest": f"sha256:{digest}",
        "size": len(content),
        "annotations": {_NAME: names.pop()},
    }
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    print(f"sha256:{digest}")


def _described(image: Path) -> dict[str, Any]:
    """The descriptor of an image's manifest, with the machine that its configuration names."""
    descriptor: dict[str, Any] = json.loads((image / "index.json").read_text())["manifests"][0]
    manifest = _blob(image, descriptor)
    config = _blob(image, manifest["config"])
    platform = {"architecture": config["architecture"], "os": config["os"]}
    return {**descriptor, "platform": platform}


def _blob(image: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    algorithm, _, digest = descriptor["digest"].partition(":")
    found: dict[str, Any] = json.loads((image / "blobs" / algorithm / digest).read_text())
    return found


if __name__ == "__main__":
    main()
