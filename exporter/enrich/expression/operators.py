"""What expressions can do with columns: pure functions, linear in rows or in distinct texts."""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.batch.batch import IPV4_PREFIX
from exporter.enrich.expression.values import (
    Address,
    Flags,
    Numbers,
    Text,
    Values,
    joined,
    pairs,
    ranks,
)

#: Kinds that it takes, the kind that it gives, and what it does.
Operator = tuple[tuple[str, ...], str, Callable[..., Any]]
_MOST, _LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min
#: Where the addresses of IPv4 are among those of IPv6.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
#: Network and mask, each as the two words of an address; and whether IPv4 would be in it, though
#: it is of IPv6, as ::/0 is.
Network = tuple[NDArray[np.uint64], NDArray[np.uint64], bool]


def network(text: str, *, whole: bool) -> Network:
    """
    A network to look for.

    Args:
        text: ``10.0.0.0/8``, ``2001:db8::/32``; or an address.
        whole: It must be an address.

    Raises:
        ValueError: If it is neither.
    """
    try:
        found = ipaddress.ip_network(ipaddress.ip_address(text) if whole else text)
    except ValueError as err:
        raise ValueError(f"{text!r}: {_reason(text, whole=whole)}") from err
    address, length = found.network_address.packed, found.prefixlen
    if found.version == 4:
        address, length = IPV4_PREFIX + address, length + 96
    around = found.version == 6 and found != _MAPPED and _MAPPED.subnet_of(found)
    mask = ((1 << 128) - (1 << (128 - length))).to_bytes(16, "big")
    return np.frombuffer(address, np.uint64), np.frombuffer(mask, np.uint64), around


def _reason(text: str, *, whole: bool) -> str:
    if whole:
        return "not an address"
    try:
        network_ = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "not a network such as 10.0.0.0/8"
    return f"has host bits: did you mean {network_}?"


def networks(address: Address, known: list[Network]) -> Flags:
    """Which addresses are in one of some networks."""
    first, second = address.words[..., 0], address.words[..., 1]
    found: Any = np.zeros((), np.bool_)
    for prefix, mask, around in known:
        inside = (second & mask[1] == prefix[1]) & (first & mask[0] == prefix[0])
        if around:
            inside &= (first != 0) | (second & np.uint64(0xFFFFFFFF) != np.uint64(0xFFFF0000))
        found = found | inside
    return np.asarray(found)


def equal_addresses(one: Address, other: Address) -> Flags:
    """Which rows have the same at both."""
    return np.asarray((one.words == other.words).all(axis=-1))


def within(values: Values, known: tuple[Any, ...]) -> Flags:
    """Which values are among some; numbers or texts."""
    if isinstance(values, Text):
        texts = frozenset(known)
        return np.asarray(values.each(texts.__contains__, np.bool_))
    return np.isin(np.asarray(values), np.array(known))


def _saturating(exact: Callable[..., Any]) -> Callable[[Numbers, Numbers], Numbers]:
    """An operation of whole numbers whose results end at those of 64 bits."""

    def run(one: Numbers, other: Numbers) -> Numbers:
        with np.errstate(over="ignore"):
            result = exact(one, other)
        about = exact(np.asarray(one, np.float64), np.asarray(other, np.float64))
        # What has wrapped around is further off than any rounding.
        wrapped = np.abs(about - np.asarray(result, np.float64)) > 2.0**62
        return np.where(wrapped, np.where(about > 0, _MOST, _LEAST), result)

    return run


def _divided(one: Numbers, other: Numbers) -> Numbers:
    """Toward zero, as CEL has it; 0 where the divisor is."""
    safe = np.where(other == 0, 1, other)
    result = np.abs(one) // np.abs(safe) * np.sign(one) * np.sign(safe)
    return np.where(other == 0, 0, result)


def _remainder(one: Numbers, other: Numbers) -> Numbers:
    """With the sign of the dividend, as CEL has it; 0 where the divisor is."""
    return np.where(other == 0, 0, one - _divided(one, other) * other)


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Text, Text], Flags]:
    def run(one: Text, other: Text) -> Flags:
        first, second = ranks(one, other)
        return np.asarray(compare(first, second))

    return run


def _of_text(function: Callable[[str, str], bool]) -> Callable[[Text, Text], Flags]:
    """A function of two texts, called once for each pair that occurs."""

    def run(one: Text, other: Text) -> Flags:
        codes, firsts, seconds = pairs(one.codes, other.codes, len(one.texts), len(other.texts))
        both = zip(firsts, seconds, strict=True)
        known = [function(one.texts[a], other.texts[b]) for a, b in both]
        return np.asarray(np.array(known, np.bool_)[codes])

    return run


def _both(takes: str, gives: str, function: Callable[..., Any]) -> Operator:
    return ((takes, takes), gives, function)


_COMPARISONS: Mapping[str, tuple[Operator, ...]] = {
    sign: (
        _both("number", "flag", compare),
        _both("flag", "flag", compare),
        _both("text", "flag", _compared(compare)),
    )
    for sign, compare in (
        ("==", operator.eq),
        ("!=", operator.ne),
        ("<", operator.lt),
        ("<=", operator.le),
        (">", operator.gt),
        (">=", operator.ge),
    )
}
_ARITHMETIC: Mapping[str, tuple[Operator, ...]] = {
    "+": (
        _both("number", "number", _saturating(operator.add)),
        _both("text", "text", joined),
    ),
    "-": (
        _both("number", "number", _saturating(operator.sub)),
        (("number",), "number", operator.neg),
    ),
    "*": (_both("number", "number", _saturating(operator.mul)),),
    "/": (_both("number", "number", _divided),),
    "%": (_both("number", "number", _remainder),),
}
_FUNCTIONS: Mapping[str, tuple[Operator, ...]] = {
    "&&": (_both("flag", "flag", np.logical_and),),
    "||": (_both("flag", "flag", np.logical_or),),
    "!": ((("flag",), "flag", np.logical_not),),
    "startsWith": (_both("text", "flag", _of_text(str.startswith)),),
    "endsWith": (_both("text", "flag", _of_text(str.endswith)),),
    "contains": (_both("text", "flag", _of_text(str.__contains__)),),
    "size": ((("text",), "number", lambda text: text.each(len, np.int64)),),
}
#: All, by CEL's names for them.
OPERATORS: Mapping[str, tuple[Operator, ...]] = {
    **_COMPARISONS,
    **_ARITHMETIC,
    **_FUNCTIONS,
}
