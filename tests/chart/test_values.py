"""Every value of the chart, however deep, does something."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

from tests.chart.chart import CHART, Object, Values, render

#: What turns everything on; a value that is on or off is shown by the test of what it turns on.
_ON: dict[str, Any] = {"presets": ["prometheus", "kafka", "otlp"], "otlp.signal": "metrics"}
#: What cannot be on together, each tried by itself.
_APART: dict[str, dict[str, Any]] = {
    "podMonitor": {"serviceMonitor.enabled": False, "podMonitor.enabled": True},
    "netobserv": {"presets": ["netobserv"]},
    "tag": {"image.digest": ""},
    "name": {"fullnameOverride": ""},
}
#: Off: it goes without others, or is one of :data:`_APART`.
_OFF = ("podMonitor.enabled", "runAsNonRoot")
#: Values that are not any text, any number or any list of texts.
_FITTING: dict[str, Any] = {
    "image.digest": f"sha256:{'7' * 64}",
    "pin.path": "/sys/fs/bpf/marked",
    "spool.hostPath": "/marked/spool",
    "serviceMonitor.interval": "71s",
    "podMonitor.interval": "73s",
    "networkPolicy.apiServerPorts": [7443],
    "extraCapabilities": ["MARKED"],
    "secrets": [{"name": "marked-files", "secretName": "marked-secret"}],
    "seccompProfile.type": "Localhost",
}
_OBJECTS = {
    *("imagePullSecrets", "netobserv.env", "kubeCache.tolerations", "tolerations", "extraEnv"),
    *("nodeMatchExpressions", "extraVolumes", "extraVolumeMounts"),
    *("serviceMonitor.relabelings", "serviceMonitor.metricRelabelings"),
    *("podMonitor.relabelings", "podMonitor.metricRelabelings"),
}


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each key that is not a section, with what the schema says of it."""
    if schema.get("additionalProperties") is False and "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif path != "global":
        yield path, schema


LEAVES = dict(leaves(json.loads((CHART / "values.schema.json").read_text())))


def marked(number: int, path: str, schema: Mapping[str, Any]) -> Any:
    """A value that nothing else has; of a choice, one that is not the default."""
    if path in _FITTING:
        return _FITTING[path]
    if "enum" in schema:
        return schema["enum"][-1]
    kind, mark = schema.get("type"), f"marked{number}x"
    if kind == "object":
        return {mark: "1"}
    if kind == "array":
        return [{"name": mark}] if path in _OBJECTS else [mark]
    if kind == "integer":
        # Nothing else is so large, and where that is too large, so odd.
        return min(20_000 + number, schema.get("maximum", 1 << 31) - 123)
    return mark


@cache
def values() -> dict[str, Any]:
    """Key -> its marked value; of what is on or off, on."""
    switches = [path for path, schema in LEAVES.items() if schema.get("type") == "boolean"]
    return (
        {path: marked(n, path, schema) for n, (path, schema) in enumerate(LEAVES.items())}
        | {path: path not in _OFF for path in switches}
        | _ON
    )


def nested(flat: Mapping[str, Any]) -> Values:
    """``a.b`` as a section ``a`` with ``b``."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return found


def applied(case: str = "", **change: Any) -> list[Object]:
    """What is rendered of the marked values, with others instead of some."""
    return render(nested(values() | _APART.get(case, {}) | change))


@cache
def rendered() -> str:
    """All of it, and what goes apart."""
    return "\n".join(json.dumps(applied(case)) for case in ("", *_APART))


def _word(value: Any) -> str:
    """The marked one."""
    while not isinstance(value, str | int):
        is_named = isinstance(value, dict) and "name" in value
        value = value["name"] if is_named else next(iter(value))
    return str(value)


_CHOICES = [path for path, schema in LEAVES.items() if "enum" in schema]
_FREE = [path for path, schema in LEAVES.items() if schema.get("type") != "boolean"]


@pytest.mark.parametrize("path", [path for path in _FREE if path not in _CHOICES])
def test_a_value_arrives(path: str) -> None:
    """What it is set to is in what is applied: no key is documented that does nothing."""
    assert _word(values()[path]) in rendered()


def test_a_choice_makes_a_difference() -> None:
    """Its words are not unlike others: something else is applied with another of them."""

    def makes_none(path: str) -> bool:
        case = "netobserv" if path.startswith("netobserv.") else ""
        one, other = (applied(case, **{path: LEAVES[path]["enum"][at]}) for at in (0, -1))
        return one == other

    assert len(_CHOICES) > 10
    with ThreadPoolExecutor(2) as pool:
        found = zip(_CHOICES, pool.map(makes_none, _CHOICES), strict=True)
        assert [path for path, nothing in found if nothing] == []
