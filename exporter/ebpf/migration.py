"""
Replace pinned maps by maps of another layout, without ever throwing contents away unseen.

::

    start      name -> name:pending      one rename: the old map keeps its contents and its users
    create     name                      the new map is pinned
    drain      name:pending              whoever started it reads what is left
    commit     name:pending is unpinned  or
    revert     name:pending -> name      the new pin goes, the old one is back

A process that died in between left ``name:pending`` behind. The next start finds out where it
stopped: without ``name`` the rename is undone; with it, the old map is handed out to be drained.

Source: fs/libfs.c simple_rename(): a rename within bpffs is atomic.
"""

from __future__ import annotations

import errno as errnos
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import BpfError, PinIncompatible, PinMissing
from exporter.ebpf.maps import Map, MapSpec
from exporter.ebpf.pinning import differences, open_map, unpin

log = logging.getLogger(__name__)

#: What follows a pin's name while its map is being replaced.
SUFFIX = ":pending"


def pending(path: Path) -> Path:
    """Where the old map of a migration is pinned."""
    return path.with_name(path.name + SUFFIX)


def recover(path: Path) -> bool:
    """
    Look after a migration that nobody finished.

    Returns:
        Whether an old map still waits at ``name:pending`` to be drained, beside its successor.

    Raises:
        BpfError: If the file system refuses.
    """
    waiting = pending(path)
    if not _is_there(waiting):
        return False
    if _is_there(path):
        log.warning("%s was not drained: the process that migrated it ended", waiting)
        return True
    log.warning("%s is put back: the process that migrated it ended", waiting)
    _rename(waiting, path)
    return False


def start(path: Path, wanted: MapSpec, *, always: bool = False) -> bool:
    """
    Move a pinned map out of the way if it is not as wanted.

    Args:
        path: Of the pin.
        wanted: What the map must be.
        always: Move it also if it fits: for maps of tail calls, whose contents belong to the
            programs of one version.

    Returns:
        Whether it was moved, now or by a process that did not finish: it is at ``name:pending``.
        False if nothing is pinned or it fits.

    Raises:
        PinIncompatible: If the pin does not fit and an older one still waits to be drained.
        BpfError: If the file system or the kernel refuses.
    """
    waiting = recover(path)
    try:
        with open_map(path) as found:
            differing = differences(found.spec, wanted)
    except PinMissing:
        return False
    if not differing and (waiting or not always):
        return waiting
    if waiting:
        raise PinIncompatible(f"migrate {path} while {pending(path).name} waits", differing)
    _rename(path, pending(path))
    return True


def finalize(path: Path, *, revert: bool) -> bool:
    """
    End a migration: forget the old map, or put it back in the place of the new one.

    Returns:
        False if there is no migration: nothing happens.

    Raises:
        BpfError: If the file system refuses.
    """
    waiting = pending(path)
    if not _is_there(waiting):
        return False
    if revert:
        unpin(path)
        _rename(waiting, path)
    else:
        unpin(waiting)
    return True


class Migration:
    """
    A migration of several maps: ``commit`` it within its ``with`` block, or it is reverted.

    Args:
        directory: Of the pins. Nothing happens before the block.
        wanted: What each pinned map must be, by the name of its pin.
        always: Names of those that are replaced even if they fit.
    """

    def __init__(
        self, directory: Path, wanted: Mapping[str, MapSpec], always: Iterable[str] = ()
    ) -> None:
        self._directory = directory
        self._wanted = dict(wanted)
        self._always = frozenset(always)
        self._open = False
        self.retired: dict[str, Map] = {}

    def __enter__(self) -> Self:
        """
        Move every map that does not fit out of the way. Those to drain are in ``retired``.

        Raises:
            BpfError: If one cannot be moved; those that were are back then.
        """
        self._open = True
        try:
            for name, wanted in self._wanted.items():
                path = self._directory / name
                if start(path, wanted, always=name in self._always):
                    self.retired[name] = open_map(pending(path))
        except BaseException:
            self._end(revert=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._end(revert=True)

    def commit(self) -> None:
        """Forget the retired maps: what they held has been drained. Raises BpfError."""
        self._end(revert=False)

    def _end(self, *, revert: bool) -> None:
        self._open = False
        while self.retired:
            name, retired = self.retired.popitem()
            retired.close()
            finalize(self._directory / name, revert=revert)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as err:
        raise BpfError(f"look at {path}", err.errno or 0) from err
    return True


def _rename(source: Path, target: Path) -> None:
    try:
        _libbpf.rename_new(str(source), str(target))
    except OSError as err:
        if err.errno == errnos.ENOENT:
            raise PinMissing(f"rename {source}", errnos.ENOENT) from err
        raise BpfError(f"rename {source} to {target.name}", err.errno or 0) from err
