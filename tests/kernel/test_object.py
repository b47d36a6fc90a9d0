"""Loading: settings, sizes, a choice of programs, and what the verifier says."""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.ebpf.errors import BpfError, VerifierError
from exporter.ebpf.object import Log, Object
from tests.kernel.samples import OTHER, descriptors, load, number, spec

#: struct settings_seen of samples.bpf.c.
SEEN = struct.Struct("<qQHHi6s2x4HII8s")


def seen(settings: dict[str, Any]) -> tuple[Any, ...]:
    """What the program reads of its settings."""
    with Object.load(spec(), settings=settings, programs=["read_settings"]) as loaded:
        assert loaded.programs["read_settings"].test_run(OTHER).retval == 0
        return SEEN.unpack(loaded.maps["settings_seen"].lookup(bytes(4)))


DEFAULT = (-1, 5, 9, 0, -9, bytes(6), 1, 2, 3, 4, 0, 0, b"abc".ljust(8, b"\0"))


#: A process without a capability: it prints what the file says, and what comes of loading it.
UNPRIVILEGED = """
import sys
from pathlib import Path
from exporter.ebpf.errors import BpfError
from exporter.ebpf.object import Object, ObjectSpec

spec = ObjectSpec.open(Path(sys.argv[1]))
for one in spec.programs:
    print(one.name, one.section, one.type, one.instructions > 0)
for one in spec.maps:
    print(one.name, one.type, one.key_size, one.value_size, one.max_entries)
try:
    Object.load(spec)
except BpfError as err:
    sys.exit(f"refused: {err.errno}")
"""


def test_what_a_file_says() -> None:
    """
    Names, sections, types and sizes, read by a process that may have nothing in the kernel; loading
    is what it is refused.
    """
    nothing = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    done = subprocess.run(
        [*nothing, sys.executable, "-c", UNPRIVILEGED, str(spec().path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert {
        "first tc sched_cls True", "drop_experimental xdp xdp True",
        "keep_experimental socket socket_filter True", "probe kprobe/none kprobe True",
        "select_by_first_octet sk_reuseport sk_reuseport True",
    } <= set(said)  # fmt: skip
    assert {"trail array 4 8 1", "jumps prog_array 4 4 3"} <= set(said)
    assert (done.returncode, done.stderr.strip()) == (1, f"refused: {errno.EPERM}")


def test_settings_not_named_keep_the_files() -> None:
    """The program reads what the source says."""
    assert seen({}) == DEFAULT


def test_settings_of_every_kind() -> None:
    """Signed, wide, array, part of a struct, text, enum by name, truth value: all are read."""
    assert seen(
        {
            "delta": -(2**31),
            "wide": 2**64 - 1,
            "ports": [10, 20, 30, 65535],
            "limits": {"high": -5, "mac": [1, 2, 3, 4, 5, 6]},
            "label": "flow",
            "mode": "MODE_ON",
            "on": True,
        }
    ) == (
        -(2**31), 2**64 - 1, 9, 0, -5, b"\1\2\3\4\5\6", 10, 20, 30, 65535, 7, 1,
        b"flow".ljust(8, b"\0"),
    )  # fmt: skip


def test_settings_as_octets() -> None:
    """Octets and NumPy arrays of the right size go in as they are; NumPy numbers are numbers."""
    assert seen(
        {
            "delta": np.int64(-7),
            "wide": bytes(range(8)),
            "ports": np.array([4, 3, 2, 1], np.uint16),
            "limits": {"mac": b"abcdef"},
            "ratio": struct.pack("<d", 1.5),
        }
    ) == (
        -7, 0x0706050403020100, 9, 0, -9, b"abcdef", 4, 3, 2, 1, 0, 0, b"abc".ljust(8, b"\0"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("delta", 2**31, "it is signed and has 32 bits: 2147483648 does not fit"),
        ("wide", -1, "it is unsigned and has 64 bits: -1 does not fit"),
        ("wide", bytes(4), "it has 8 octets, not 4"),
        ("ports", [1, 2], "it has 4 elements, not 2"),
        ("ports", np.array([1, 2, 3, 4], np.uint32), "it has 8 octets, not 16"),
        ("limits", {"hihg": 1}, "it has no member hihg: low, _pad, high, mac, _end"),
        ("mode", "MODE_AUTO", "it is one of MODE_OFF, MODE_ON, not MODE_AUTO"),
        ("ratio", 0.5, "its type has no Python value: give it as 8 octets"),
    ],
)
def test_a_setting_that_does_not_fit(name: str, value: object, message: str) -> None:
    """The error names the object, the setting and why; nothing is loaded."""
    with pytest.raises(
        BpfError,
        match=re.escape(f"set {name} of samples.bpf.o: Invalid argument (EINVAL): {message}"),
    ):
        Object.load(spec(), settings={name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"nothing": 1}}, "no setting named nothing"),
        ({"max_entries": {"nothing": 1}}, "no map named nothing"),
        ({"programs": ["nothing"]}, "no program named nothing"),
    ],
)
def test_names_that_are_not_there(arguments: dict[str, Any], message: str) -> None:
    """Each kind of name is looked up, and the error says which is missing."""
    with pytest.raises(BpfError, match=message):
        Object.load(spec(), **arguments)


def test_only_some_programs() -> None:
    """What is not asked for is not loaded."""
    with load("first") as loaded:
        assert list(loaded.programs) == ["first"]


@pytest.mark.parametrize("octets", [1, 128, 4096, 1 << 20])
def test_the_log_of_a_refused_program(octets: int) -> None:
    """However small the buffer is to begin with, the whole log is there, the useful line first."""
    instructions = {one.name: one.instructions for one in spec("refused").programs}
    assert instructions["refused"] >= 32
    with pytest.raises(VerifierError) as got:
        Object.load(spec("refused"), log=Log(octets=octets))
    error = got.value
    assert error.errno == errno.EACCES
    assert str(error).startswith(
        "load program refused: Permission denied (EACCES): R1 offset is outside of the packet ("
    )
    assert error.log.startswith("0: ")
    assert "invalid access to packet, off=0 size=1" in error.log
    assert "\nprocessed " in error.log
    assert len(error.log) > 1000


def test_the_log_is_the_same_at_any_size() -> None:
    """Growing loses nothing and adds nothing."""
    logs = set()
    for octets in (128, 1 << 16):
        with pytest.raises(VerifierError) as got:
            Object.load(spec("refused"), log=Log(octets=octets))
        logs.add(re.sub(r"verification time.*\n", "", got.value.log))
    assert len(logs) == 1


def test_the_log_of_an_accepted_program() -> None:
    """On request the whole log of a program that loads is there, from a buffer of 128 octets on."""
    assert next(one for one in spec().programs if one.name == "wordy").instructions >= 32
    with Object.load(spec(), programs=["wordy", "first"], log=Log(level=2, octets=128)) as loaded:
        assert loaded.programs["wordy"].test_run(OTHER).octets == len(OTHER)
        log = loaded.programs["wordy"].log
        assert len(log) > 1000
        assert "\n0: " in log
        assert "(95) exit" in log
        assert "\nprocessed " in log
        assert "(95) exit" in loaded.programs["first"].log


@pytest.mark.parametrize("level", [1, 4])
def test_statistics_only(level: int) -> None:
    """Levels 1 and 4 of a program that loads are what the verifier did, not what it saw."""
    with Object.load(spec(), programs=["wordy"], log=Log(level, octets=128)) as loaded:
        assert "processed " in loaded.programs["wordy"].log
        assert "exit" not in loaded.programs["wordy"].log


def test_no_log_unless_asked_for() -> None:
    """A program that loads has an empty log."""
    with load("wordy") as loaded:
        assert loaded.programs["wordy"].log == ""


def test_a_second_load_is_another_object() -> None:
    """Two loads of one spec have their own maps; closing one leaves the other."""
    with load("first") as one:
        with load("first") as other:
            other.programs["first"].test_run(OTHER, 2)
            assert number(other.maps["trail"]) == 11
        assert number(one.maps["trail"]) == 0
        assert one.programs["first"].test_run(OTHER).retval == -1


def test_a_hundred_loads_leave_no_descriptor() -> None:
    """Loads, refused loads and retries with a larger log give back all that they open."""
    before = descriptors()
    for _ in range(100):
        load("first").close()
    for _ in range(10):
        with pytest.raises(VerifierError):
            Object.load(spec("refused"), log=Log(octets=128))
        with pytest.raises(BpfError):
            Object.load(spec(), settings={"delta": "x"})
    assert descriptors() == before


def test_a_second_close() -> None:
    """Close is idempotent, of the object, its programs and its maps."""
    loaded = load("first")
    loaded.close()
    loaded.close()
    loaded.programs["first"].close()
    loaded.maps["trail"].close()


def test_the_errno_of_a_load_is_kept() -> None:
    """A map that the kernel refuses is an error with its errno, and it is no verifier's error."""
    with pytest.raises(BpfError) as got:
        Object.load(spec(), max_entries={"hits": 2**32 - 1}, programs=["first"])
    assert not isinstance(got.value, VerifierError)
    assert got.value.errno in (errno.E2BIG, errno.ENOMEM)
