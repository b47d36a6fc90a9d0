"""
The language: CEL, parsed and checked by its authors' library, which gives the checked tree.

Source: https://github.com/google/cel-spec/blob/master/doc/langdef.md.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from exporter._pb.cel_checked_pb2 import CheckedExpr, Expr, Wrapped
from exporter.enrich.expression.fields import Field
from exporter.errors import ConfigError

#: What an expression may be. The checker itself takes at most 32 levels.
LONGEST, MOST_NODES = 4096, 256
#: Texts whose match is remembered, for one pattern.
_REMEMBERED = 1 << 16
_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'.*")
_ADDRESS = "address"


def problem(column: int, what: str) -> ConfigError:
    """What is wrong with an expression, and where: columns count from 1."""
    return ConfigError(f"column {column}: {what}" if column > 0 else what)


def check(text: str, fields: Mapping[str, Field]) -> CheckedExpr:
    """
    Parse an expression and check its types.

    Args:
        text: One expression.
        fields: What it can refer to.

    Raises:
        ConfigError: In one line, with the column.
    """
    if len(text) > LONGEST:
        raise problem(0, f"{len(text)} characters are too many: at most {LONGEST}")
    try:
        whole = _environment(fields).compile(" ".join(text.splitlines())).serialize()
    except RuntimeError as err:
        raise _explained(str(err), fields) from err
    checked = CheckedExpr.FromString(Wrapped.FromString(whole).value)
    if len(checked.source_info.positions) > MOST_NODES:
        raise problem(0, f"too long: at most {MOST_NODES} names, values and operators")
    return checked


def column_of(checked: CheckedExpr, node: Expr) -> int:
    """Where a node stands, from 1."""
    return checked.source_info.positions[node.id] + 1


def matcher(pattern: str) -> Callable[[str], bool]:
    """
    Whether a text has a match of a pattern, by RE2: linear in the text whatever the pattern.

    Raises:
        ConfigError: If RE2 does not take it.
    """
    try:
        import re2
    except ImportError as err:
        raise _missing("google-re2") from err
    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(pattern, options).search
    except re2.error as err:
        raise problem(0, f"{pattern!r} is not a pattern that RE2 takes") from err
    remembered: dict[str, bool] = {}

    def matches(text: str) -> bool:
        known = remembered.get(text)
        if known is None:
            if len(remembered) >= _REMEMBERED:
                remembered.clear()
            # Names that somebody else chose may be no Unicode.
            valid = text if text.isascii() else text.encode(errors="replace").decode()
            known = remembered[text] = search(valid) is not None
        return known

    return matches


def _missing(name: str) -> ConfigError:
    return ConfigError(f"expressions need {name}: pip install 'flow-exporter[expressions]'")


def _environment(fields: Mapping[str, Field]) -> Any:
    # Imported here: 7 MB that only expressions need.
    try:
        from cel_expr_python import cel
    except ImportError as err:
        raise _missing("cel-expr-python") from err
    text, texts, flag = cel.Type.STRING, cel.Type.List(cel.Type.STRING), cel.Type.BOOL
    kinds = {"address": text, "text": text, "number": cel.Type.INT}
    cidr = [
        cel.Overload("cidr_one", return_type=flag, parameters=[text, text]),
        cel.Overload("cidr_several", return_type=flag, parameters=[text, texts]),
    ]
    return cel.NewEnv(
        variables={name: kinds[field.kind] for name, field in fields.items()},
        functions=[cel.FunctionDecl("cidr", cidr)],
    )


def _explained(message: str, fields: Mapping[str, Field]) -> ConfigError:
    """The library's first error, in one line."""
    found = _ERROR.search(message)
    if found is None:
        first = message.splitlines()[0].removeprefix("CANCELLED: ")
        return problem(0, re.sub(r" \[[A-Z_]+\]$", "", first))
    what = re.sub(r" \[[A-Z_]+\]$", "", found.group(3))
    undeclared = _UNDECLARED.match(what)
    if undeclared:
        what = f"there is no {undeclared.group(1)}"
        near = difflib.get_close_matches(undeclared.group(1), fields, 1, cutoff=0.5)
        what += f": did you mean {near[0]}?" if near else ""
    # The library counts columns of names and operators from 1, of the end of input too.
    return problem(int(found.group(2)), what)
