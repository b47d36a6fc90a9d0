"""
An expression, ready to be evaluated on batch after batch.

Every operator is one or a few operations on whole columns, every function of text one call for each
distinct text: time is linear in rows and in the expression's length, whatever the values are. There
are no loops, and there is nothing that can fail: what is not known is the empty text or 0, and what
is divided by 0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter._pb.cel_checked_pb2 import CheckedExpr, Expr
from exporter.batch.batch import FlowBatch
from exporter.enrich.expression import language
from exporter.enrich.expression.fields import Field
from exporter.enrich.expression.operators import (
    OPERATORS,
    equal_addresses,
    network,
    networks,
    within,
)
from exporter.enrich.expression.values import Address, Flags, Text, Values, chosen, constant
from exporter.errors import ConfigError

#: Values of fields by name, read once for each batch.
_Read = Callable[[str], Values]
_Run = Callable[[_Read], Values]


@dataclass(frozen=True)
class _Node:
    """
    Part of an expression.

    Args:
        kind: ``flag``, ``number``, ``text``, ``address`` or ``list``.
        run: Evaluates it; a list only has a constant.
        constant: Its value, if it is one and is no name.
    """

    kind: str
    run: _Run
    constant: Any = None


class Program:
    """
    An expression.

    Args:
        text: As written.
        fields: What it can refer to.

    Raises:
        ConfigError: In one line, with the column.
    """

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        checked = language.check(text, fields)
        root = _Compiler(checked, fields).node(checked.expr)
        self.kind, self._run, self._fields = root.kind, root.run, fields

    def evaluate(self, batch: FlowBatch) -> Values:
        """Of every row; a single value if it is the same for all."""
        values: dict[str, Values] = {}

        def read(name: str) -> Values:
            if name not in values:
                values[name] = self._fields[name].read(batch)
            return values[name]

        return self._run(read)

    def flags(self, batch: FlowBatch) -> Flags:
        """Of every row of a batch, bool, shape (n,), if its kind is ``flag``."""
        return np.broadcast_to(np.asarray(self.evaluate(batch), np.bool_), len(batch))


class _Compiler:
    """Makes nodes of a checked tree."""

    def __init__(self, checked: CheckedExpr, fields: Mapping[str, Field]) -> None:
        self._checked = checked
        self._fields = fields

    def node(self, tree: Expr) -> _Node:
        kind = tree.WhichOneof("expr_kind")
        if kind == "const_expr":
            return self._constant(tree)
        if kind == "ident_expr":
            return self._name(tree)
        if kind == "list_expr":
            return self._list(tree)
        if kind == "call_expr":
            return self._call(tree)
        raise self._problem(tree, "only names, values, operators and functions are possible here")

    def _problem(self, tree: Expr, what: str) -> ConfigError:
        return language.problem(language.column_of(self._checked, tree), what)

    def _constant(self, tree: Expr) -> _Node:
        which = tree.const_expr.WhichOneof("constant_kind")
        value = getattr(tree.const_expr, which or "null_value")
        if which == "string_value":
            text = constant(value)
            return _Node("text", lambda _read: text, value)
        if which in ("int64_value", "bool_value"):
            number: Any = np.asarray(value)
            kind = "flag" if which == "bool_value" else "number"
            return _Node(kind, lambda _read: number, value)
        raise self._problem(tree, "only texts, whole numbers, true and false are possible here")

    def _name(self, tree: Expr) -> _Node:
        name = tree.ident_expr.name
        if name not in self._fields:
            raise self._problem(tree, f"{name} is no value")
        return _Node(self._fields[name].kind, lambda read: read(name))

    def _list(self, tree: Expr) -> _Node:
        elements = [self.node(element) for element in tree.list_expr.elements]
        if any(one.constant is None for one in elements):
            raise self._problem(tree, "a list can only have texts and numbers")
        if len({one.kind for one in elements}) != 1:
            raise self._problem(tree, "a list has values of one type, at least one")
        values = tuple(one.constant for one in elements)
        return _Node("list", elements[0].run, values)

    def _call(self, tree: Expr) -> _Node:
        call = tree.call_expr
        targets = [call.target] if call.HasField("target") else []
        nodes = [self.node(argument) for argument in (*targets, *call.args)]
        name = call.function.strip("_@")
        if name in ("==", "!=", "in") and nodes[0].kind == "address":
            return self._equal(tree, name, nodes)
        if name in ("==", "!=") and nodes[1].kind == "address":
            return self._equal(tree, name, nodes[::-1])
        if name == "cidr":
            return self._cidr(tree, nodes)
        if name == "?_:":
            return self._choice(tree, nodes)
        if any(node.kind == "address" for node in nodes):
            raise self._problem(
                tree, "an address can only be compared with ==, != and in, or cidr()"
            )
        if name == "matches":
            return self._matches(tree, nodes)
        return self._plain(tree, name, nodes)

    def _plain(self, tree: Expr, name: str, nodes: list[_Node]) -> _Node:
        """Operators and functions that take columns and give one."""
        kinds = tuple(node.kind for node in nodes)
        if name == "in" and kinds[1] == "list":
            values = nodes[1].constant
            return _Node("flag", lambda read: within(nodes[0].run(read), values))
        for takes, gives, function in OPERATORS.get(name, ()):
            if takes == kinds:
                return _Node(gives, _applied(function, nodes))
        raise self._problem(tree, f"{name} is not possible here with {' and '.join(kinds)}")

    def _choice(self, tree: Expr, nodes: list[_Node]) -> _Node:
        condition, one, other = nodes
        if one.kind != other.kind or one.kind == "list":
            raise self._problem(tree, "both values of ? : must be of one type")
        run = _applied(chosen, [condition, one, other])
        return _Node(one.kind, run)

    def _matches(self, tree: Expr, nodes: list[_Node]) -> _Node:
        pattern = nodes[1].constant
        if pattern is None:
            raise self._problem(tree, "matches() needs a pattern that is written out")
        try:
            matches = language.matcher(pattern)
        except ConfigError as err:
            raise self._problem(tree, str(err)) from err

        def run(read: _Read) -> Values:
            text = nodes[0].run(read)
            assert isinstance(text, Text)
            return np.asarray(text.each(matches, np.bool_))

        return _Node("flag", run)

    def _equal(self, tree: Expr, name: str, nodes: list[_Node]) -> _Node:
        """An address and another one, or such as are written out."""
        one, other = nodes
        if other.kind == "address":
            run = _applied(equal_addresses, nodes)
        elif other.constant is None:
            raise self._problem(tree, "an address can be compared with one that is written out")
        else:
            run = self._within(tree, one, other.constant, network_=False)
        if name != "!=":
            return _Node("flag", run)
        return _Node("flag", lambda read: np.logical_not(np.asarray(run(read))))

    def _cidr(self, tree: Expr, nodes: list[_Node]) -> _Node:
        one, other = nodes
        if one.kind != "address":
            raise self._problem(tree, "cidr() takes source.address or destination.address")
        if other.constant is None:
            raise self._problem(tree, "cidr() needs networks that are written out")
        return _Node("flag", self._within(tree, one, other.constant, network_=True))

    def _within(self, tree: Expr, one: _Node, given: Any, *, network_: bool) -> _Run:
        texts = given if isinstance(given, tuple) else (given,)
        try:
            known = [network(text, whole=not network_) for text in texts]
        except ValueError as err:
            raise self._problem(tree, str(err)) from err

        def run(read: _Read) -> Values:
            address = one.run(read)
            assert isinstance(address, Address)
            return networks(address, known)

        return run


def _applied(function: Callable[..., Values], nodes: list[_Node]) -> _Run:
    runs = [node.run for node in nodes]
    return lambda read: function(*(run(read) for run in runs))
