"""What grading calls inside a student's kernel: the answer's values for given inputs, sent out as JSON text.

No verdict is made here, and nothing here knows what is expected: the code beside it is a stranger's.
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

__all__ = ["ANSWER_TYPE", "MISSING", "STUB", "answer", "probe_code"]

STUB = "nothing is written there yet"
MISSING = "nothing has that name"
ANSWER_TYPE = "application/vnd.labkit.answer+json"


def probe_code(name: str, inputs: list[tuple[Any, ...]] | None, limit_bytes: int) -> str:
    """Return the line that a kernel runs; ``inputs`` is None for a value."""
    given = base64.b64encode(pickle.dumps(inputs)).decode()
    return f'__import__("labkit.grading.sandbox.probe", fromlist=["answer"]).answer({name!r}, {given!r}, {limit_bytes})'


def answer(name: str, given: str, limit_bytes: int) -> None:
    """Send the value of a variable, or what a function returns for each of the inputs.

    Parameters
    ----------
    name : str
        Of the variable or function among the notebook's names.
    given : str
        The inputs, from the grader.
    limit_bytes : int
        Of a value's JSON text.
    """
    from IPython import get_ipython  # type: ignore[attr-defined,unused-ignore]

    shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore]
    inputs = pickle.loads(base64.b64decode(given))  # noqa: S301  # the grader's own
    for index in range(1 if inputs is None else len(inputs)):
        text = _reply(shell.user_ns, name, None if inputs is None else inputs[index], limit_bytes)
        shell.display_pub.publish({ANSWER_TYPE: json.dumps({"index": index, **text})})


def _reply(names: dict[str, Any], name: str, inputs: tuple[Any, ...] | None, limit_bytes: int) -> dict[str, str]:
    """Return the value as JSON text, or why there is none."""
    if name not in names:
        return {"error": MISSING}
    try:
        _begin_alike()
        value = names[name] if inputs is None else names[name](*inputs)
        if isinstance(value, Sized) and len(value) > limit_bytes:
            return {"error": f"a value of {len(value):,} parts is too long"}
        text = json.dumps(plain(value))
    except NotImplementedError:  # the stub's
        return {"error": STUB}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"value": text} if len(text) <= limit_bytes else {"error": f"a value of {len(text):,} characters is too long"}


def _begin_alike() -> None:
    """Draw the same random numbers in every run: the same notebook gets the same grade."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
