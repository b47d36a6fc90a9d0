"""
What can go wrong between this process and the kernel's bpf(2).

::

    BpfError                 the kernel or libbpf refused; says the phase, the object and errno
     +-- VerifierError       the verifier refused a program; the whole log is data
     +-- CompileError        a C source does not compile on this host; the whole output is data
     +-- FeatureMissing      this kernel, or this host, lacks something that was asked for
     +-- MapFull             no room for another key (E2BIG)
     +-- KeyNotFound         no such key (ENOENT)
     +-- KeyExists           the key is there already (EEXIST)
     +-- DumpIncomplete      a walk was interrupted more often than it may be
     +-- AttachRefused       a hook could not be taken without harming somebody else's
     +-- SubscriberSlow      a follower of a map's events did not read them in time
     +-- SubscribersFull     as many follow a map's events as may
     +-- PinMissing          nothing is pinned at a path (ENOENT)
     +-- PinIncompatible     what is pinned is another map than was asked for; nothing was touched
     +-- LinkDefunct         the link's interface is gone (ENOLINK)
"""

from __future__ import annotations

import errno as errnos
import os


class BpfError(Exception):
    """A bpf(2), libbpf or netlink call failed. ``errno`` is 0 where there is none."""

    def __init__(self, phase: str, errno: int = 0, detail: str = "") -> None:
        self.phase = phase
        self.errno = errno
        self.detail = detail
        super().__init__(phase, errno, detail)

    def __str__(self) -> str:
        parts = [self.phase]
        if self.errno:
            name = errnos.errorcode.get(self.errno, str(self.errno))
            parts.append(f"{os.strerror(self.errno)} ({name})")
        if self.detail:
            parts.append(self.detail)
        return ": ".join(parts)


class VerifierError(BpfError):
    """The verifier refused a program. ``log`` is its whole log; the message is the useful line."""

    def __init__(self, phase: str, errno: int, log: str) -> None:
        self.log = log
        lines = [line for line in log.splitlines() if line.strip()]
        reason = _verdict(lines)
        omitted = len(lines) - 1
        super().__init__(phase, errno, f"{reason} ({omitted} line(s) omitted)" if lines else "")


class CompileError(BpfError):
    """A source did not compile. ``log`` is the whole output; the message is its first error."""

    def __init__(self, phase: str, detail: str, log: str) -> None:
        self.log = log
        super().__init__(phase, 0, detail)


class FeatureMissing(BpfError):
    """Something this kernel or host does not have. The message says what to do about it."""


class MapFull(BpfError):
    """The map has no room for another key."""


class KeyNotFound(BpfError):
    """The map has no such key."""


class KeyExists(BpfError):
    """The key must be new and is not."""


class DumpIncomplete(BpfError):
    """A map changed so fast that the bound on look-ups was reached before its end."""


class AttachRefused(BpfError):
    """The hook cannot be taken without removing what somebody else put there."""


class SubscriberSlow(BpfError):
    """A follower of a map's events did not read them in time: it misses those from here on."""


class SubscribersFull(BpfError):
    """As many follow a map's events as may."""


class PinMissing(BpfError):
    """Nothing is pinned there."""


class PinIncompatible(BpfError):
    """
    What is pinned differs from what was asked for, and was left alone.

    ``differences`` has one text for each property, as in ``max_entries: pinned 8, wanted 16``.
    """

    def __init__(self, phase: str, differences: list[str]) -> None:
        self.differences = differences
        super().__init__(phase, 0, "; ".join(differences))


class LinkDefunct(BpfError):
    """The link is still there and its interface is not: it can only be unpinned."""


_BY_ERRNO: dict[int, type[BpfError]] = {
    errnos.E2BIG: MapFull,
    errnos.ENOENT: KeyNotFound,
    errnos.EEXIST: KeyExists,
}


def map_error(phase: str, errno: int, detail: str = "") -> BpfError:
    """The error of a map operation that failed with ``errno`` (positive)."""
    return _BY_ERRNO.get(errno, BpfError)(phase, errno, detail)


def _verdict(lines: list[str]) -> str:
    """
    The last line that says why: after it come only statistics and libbpf's frame.

    Source: kernel/bpf/verifier.c print_verification_stats().
    """
    chatter = ("processed ", "verification time", "stack depth", "-- END", "peak_states")
    for line in reversed(lines):
        if not line.startswith(chatter):
            return line.strip()
    return lines[-1].strip() if lines else ""
