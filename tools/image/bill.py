"""What is in an image, as CycloneDX: from the packages' own metadata, with their SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

#: Fixed, so that the number of a list depends on nothing but what is in it.
_NAMESPACE = uuid.UUID("6c1a1a6e-3f0f-5c0c-9d3c-0f8f0f1d9a25")


def write(inputs: Path, wheel: Path, modified: int) -> str:
    """
    The bill of materials.

    Args:
        inputs: debs/ and wheels/ of the image.
        wheel: The agent.
        modified: When it was written, in Unix seconds.
    """
    agent = _of_wheel(wheel)
    agent.type = ComponentType.APPLICATION
    components = [
        *(_of_package(path) for path in sorted(inputs.glob("debs/*.deb"))),
        *(_of_wheel(path) for path in sorted(inputs.glob("wheels/*.whl"))),
    ]
    names = "\n".join(str(component.purl) for component in (agent, *components))
    bom = Bom(
        components=components,
        serial_number=uuid.uuid5(_NAMESPACE, names),
        metadata=BomMetaData(component=agent, timestamp=datetime.fromtimestamp(modified, UTC)),
    )
    bom.register_dependency(agent, components)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=1) + "\n"


def _of_package(path: Path) -> Component:
    done = subprocess.run(
        ["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True
    )
    fields = Parser().parsestr(done.stdout)
    qualifiers = {"arch": fields["Architecture"], "distro": "debian-12"}
    name, version = fields["Package"], fields["Version"]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"deb/{name}",
        description=fields["Description"].split("\n", 1)[0],
        hashes=_hashes(path),
        purl=PackageURL("deb", "debian", name, version, qualifiers),
    )


def _of_wheel(path: Path) -> Component:
    with zipfile.ZipFile(path) as archive:
        place = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(place).decode(), headersonly=True)
    name, version = fields["Name"], fields["Version"]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=f"pypi/{name}",
        description=fields["Summary"],
        hashes=_hashes(path),
        licenses=[LicenseFactory().make_from_string(text) for text in _licence(fields)],
        purl=PackageURL("pypi", None, name.lower().replace("_", "-"), version),
    )


def _licence(fields: Message) -> Iterator[str]:
    """What the package says of itself; some put the whole text where a name belongs."""
    text = fields["License-Expression"] or fields["License"] or ""
    if text and "\n" not in text:
        yield text


def _hashes(path: Path) -> list[HashType]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
