"""docs/reference/ebpf.md: every item of both ancestors, what it is here, which test shows it."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from tests.arch.source import PACKAGE, ROOT

PAGE = ROOT / "docs" / "reference" / "ebpf.md"

#: Public items of ebpfgo, after its documentation's index; interface methods with their type.
EBPFGO = [
    "CleanupProbes", "CreateLPMtrieKey", "GetNumOfPossibleCpus", "KeyValueToBytes", "KtimeToTime",
    "ListProbes", "NewMmapRingBuffer", "NullTerminatedStringToString",
    "ParseFlexibleIntegerLittleEndian", "BaseProgram", "BaseProgram.Close", "BaseProgram.GetFd",
    "BaseProgram.GetLicense", "BaseProgram.GetName", "BaseProgram.GetSection",
    "BaseProgram.GetSize", "BaseProgram.GetType", "BaseProgram.Load", "BaseProgram.Pin",
    "Program", "Program.Attach", "Program.Detach", "EbpfMap", "EbpfMap.CloneTemplate",
    "EbpfMap.Close", "EbpfMap.Create", "EbpfMap.Delete", "EbpfMap.GetFd", "EbpfMap.GetName",
    "EbpfMap.GetNextKey", "EbpfMap.GetNextKeyInt", "EbpfMap.GetNextKeyString",
    "EbpfMap.GetNextKeyUint64", "EbpfMap.GetType", "EbpfMap.Insert", "EbpfMap.Lookup",
    "EbpfMap.LookupInt", "EbpfMap.LookupString", "EbpfMap.LookupUint64", "EbpfMap.Update",
    "EbpfMap.Upsert", "NewMapFromExistingMapByFd", "NewMapFromExistingMapById",
    "NewMapFromExistingMapByPath", "MapType", "KprobeAttachType", "PerfEvents", "NewPerfEvents",
    "PerfEvents.StartForAllProcessesAndCPUs", "PerfEvents.Stop", "ProgramInfo",
    "GetProgramInfoByFd", "GetProgramInfoById", "GetProgramInfoByPath", "ProgramType",
    "SocketFilterAttachParams", "SocketFilterAttachType", "SocketFilterResult", "System",
    "NewDefaultEbpfSystem", "System.LoadElf", "System.Load", "System.GetMaps",
    "System.GetMapByName", "System.GetPrograms", "System.GetProgramByName", "TcAttachParams",
    "TcFlowDirection", "TcProgramType", "XdpAttachMode", "XdpAttachParams", "XdpResult",
]  # fmt: skip

#: Public items of cilium's pkg/bpf (1.16.0-pre), likewise.
CILIUM = [
    "BPFFSRoot", "CheckOrMountFS", "CiliumPath", "DisableMapPreAllocation",
    "EnableMapPreAllocation", "FinalizeBPFFSMigration", "FinalizeMap", "GetMtime", "GetOpenMaps",
    "GetPreAllocateMapFlags", "LoadCollection", "LoadCollectionSpec", "LocalMapName",
    "LocalMapPath", "MapPath", "MkdirBPF", "NewMapOps", "NewMapOps2", "OpenOrCreateMap", "Remove",
    "RepinMap", "StartBPFFSMigration", "TCGlobalsPath", "UnpinLink", "UpdateLink", "Action",
    "BpfMap", "DesiredAction", "DumpCallback", "DumpStats", "NewDumpStats", "EndpointKey",
    "NewEndpointKey", "EndpointKey.String", "EndpointKey.ToIP", "Event", "Event.GetDesiredAction",
    "Event.GetLastError", "EventCallbackFunc", "Handle", "KeyValue", "GetMap", "NewMap",
    "NewMapWithInnerSpec", "Map", "Map.BatchLookup", "Map.CheckAndUpgrade", "Map.Close",
    "Map.Create", "Map.CreateUnpinned", "Map.Delete", "Map.DeleteAll", "Map.Dump",
    "Map.DumpAndSubscribe", "Map.DumpIfExists", "Map.DumpReliablyWithCallback",
    "Map.DumpWithCallback", "Map.DumpWithCallbackIfExists", "Map.FD", "Map.Flags", "Map.GetModel",
    "Map.IsEventsEnabled", "Map.KeySize", "Map.Lookup", "Map.MaxEntries", "Map.Name",
    "Map.NextKey", "Map.NonPrefixedName", "Map.Open", "Map.OpenOrCreate", "Map.Path",
    "Map.Recreate", "Map.SilentDelete", "Map.Type", "Map.Unpin", "Map.UnpinIfExists",
    "Map.Update", "Map.UpdatePressureMetricWithSize", "Map.ValueSize", "Map.WithCache",
    "Map.WithEvents", "Map.WithGroupName", "Map.WithPressureMetric",
    "Map.WithPressureMetricThreshold", "MapKey", "MapOut", "MapValue", "StructBinaryMarshaler",
    "ErrMaxLookup",
]  # fmt: skip

_CODE = re.compile(r"`([^`]+)`")
#: A name of ours: dotted, or a class.
_NAME = re.compile(r"(?:[a-z_]+\.|[A-Z][a-z][A-Za-z]*\b)[\w.]*")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def section(heading: str) -> list[list[str]]:
    """The rows of the tables below a second-level heading that begins so, as cells."""
    text = PAGE.read_text().partition(f"\n## {heading}")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if row[-1] != "shown by" and not row[0].startswith("---")]


ROWS = section("ebpfgo") + section("cilium pkg/bpf")
DEFECTS = section("Defects")


@pytest.mark.parametrize(
    ("heading", "items"), [("ebpfgo", EBPFGO), ("cilium pkg/bpf", CILIUM)], ids=["001", "003"]
)
def test_every_item_has_a_row(heading: str, items: list[str]) -> None:
    """Each public item stands in the first column of its ancestor's table."""
    named = {name for row in section(heading) for name in _CODE.findall(row[0])}
    assert sorted(set(items) - named) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_equivalent_exists(row: list[str]) -> None:
    """Names of ours are there; what is not carried over says why."""
    _, here, _ = row
    if here.startswith("not carried over"):
        assert re.match(r"not carried over: .{10}", here), here
        return
    names = [match[0] for code in _CODE.findall(here) if (match := _NAME.match(code))]
    assert names or "pathlib" in here or "time." in here, here
    for name in names:
        resolve(name)


@pytest.mark.parametrize("row", ROWS + DEFECTS, ids=lambda row: row[0])
def test_the_test_exists(row: list[str]) -> None:
    """Each row names tests, and they are there."""
    found = _TEST.findall(row[-1])
    assert found or row[1].startswith("not carried over"), row
    for path, name in found:
        assert f"def {name}(" in source(path), f"{path}::{name}"


@functools.cache
def classes() -> dict[str, type]:
    """Every class of the runtime by its name."""
    found: dict[str, type] = {}
    for path in sorted((PACKAGE / "ebpf").rglob("[a-z]*.py")):
        dotted = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
        module = importlib.import_module(dotted)
        found |= {name: thing for name, thing in vars(module).items() if isinstance(thing, type)}
    return found


def resolve(name: str) -> object:
    """
    What a name is: of a class of the runtime, or dotted, in full or from exporter.ebpf on.

    Raises:
        LookupError: If there is no such thing.
    """
    first, *rest = name.split(".")
    if first in classes():
        return members(classes()[first], rest)
    for prefix in ("exporter.ebpf.", "exporter.", ""):
        parts = (prefix + name).split(".")
        for length in range(len(parts), 1, -1):
            try:
                found = importlib.import_module(".".join(parts[:length]))
            except ModuleNotFoundError:
                continue
            if found.__name__ not in ("exporter", "exporter.ebpf"):
                return members(found, parts[length:])
    raise LookupError(name)


def members(owner: Any, names: list[str]) -> object:
    """An attribute of an attribute ...; also one that ``__init__`` sets or a field declares."""
    for name in names:
        if hasattr(owner, name):
            owner = getattr(owner, name)
        elif _declares(owner, name):
            return name
        else:
            raise LookupError(f"{owner} has no {name}")
    return owner


def _declares(owner: type, name: str) -> bool:
    bases = [base for base in owner.__mro__ if base.__module__.startswith("exporter.")]
    return any(
        name in getattr(base, "__annotations__", {}) or f"self.{name} = " in inspect.getsource(base)
        for base in bases
    )


def source(path: str) -> str:
    """A test file's text."""
    return Path(ROOT / path).read_text()


def test_every_module_is_listed() -> None:
    """The page's second table has every public module with the first sentences of its docstring."""
    listed = {row[0].strip("`"): row[1] for row in section("Modules") if row[0] != "module"}
    found = {}
    for path in (PACKAGE / "ebpf").rglob("[a-z]*.py"):
        name = path.relative_to(PACKAGE / "ebpf").with_suffix("").as_posix().replace("/", ".")
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[name] = " ".join(said.split("\n\n")[0].split())
    assert listed == found
