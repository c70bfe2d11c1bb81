"""Runs inside a student's kernel: evaluate an answer on given inputs and send the values out as JSON text.

Also runs what a student added to one of the course's cells.

The expected values are not available here, and nothing is scored: the student's code runs in the same process.
"""

from __future__ import annotations

import ast
import base64
import json
import pickle
import random
import sys
from collections.abc import Sized
from typing import Any

from labkit.course.exercise import call, plain

BYTES = "labkit:bytes"  # JSON has no bytes: an object with this key and hexadecimal text
NOT_PLAIN = "it returned an object of type "
STUB = "not answered"
MISSING = "the name is not defined"
ANSWER_TYPE = "application/vnd.labkit.answer+json"


def probe_code(name: str, inputs: list[tuple[Any, ...]] | None, limit_bytes: int) -> str:
    """Return the line of code to run in the kernel; ``inputs`` is None for a value."""
    given = base64.b64encode(pickle.dumps(inputs)).decode()
    return f'__import__("labkit.grading.sandbox.probe", fromlist=["answer"]).answer({name!r}, {given!r}, {limit_bytes})'


def answer(name: str, given: str, limit_bytes: int) -> None:
    """Send the value of a variable, or a function's result for each of the inputs (pickled, in base64)."""
    from IPython import get_ipython  # type: ignore[attr-defined,unused-ignore]

    shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
    inputs = pickle.loads(base64.b64decode(given))  # noqa: S301  # from the grader
    for index in range(1 if inputs is None else len(inputs)):
        text = _reply(shell.user_ns, name, None if inputs is None else inputs[index], limit_bytes)
        shell.display_pub.publish({ANSWER_TYPE: json.dumps({"index": index, **text})})


def _reply(names: dict[str, Any], name: str, inputs: tuple[Any, ...] | None, limit_bytes: int) -> dict[str, Any]:
    """Return the value as JSON text, or an error."""
    if name not in names:
        return {"error": MISSING}
    try:
        random.seed(0)  # so that the same notebook always gets the same grade
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        value, changed = (plain(names[name]), False) if inputs is None else call(names[name], inputs)
        if isinstance(value, Sized) and len(value) > limit_bytes:
            return {"error": f"a value of {len(value):,} items is too long"}
        text = json.dumps(value, default=_encode)
    except NotImplementedError:  # raised by the placeholder
        return {"error": STUB}
    except _NotPlainError as error:
        return {"error": f"{NOT_PLAIN}{error}"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if len(text) > limit_bytes:
        return {"error": f"a value of {len(text):,} characters is too long"}
    return {"value": text, "changed": changed}


class _NotPlainError(Exception):
    """A value that is not of a built-in type; the message is its type."""


def _encode(value: Any) -> dict[str, str]:
    if isinstance(value, bytes):
        return {BYTES: value.hex()}
    raise _NotPlainError(type(value).__name__)


def additions_code(source: str, course: str) -> str:
    """Return code that runs what a student added to one of the course's cells; see `add`."""
    return f'__import__("labkit.grading.sandbox.probe", fromlist=["add"]).add({source!a}, {course!a})'


def add(source: str, course: str) -> None:
    """Run the imports, functions and assignments of a changed cell that the original does not have.

    Only new names are bound: the course's keep their values.
    """
    from IPython import get_ipython  # type: ignore[attr-defined,unused-ignore]

    shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
    original, changed = (ast.parse(shell.transform_cell(text)).body for text in (course, source))
    known = set(map(ast.dump, original))
    for node in changed:
        if ast.dump(node) not in known and isinstance(node, _ADDED) and not _bound(node) & shell.user_ns.keys():
            names = {} if "*" in _bound(node) else shell.user_ns
            exec(compile(ast.Module([node], []), "<added>", "exec"), names)  # noqa: S102  # in the sandbox, as Jupyter would
            for name in names.keys() - shell.user_ns.keys():
                shell.user_ns[name] = names[name]


_ADDED = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    stored = (item for item in ast.walk(node) if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store))
    return {item.id for item in stored}
