"""Errors of the kernel, as text: the phase, the reason, and of a long log the line that matters."""

from __future__ import annotations

import errno

import pytest

from exporter.ebpf.errors import (
    BpfError,
    KeyExists,
    KeyNotFound,
    MapFull,
    VerifierError,
    map_error,
)

LOG = """\
func#0 @0
0: R1=ctx() R10=fp0
; int tc_ingress(struct __sk_buff *skb)
0: (61) r2 = *(u32 *)(r1 +76)
1: (71) r0 = *(u8 *)(r2 +14)
R2 invalid mem access 'pkt'
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
verification time 12 usec
stack depth 0
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BpfError("load flow.bpf.o"), "load flow.bpf.o"),
        (BpfError("attach", errno.EPERM), "attach: Operation not permitted (EPERM)"),
        (BpfError("open x", 0, "no such map"), "open x: no such map"),
        (
            BpfError("attach", errno.ENODEV, "eth0"),
            "attach: No such device (ENODEV): eth0",
        ),
        (BpfError("load", 524), "load: Unknown error 524 (524)"),
    ],
)
def test_text(error: BpfError, expected: str) -> None:
    """Phase, errno in words and by name, detail: what there is of them."""
    assert str(error) == expected


def test_verifier_error_shows_the_line_that_matters() -> None:
    """The last line before the statistics, how many were left out, and the log as data."""
    error = VerifierError("load program tc_ingress", errno.EACCES, LOG)
    assert str(error) == (
        "load program tc_ingress: Permission denied (EACCES): "
        "R2 invalid mem access 'pkt' (8 line(s) omitted)"
    )
    assert error.log == LOG
    assert error.errno == errno.EACCES


def test_verifier_error_of_libbpf() -> None:
    """The frame that libbpf puts around a log is no reason."""
    framed = f"-- BEGIN PROG LOAD LOG --\n{LOG}-- END PROG LOAD LOG --\n"
    assert "R2 invalid mem access 'pkt'" in str(VerifierError("load", errno.EACCES, framed))


@pytest.mark.parametrize("log", ["", "\n\n"])
def test_verifier_error_without_a_log(log: str) -> None:
    """No log, no line."""
    assert str(VerifierError("load", errno.ENOSPC, log)) == (
        "load: No space left on device (ENOSPC)"
    )


def test_verifier_error_with_statistics_only() -> None:
    """A log without a reason shows its last line rather than nothing."""
    log = "processed 5 insns\nverification time 1 usec"
    assert "verification time 1 usec (1 line(s) omitted)" in str(VerifierError("load", 0, log))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.E2BIG, MapFull),
        (errno.ENOENT, KeyNotFound),
        (errno.EEXIST, KeyExists),
        (errno.EBUSY, BpfError),
    ],
)
def test_map_errors(number: int, kind: type[BpfError]) -> None:
    """What a caller may want to tell apart has its own type."""
    error = map_error("update map m", number)
    assert type(error) is kind
    assert error.errno == number
