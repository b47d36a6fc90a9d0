"""
Everything that this package raises on purpose.

::

    ExporterError
     +-- ConfigError         yours: a flag, a key or a value; exit code 2
     +-- AbiMismatchError    ours: the object was compiled from other headers
     +-- CaptureError        the host's: interfaces, namespaces, privileges
     +-- CaptureFileError    a capture file that is foreign, damaged or cut short
     +-- DecodeError         octets that are no flow records
     +-- ControlError        no running agent answers
     +-- SinkError           theirs: a destination; says whether a retry can help
    ebpf.errors.BpfError     the kernel's: see there

Kernel errors keep their own tree, because ``exporter.ebpf`` stands alone.
"""

from __future__ import annotations


class ExporterError(Exception):
    """Base of everything this package raises on purpose. Its text is one line for the user."""


class ConfigError(ExporterError):
    """A flag, a key or a value that cannot be used. The text says what would do."""


class AbiMismatchError(ExporterError):
    """The compiled object's structs are not those this package reads."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        super().__init__(
            "the compiled object does not fit this package: "
            + "; ".join(differences)
            + ": run 'make setup'"
        )


class CaptureError(ExporterError):
    """The host does not let us capture as asked."""


class CaptureFileError(ExporterError):
    """A capture file cannot be read (further)."""


class DecodeError(ExporterError):
    """Octets that are no flow record, or hold a value that cannot be."""


class ControlError(ExporterError):
    """A running agent was asked for, and none (or no single one) answers."""


class SinkError(ExporterError):
    """
    A destination did not take what it was sent.

    Args:
        reason: A bounded word for counters: ``unavailable``, ``deadline``, ``too_large``, ...
        detail: The destination's own words.
        retryable: Whether sending the same again can succeed.
        rows: How many rows of the message it did not take, if it took the others; ``None`` if it
            took none.
    """

    def __init__(
        self, reason: str, detail: str, *, retryable: bool, rows: int | None = None
    ) -> None:
        self.reason = reason
        self.detail = detail
        self.retryable = retryable
        self.rows = rows
        super().__init__(f"{reason}: {detail}" if detail else reason)
