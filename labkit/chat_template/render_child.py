"""Render chat templates in a subprocess: the script that `labkit.chat_template.render` starts.

It answers each line of JSON with a line of JSON until its input ends. Its only large import is Jinja, so it starts
in a tenth of a second; ``python -I`` runs it by its path.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import signal
import sys
from typing import Any

MEMORY_LIMIT = 1 << 30
# Normally the parent stops this process long before; this limit applies when the parent is gone.
LAST_S = 10


def main() -> None:
    """Answer requests; the first line is the parent's ``sys.path``."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.path[:] = json.loads(requests.readline())
    sys.stdout = sys.stderr = None  # only answers are written
    _limit_memory()
    for line in requests:
        _end_after(LAST_S)
        answers.write(json.dumps(_answer(json.loads(line))).encode("ascii") + b"\n")
        answers.flush()
        _end_after(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        template = _compile(request["source"])
    except Exception as error:  # from jinja2, from Python for nested blocks, recursion, memory
        return {"invalid": _one_line(error)}
    # Without tools and documents, Hugging Face's are None; a few templates are written for undefined ones.
    for defaults in ({"tools": None, "documents": None}, {}):
        try:
            return {"text": _joined(template, {**defaults, **request["values"]}, request["size_limit"])}
        except Exception as error:  # any error in the template
            answer = {"error": _one_line(error)}
    return answer


def _joined(template: Any, values: dict[str, Any], limit: int) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(**values):
        size += len(part)
        if size > limit:
            raise ValueError(f"it builds a text of more than {limit:,} characters")
        parts.append(part)
    return "".join(parts).encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates are not text


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    """Compile a template as Hugging Face's transformers do (``utils/chat_template_utils.py``)."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} … {% endgeneration %}``: the assistant's text, marked for training."""

        tags = {"generation"}  # noqa: RUF012  # as Jinja's own extensions

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller: Any) -> str:
            return str(caller())

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(source)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    from jinja2 import TemplateError

    raise TemplateError(str(message))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:300])


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not available on Windows and macOS
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _end_after(seconds: int) -> None:
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
