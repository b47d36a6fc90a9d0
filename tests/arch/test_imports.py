"""
Who may import whom.

Alphabetical order of the rooms is the order in which data flows: a room imports rooms to its left.
``ls exporter/`` is the design.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator

from tests.arch.source import PACKAGE, ROOT, Module, modules

ROOMS = ("abi", "batch", "capture", "dedupe", "enrich", "exclude", "fanout", "replay", "sinks")
#: Any room may import them; they import what stands here.
LEAVES: dict[str, tuple[str, ...]] = {
    # The version, which peers are told.
    "__init__": (),
    # Files with secrets: of sinks, and of what is asked for enrichment.
    "credentials": ("errors",),
    "ebpf": (),
    "errors": (),
    "quantities": (),
    # The accounts are kept in sums over batches.
    "ledger": ("batch",),
    # A server for whoever has something to tell.
    "status": ("errors",),
    # Metrics are made of the ledger; build_info has the version.
    "telemetry": ("batch", "ledger", "__init__"),
}
#: They put everything together.
COMPOSITION = (
    "__main__",
    "cli",
    "cli_completion",
    "cli_consume",
    "cli_doctor",
    "cli_examples",
    "cli_kube_cache",
    "cli_lag",
    "cli_observe",
    "cli_progress",
    "cli_top",
    "config",
    "consume",
    "doctor",
    "fields",
    "flow_text",
    "lag",
    "observe",
    "observe_remote",
    "observe_server",
    "doctor_facts",
    "page",
    "pipeline",
    "reload",
    "service",
    "testing",
    "top",
)
#: Modules beside the rooms that know little.
OTHERS: dict[str, tuple[str, ...]] = {
    "capabilities": ("ebpf", "errors"),
    # For downstream consumers, who have neither sinks nor a kernel.
    "decode": ("_pb", "batch", "errors"),
    "netobserv": ("errors", "quantities"),
    "obi": ("errors", "quantities"),
}
#: Extras that the package imports where they are installed; others are for tests or for libraries.
IMPORTED_EXTRAS = ("confluent", "expressions", "parquet")
#: (room, room) that the rule forbids and a reason allows.
EXCEPTIONS: dict[tuple[str, str], str] = {
    (
        "enrich",
        "_pb",
    ): "checked expressions and what the shared cache of a cluster says are messages",
    ("observe_remote", "_pb"): "what is asked of an agent elsewhere is a message",
    ("observe_server", "_pb"): "and so is what it answers",
}


def allowed(room: str) -> set[str]:
    """Rooms and modules that may be imported from a room."""
    if room in COMPOSITION:
        return {*ROOMS, *LEAVES, *COMPOSITION, *OTHERS}
    if room in ROOMS:
        return {*ROOMS[: ROOMS.index(room)], *LEAVES, room}
    return {*(LEAVES | OTHERS)[room], room}


def imports_of_ours(module: Module) -> Iterator[tuple[str, int]]:
    """Rooms that a module imports from, and the line."""
    for name, line in module.imports():
        if name == "exporter" or name.startswith("exporter."):
            parts = name.split(".")
            is_room = len(parts) > 1 and not parts[1].startswith("__version")
            yield parts[1] if is_room else "__init__", line


def test_every_room_is_known() -> None:
    """A new room or module must be given its place here."""
    known = {*ROOMS, *LEAVES, *COMPOSITION, *OTHERS}
    assert {module.room for module in modules()} == known


def test_rooms_are_in_alphabetical_order() -> None:
    """What ``ls`` shows is the order of the data."""
    assert list(ROOMS) == sorted(ROOMS)
    directories = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert directories == {*ROOMS, "ebpf", "testing", "_pb"}


def test_imports_go_to_the_left() -> None:
    """A module imports from rooms to the left of its own, and from leaves."""
    wrong = [
        f"{module.path}:{line}: {module.room} imports {room}"
        for module in modules()
        for room, line in imports_of_ours(module)
        if room not in allowed(module.room) and (module.room, room) not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_needed() -> None:
    """An exception that nobody uses any more is removed."""
    used = {(module.room, room) for module in modules() for room, _ in imports_of_ours(module)}
    assert set(EXCEPTIONS) <= used


def test_the_rule_finds_what_it_forbids() -> None:
    """The rule is no rubber stamp: to the right, from a leaf, and around a corner is refused."""
    assert "sinks" not in allowed("batch")
    assert "dedupe" not in allowed("ledger")
    assert "config" not in allowed("capture")
    assert "batch" not in allowed("ebpf")
    source = "def f():\n    from exporter.sinks.null import NullSink\n"
    module = Module("exporter.batch.batch", PACKAGE, ast.parse(source))
    assert list(imports_of_ours(module)) == [("sinks", 2)]
    assert "sinks" not in allowed(module.room)


def test_few_modules_talk_c() -> None:
    """ctypes is imported in known places: everything else is Python that cannot crash."""
    found = {
        module.name
        for module in modules()
        for name, _ in module.imports()
        if name.split(".")[0] in ("ctypes", "_ctypes", "cffi")
    }
    assert found == {"exporter.ebpf._libbpf", "exporter.ebpf._perf", "exporter.ebpf._programs"}


def test_what_is_imported_is_declared() -> None:
    """What the package imports is what it depends on, and the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    imported_as = {
        "cel-expr-python": "cel_expr_python",
        "confluent-kafka": "confluent_kafka",
        "google-re2": "re2",
        "googleapis-common-protos": "google",
        "grpcio": "grpc",
        "kafka-python": "kafka",
        "opentelemetry-proto": "opentelemetry",
        "opentelemetry-sdk": "opentelemetry",
        "protobuf": "google",
        "pyyaml": "yaml",
    }
    extras = project["optional-dependencies"]
    texts = project["dependencies"] + [text for name in IMPORTED_EXTRAS for text in extras[name]]
    distributions = [re.split("[<>=~!]", text)[0] for text in texts]
    declared = {imported_as.get(name, name.replace("-", "_")) for name in distributions}
    found = {name.split(".")[0] for module in modules() for name, _ in module.imports()}
    # kafka-python imports it, if it is there, and is three times as fast then.
    assert found - sys.stdlib_module_names - {"exporter"} == declared - {"crc32c"}
