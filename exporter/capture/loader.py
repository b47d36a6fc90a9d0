"""
How the kernel program comes into the kernel: the packaged object by libbpf, or its source by BCC.

Both give the same maps and programs. What was chosen at the first load stays chosen.
"""

from __future__ import annotations

import errno as errnos
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.abi.check import check, check_facts, facts
from exporter.ebpf.errors import BpfError, FeatureMissing, VerifierError
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.object import Object, ObjectSpec
from exporter.errors import CaptureError

log = logging.getLogger(__name__)

Loader = Literal["auto", "libbpf", "bcc"]

OBJECT_PATH = Path(__file__).with_name("flow.bpf.o")
SOURCE_PATH = Path(__file__).with_name("flow.bpf.c")

#: Errors that say nothing of the object: another one would meet them too.
_NOT_THE_OBJECTS = (errnos.EPERM, errnos.ENOMEM, errnos.EMFILE, errnos.ENFILE)


@dataclass(frozen=True)
class _Way:
    """One of the two ways: the maps that the program has, and what brings it into the kernel."""

    maps: tuple[MapSpec, ...]
    load: Callable[..., Object]


class KernelProgram:
    """
    The kernel program, by whichever loader.

    Args:
        loader: ``libbpf`` loads the packaged object, ``bcc`` compiles the source here; ``auto``
            does the second where the first fails. Nothing happens before :meth:`load`.
        object_path: The packaged object.
        source_path: The packaged source.
    """

    def __init__(
        self, loader: Loader, object_path: Path = OBJECT_PATH, source_path: Path = SOURCE_PATH
    ) -> None:
        self._loader: Loader = loader
        self._object_path = object_path
        self._source_path = source_path
        self._way: _Way | None = None
        self._loaded = False
        #: Why BCC stepped in; until it has loaded.
        self._reason: BpfError | CaptureError | None = None

    def maps(self) -> tuple[MapSpec, ...]:
        """
        The program's maps. Nothing enters the kernel yet.

        Raises:
            CaptureError, AbiMismatchError, FeatureMissing, BpfError: As :meth:`load`.
        """
        return self._prepared().maps

    def load(
        self,
        *,
        settings: Mapping[str, int],
        max_entries: Mapping[str, int] | None = None,
        share: Mapping[str, Map] | None = None,
    ) -> Object:
        """
        Bring a copy of the program into the kernel.

        Args:
            settings: Values of the program's settings.
            max_entries: Sizes of maps, by name, instead of the program's.
            share: Maps, by name, that are used instead of new ones. They stay their owner's.

        Raises:
            CaptureError: If the object is not there; or, with ``auto``, if it cannot be loaded and
                BCC is no way out: both reasons.
            AbiMismatchError: If it was compiled from other headers.
            FeatureMissing: If libbpf, BCC or the kernel's headers are not installed.
            BpfError: If the kernel refuses it.
        """
        arguments = {"settings": settings, "max_entries": max_entries, "share": share}
        try:
            loaded = self._prepared().load(**arguments)
        except BpfError as err:
            if self._reason is not None:
                raise _neither(self._reason, err) from err
            if self._loaded or not self._may_step_in(err):
                raise
            self._way, self._reason = self._second_way(err), err
            return self.load(settings=settings, max_entries=max_entries, share=share)
        if self._reason is not None:
            log.warning(
                "compiled the kernel program with BCC, for the packaged one failed: %s",
                self._reason,
            )
        self._loaded, self._reason = True, None
        return loaded

    def _prepared(self) -> _Way:
        if self._way is not None:
            return self._way
        if self._loader == "bcc":
            self._way = self._compiled()
            return self._way
        try:
            self._way = self._packaged()
        except (BpfError, CaptureError) as err:
            if not self._may_step_in(err):
                raise
            self._way, self._reason = self._second_way(err), err
        return self._way

    def _may_step_in(self, err: BpfError | CaptureError) -> bool:
        return self._loader == "auto" and _concerns_the_object(err)

    def _second_way(self, reason: BpfError | CaptureError) -> _Way:
        try:
            return self._compiled()
        except BpfError as err:
            raise _neither(reason, err) from err

    def _packaged(self) -> _Way:
        if not self._object_path.exists():
            raise CaptureError(
                f"the kernel program {self._object_path} is missing: run 'make setup'"
            )
        spec = ObjectSpec.open(self._object_path)
        check(spec.btf)
        return _Way(spec.maps, lambda **arguments: Object.load(spec, **arguments))

    def _compiled(self) -> _Way:
        # Its modules cost time and memory that an agent with the packaged object does not have to
        # pay.
        from exporter.ebpf.bcc.compiler import compile_source
        from exporter.ebpf.bcc.program import load
        from exporter.ebpf.bcc.source import Source

        compiled = compile_source(Source.read(self._source_path), facts())
        check_facts(compiled.facts)
        log.info("compiled the kernel program with BCC and the headers in %s", compiled.headers)
        return _Way(compiled.maps, lambda **arguments: load(compiled, **arguments))


def _neither(first: BpfError | CaptureError, second: BpfError) -> CaptureError:
    return CaptureError(f"{first}; nor by BCC: {second}")


def _concerns_the_object(err: BpfError | CaptureError) -> bool:
    if isinstance(err, FeatureMissing):
        return False  # libbpf, which BCC's programs are loaded through, too
    if isinstance(err, BpfError) and not isinstance(err, VerifierError):
        return err.errno not in _NOT_THE_OBJECTS
    return True
