"""
Run BCC on a source, in a process of its own.

In its own process because BCC loads clang (some 150 MiB that are never given back), changes the
working directory, and prints what is wrong to standard error instead of raising it. Through its
Python module because libbcc's functions have changed their arguments under one library version.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporter.ebpf import instructions
from exporter.ebpf.bcc.headers import Headers, advice, find, unpacked
from exporter.ebpf.bcc.source import MapDeclaration, Source
from exporter.ebpf.errors import BpfError, CompileError, FeatureMissing
from exporter.ebpf.maps import TYPES as MAP_TYPES
from exporter.ebpf.maps import MapSpec

_CHILD = Path(__file__).with_name("child.py")
_SECONDS = 300
#: What tells BCC from PyPI's package of the same name.
_MARK = "libbcc.py"
_PLACES = ("usr/lib/python3/dist-packages", "usr/lib/python3*/site-packages",
           "usr/lib64/python3*/site-packages", "usr/local/lib/python3*/*-packages")  # fmt: skip
#: clang's first line about an error: where, and what.
_CLANG_ERROR = re.compile(r"^(.*?): (?:fatal )?error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class SettingSpec:
    """A setting: octets that it has, and the value it has if none is chosen."""

    name: str
    size: int
    value: int


@dataclass(frozen=True)
class Compiled:
    """
    What BCC made of a source: equal for equal sources and headers, and not yet in the kernel.

    Args:
        source: What was compiled.
        programs: Instructions by name, with places where maps and settings belong.
        maps: Every map, and for a map of maps what its elements look like, by the map's name.
        settings: Every setting.
        facts: Values of the expressions that were asked for, by expression.
        headers: Which were used, for people.
    """

    source: Source
    programs: Mapping[str, bytes]
    maps: tuple[MapSpec, ...]
    inner: Mapping[str, MapSpec]
    settings: tuple[SettingSpec, ...]
    facts: Mapping[str, int]
    headers: str


def compile_source(
    source: Source,
    facts: Sequence[str] = (),
    *,
    module: Path | None = None,
    headers: Headers | None = None,
) -> Compiled:
    """
    Compile a source. Takes about a second; what was compiled before is remembered.

    Args:
        source: What to compile.
        facts: C integer expressions that the caller wants to know the values of.
        module: Directory that BCC's Python module lies in, instead of looking for it.
        headers: The kernel's headers, instead of looking for them.

    Raises:
        FeatureMissing: If BCC or the headers are missing: what to install.
        CompileError: If the source does not compile: the first error, the whole output as data.
        BpfError: If BCC fails otherwise.
    """
    return _compile(source, tuple(facts), module or find_module(), headers or find())


def find_module(root: Path = Path("/"), path: Sequence[str] | None = None) -> Path:
    """
    The directory that BCC's Python module lies in.

    Args:
        root: Instead of ``/``.
        path: Where to look after the distribution's directories; ``sys.path`` if ``None``.

    Raises:
        FeatureMissing: If there is none, or only PyPI's package of that name, which is another.
    """
    places = [place for pattern in _PLACES for place in sorted(root.glob(pattern))]
    places += [Path(entry) for entry in (sys.path if path is None else path) if entry]
    wrong = None
    for place in places:
        if (place / "bcc" / _MARK).exists():
            return place
        if (place / "bcc").is_dir() or (place / "bcc.py").exists():
            wrong = wrong or place
    if wrong is not None:
        reason = f"{wrong}/bcc is not BCC but another package of that name, such as PyPI's"
        raise FeatureMissing("load BCC", 0, f"{reason}: {advice(root)}")
    raise FeatureMissing("load BCC", 0, f"it is not installed: {advice(root)}")


@functools.lru_cache(maxsize=4)
def _compile(source: Source, facts: tuple[str, ...], module: Path, headers: Headers) -> Compiled:
    questions = _questions(source, facts)
    names = {f"fact_{index}": expression for index, expression in enumerate(questions)}
    with unpacked(headers) as tree:
        functions = _run(source, names, module, tree)
    answers = {e: instructions.constant(functions[name]) for name, e in names.items()}
    return Compiled(
        source=source,
        programs={name: functions[name] for name, _ in source.programs},
        maps=tuple(_spec(declared, answers) for declared in source.maps),
        inner={m.name: _spec(m.inner, answers) for m in source.maps if m.inner},
        settings=tuple(
            SettingSpec(s.name, answers[f"sizeof(setting_{s.name})"], answers[s.value])
            for s in source.settings
        ),
        facts={expression: answers[expression] for expression in facts},
        headers=str(headers),
    )


def _questions(source: Source, facts: tuple[str, ...]) -> list[str]:
    """Expressions whose values are wanted, each once."""
    wanted = [e for declared in _declarations(source) for e in declared.facts().values()]
    for setting in source.settings:
        wanted += [f"sizeof(setting_{setting.name})", setting.value]
    return list(dict.fromkeys([*wanted, *facts]))


def _declarations(source: Source) -> Iterator[MapDeclaration]:
    for declared in source.maps:
        yield declared
        if declared.inner:
            yield declared.inner


def _spec(declared: MapDeclaration, answers: Mapping[str, int]) -> MapSpec:
    facts = {name: answers[expression] for name, expression in declared.facts().items()}
    kind = facts.get("type", 0)
    return MapSpec(
        name=declared.name,
        type=MAP_TYPES.get(kind, str(kind)),
        key_size=facts.get("key_size", 0),
        value_size=facts.get("value_size", 4 if declared.inner else 0),
        max_entries=facts.get("max_entries", 0),
        flags=facts.get("map_flags", 0),
    )


def _run(
    source: Source, facts: Mapping[str, str], module: Path, headers: Headers
) -> dict[str, bytes]:
    """Instructions of every program, and of a function for every fact."""
    request = {
        "text": source.for_bcc(facts),
        "flags": headers.flags(),
        "functions": [*(name for name, _ in source.programs), *facts],
    }
    with TemporaryDirectory(prefix="bcc-") as directory:
        result = Path(directory) / "result"
        try:
            done = subprocess.run(  # noqa: S603  # this interpreter on a file of ours
                [sys.executable, "-I", "-S", str(_CHILD), str(module), str(result)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, **headers.environment()},
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired as err:
            raise BpfError(
                f"compile {source.name} with BCC", 0, f"not done in {_SECONDS} s"
            ) from err
        output = done.stdout + done.stderr
        answer = json.loads(result.read_text()) if result.exists() else {}
    return _functions(source, answer, output, done.returncode)


def _functions(
    source: Source, answer: Mapping[str, Any], output: str, code: int
) -> dict[str, bytes]:
    phase = f"compile {source.name} with BCC"
    found = _CLANG_ERROR.search(output)
    if "functions" in answer:
        return {name: bytes.fromhex(text) for name, text in answer["functions"].items()}
    if found:
        raise CompileError(phase, f"{found[1]}: {found[2]}", output)
    if "error" not in answer:
        raise CompileError(phase, f"BCC ended with code {code}", output)
    raise CompileError(phase, answer["error"], output)
