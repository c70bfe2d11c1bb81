"""Runs inside a student's kernel: evaluate an answer on given inputs and send the values out as JSON text.

The expected values are not available here, and nothing is scored: the student's code runs in the same process.
"""

from __future__ import annotations

import base64
import json
import pickle
import random
import sys
from collections.abc import Sized
from typing import Any

from labkit.course.exercise import plain

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


def _reply(names: dict[str, Any], name: str, inputs: tuple[Any, ...] | None, limit_bytes: int) -> dict[str, str]:
    """Return the value as JSON text, or an error."""
    if name not in names:
        return {"error": MISSING}
    try:
        random.seed(0)  # so that the same notebook always gets the same grade
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        value = names[name] if inputs is None else names[name](*inputs)
        if isinstance(value, Sized) and len(value) > limit_bytes:
            return {"error": f"a value of {len(value):,} items is too long"}
        text = json.dumps(plain(value))
    except NotImplementedError:  # raised by the placeholder
        return {"error": STUB}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"value": text} if len(text) <= limit_bytes else {"error": f"a value of {len(text):,} characters is too long"}
