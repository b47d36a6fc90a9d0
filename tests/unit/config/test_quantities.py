"""Durations, sizes and lists as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.quantities import duration, size, words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("500ms", 0.5),
        ("1m", 60),
        ("2h", 7200),
        ("1.5m", 90),
        (".5s", 0.5),
        ("5.s", 5),
        (" 5 s ", 5),
        ("7", 7),
        ("0.25", 0.25),
        ("1m30s", 90),
        ("1h 2m 3s 4ms", 3723.004),
        (3, 3),
        (0.1, 0.1),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    """Units ms, s, m and h, one or several; a number alone is seconds."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "5x", "-5s", "5S", "5 5", "1m30", "5s!", "1e3s", "inf", "1,5s", "5 days"]
)
def test_no_durations(text: str) -> None:
    """Anything else is an error that shows what was written."""
    with pytest.raises(ValueError, match="is not a duration") as caught:
        duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("4096", 4096),
        ("1k", 1000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1Ki", 1024),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        ("64Mi", 64 << 20),
        ("1MB", 10**6),
        ("1.5GiB", 3 << 29),
        ("2G", 2 * 10**9),
        ("3gi", 3 << 30),
        ("12B", 12),
        (77, 77),
    ],
)
def test_sizes(text: Any, octets: int) -> None:
    """Decimal and binary prefixes, in any case; a number alone is octets."""
    assert size(text) == octets


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 TB", "1MiBs", "1,5MiB", "0x10", "1 2"])
def test_no_sizes(text: str) -> None:
    """Anything else is an error that shows what was written."""
    with pytest.raises(ValueError, match="is not a size") as caught:
        size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("eth0", ("eth0",)),
        ("eth0,eth1", ("eth0", "eth1")),
        (" eth0 , eth1 ,", ("eth0", "eth1")),
        ("/^veth/", ("/^veth/",)),
        ("/^veth[0-9]{1,3}$/,lo", ("/^veth[0-9]{1,3}$/", "lo")),
        ("lo,/a{1,2}/,/b{3,4}/,eth0", ("lo", "/a{1,2}/", "/b{3,4}/", "eth0")),
        ("lo, /a{1,2}/ , eth0", ("lo", "/a{1,2}/", "eth0")),
        ("a/b,c", ("a/b", "c")),
        (["eth0", "/a,b/"], ["eth0", "/a,b/"]),
    ],
)
def test_words(text: Any, expected: Any) -> None:
    """Commas separate, but not within /.../; blanks around words do not matter."""
    assert words(text) == expected
