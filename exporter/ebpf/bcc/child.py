"""
Compile with BCC, in a process of its own: ``python -I -S child.py DIRECTORY RESULT < request``.

Uses nothing but the standard library and the ``bcc`` that lies in DIRECTORY. The request is
{"text": C, "flags": [...], "functions": [...]} as JSON, the answer in the file RESULT either
{"functions": {name: instructions as hex}} or {"error": reason}.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def compile_with(bcc: Any, request: dict[str, Any]) -> dict[str, Any]:
    """
    What BCC makes of a request.

    Args:
        bcc: The module.
        request: As above.
    """
    if not hasattr(bcc, "BPF"):
        return {"error": f"the module {bcc.__file__} is not BCC: it has no BPF"}
    try:
        compiled = bcc.BPF(text=request["text"].encode(), cflags=request["flags"])
    except Exception as err:  # noqa: BLE001  # BCC raises nothing more precise
        return {"error": str(err)}
    return {
        "functions": {
            name: compiled.dump_func(name.encode()).hex() for name in request["functions"]
        }
    }


def main() -> None:
    """Answer the one request on standard input."""
    directory, result = sys.argv[1:3]
    sys.path.append(directory)
    try:
        bcc = importlib.import_module("bcc")
    except (ImportError, OSError, SyntaxError) as err:
        answer = {"error": f"{directory}/bcc cannot be imported: {err}"}
    else:
        answer = compile_with(bcc, json.load(sys.stdin))
    Path(result).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
