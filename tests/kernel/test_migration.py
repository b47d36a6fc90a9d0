"""Maps are replaced without losing what they hold, also when the process dies half-way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.ebpf import migration, pinning
from exporter.ebpf.errors import PinIncompatible
from exporter.ebpf.maps import MapSpec
from exporter.ebpf.migration import Migration
from tests.kernel.bpffs import bpffs

OLD = MapSpec("flows", "hash", 4, 8, 16, 0)
NEW = replace(OLD, max_entries=32)
KEY, VALUE = bytes([1, 0, 0, 0]), bytes(range(8))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with bpffs(tmp_path) as mounted:
        with pinning.open_or_create(mounted / "flows", OLD) as made:
            made.update(KEY, VALUE)
        yield mounted


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if "debug" not in path.name)


def size_and_content(path: Path) -> tuple[int, bool]:
    with pinning.open_map(path) as found:
        return found.spec.max_entries, found.next_key() == KEY


def test_commit(root: Path) -> None:
    """The retired map is read in the block; after the commit only the new one is there."""
    with Migration(root, {"flows": NEW}) as moved:
        assert names(root) == ["flows:pending"]
        with pinning.open_or_create(root / "flows", NEW) as new:
            retired = moved.retired["flows"]
            new.update(KEY, retired.lookup(KEY))
        moved.commit()
    assert names(root) == ["flows"]
    assert size_and_content(root / "flows") == (32, True)


@pytest.mark.parametrize("created", [False, True])
def test_without_a_commit_it_is_reverted(root: Path, created: bool) -> None:
    """An error in the block brings the old map back, whether or not the new one was pinned."""
    with pytest.raises(RuntimeError), Migration(root, {"flows": NEW}):  # noqa: PT012 - the block is tested
        if created:
            pinning.open_or_create(root / "flows", NEW).close()
        raise RuntimeError
    assert names(root) == ["flows"]
    assert size_and_content(root / "flows") == (16, True)


def test_nothing_to_migrate(root: Path) -> None:
    """A map that fits, and one that was never pinned, stay as they are."""
    with Migration(root, {"flows": OLD, "other": NEW}) as moved:
        assert moved.retired == {}
        moved.commit()
    assert names(root) == ["flows"]
    assert not migration.finalize(root / "flows", revert=False)


def test_a_map_that_is_always_replaced(root: Path) -> None:
    """Contents that belong to one version's programs are moved although the layout fits."""
    with Migration(root, {"flows": OLD}, always=["flows"]) as moved:
        assert names(root) == ["flows:pending"]
        pinning.open_or_create(root / "flows", OLD).close()
        moved.commit()
    assert size_and_content(root / "flows") == (16, False)


def test_crash_before_the_new_map(root: Path) -> None:
    """The rename was done and nothing else: the next start undoes it, and begins anew."""
    assert migration.start(root / "flows", NEW)
    assert names(root) == ["flows:pending"]
    with Migration(root, {"flows": NEW}) as moved:
        assert moved.retired["flows"].lookup(KEY) == VALUE
    assert names(root) == ["flows"]
    assert size_and_content(root / "flows") == (16, True)


def test_crash_before_the_commit(root: Path) -> None:
    """
    Both maps are there: the next start hands the old one out to be drained, which cilium would
    throw away.
    """
    assert migration.start(root / "flows", NEW)
    pinning.open_or_create(root / "flows", NEW).close()
    with Migration(root, {"flows": NEW}) as moved:
        assert moved.retired["flows"].lookup(KEY) == VALUE
        assert size_and_content(root / "flows") == (32, False)
        moved.commit()
    assert names(root) == ["flows"]
    assert size_and_content(root / "flows") == (32, False)


def test_a_third_layout_while_one_waits(root: Path) -> None:
    """Refused, with both maps as they were: nobody has read the first one."""
    assert migration.start(root / "flows", NEW)
    pinning.open_or_create(root / "flows", NEW).close()
    third = replace(OLD, value_size=16)
    with pytest.raises(PinIncompatible, match="while flows:pending waits"):
        Migration(root, {"flows": third}).__enter__()
    assert names(root) == ["flows", "flows:pending"]
    assert size_and_content(root / "flows:pending") == (16, True)


def test_all_or_none(root: Path) -> None:
    """If one of several maps cannot be moved, those that were are back."""
    pinning.open_or_create(root / "other", NEW).close()
    (root / "other").rename(root / "other:pending")
    pinning.open_or_create(root / "other", OLD).close()
    with pytest.raises(PinIncompatible):
        Migration(root, {"flows": NEW, "other": NEW}).__enter__()
    assert names(root) == ["flows", "other", "other:pending"]
    assert size_and_content(root / "flows") == (16, True)
