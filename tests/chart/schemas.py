"""
Schemas for kubeconform, made of what a real API server says of its objects and of the Prometheus
operator's own definitions. What they do not know is wrong, as ``kubectl --validate=strict`` has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

#: Where kubeconform looks, by what an object says of itself.
LOCATION = "{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"
_PREFIX = "#/definitions/"
#: Written as a text or as a number.
_EITHER: Schema = {"oneOf": [{"type": "string"}, {"type": "number"}]}
_NAMES = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _EITHER,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": _EITHER,
}


def write_kinds(openapi: Mapping[str, Any], directory: Path) -> int:
    """
    A file for each kind that the server knows; how many.

    Args:
        openapi: The server's /openapi/v2.
        directory: For the files.
    """
    definitions = {
        name: _NAMES.get(name) or _strict(what) for name, what in openapi["definitions"].items()
    }
    count = 0
    for name, what in definitions.items():
        for one in what.get("x-kubernetes-group-version-kind", ()):
            needed = sorted(_closure(name, definitions))
            kept = {each: definitions[each] for each in needed}
            _write(directory, one["group"], one["version"], one["kind"],
                   {"$ref": _PREFIX + name, "definitions": kept})  # fmt: skip
            count += 1
    return count


def write_custom(definition: Path, directory: Path) -> Schema:
    """
    A file for each version of a CustomResourceDefinition; the definition, for a server.
    """
    found: Schema = yaml.safe_load(definition.read_text())
    spec = found["spec"]
    for version in spec["versions"]:
        schema = _strict(version["schema"]["openAPIV3Schema"])
        _write(directory, spec["group"], version["name"], spec["names"]["kind"], schema)
    return found


def _write(directory: Path, group: str, version: str, kind: str, schema: Schema) -> None:
    # kubeconform takes the version for the group of the core's objects, which have none.
    path = directory / f"{group or version}_{version}_{kind.lower()}.json"
    path.write_text(json.dumps(schema))


def _strict(schema: Any) -> Any:
    """With no room for keys that it does not know."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return _EITHER
    made = {key: _strict(value) for key, value in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def _closure(name: str, definitions: Mapping[str, Schema]) -> set[str]:
    """A definition and all that it refers to."""
    found, todo = {name}, [name]
    while todo:
        for reference in _references(definitions[todo.pop()]):
            if reference not in found:
                found.add(reference)
                todo.append(reference)
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for one in schema:
            yield from _references(one)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_PREFIX)
        for one in schema.values():
            yield from _references(one)
