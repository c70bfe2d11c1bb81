"""Chat templates: Jinja from a model file, which may be anybody's, rendered within limits of time and size.

Jinja's sandbox keeps a template from Python's internals, not from running for ever or filling the memory. So each
rendering has a thread of its own with a deadline on every line, and products, sums and joins have a largest size.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from labkit.errors import GenerationError

__all__ = ["ChatTemplate"]

TIME_LIMIT_S = 2.0
SIZE_LIMIT = 8_000_000
_WIDE_FORMAT = re.compile(r"[%{][^{}%\s]*[0-9]{5,}")
_RESIZING_FILTERS = ("replace", "center", "indent", "join", "format", "wordwrap", "urlize", "tojson")


class _TooMuchError(Exception):
    """The template asked for more time or memory than a chat template needs."""


class _Concatenation(CodeGenerator):
    """Compile ``a ~ b`` as a call that can refuse."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802  # the name that Jinja looks for
        self.write("environment.concatenate((")
        for item in node.nodes:
            self.visit(item, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Concatenation
    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "<<"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and isinstance(left, int) and not isinstance(right, (int, float)):
            left, right = right, left
        if operator == "*" and hasattr(left, "__len__"):
            _refuse_beyond(len(left) * max(int(right), 0))
        if operator == "+" and hasattr(left, "__len__"):
            _refuse_beyond(len(left) + (len(right) if hasattr(right, "__len__") else 0))
        if operator == "%" and isinstance(left, str):
            _refuse_product((left,))
        if operator == "**":
            _refuse_beyond(int(abs(right)) * 64)
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # Jinja's own names
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, list)):
            _refuse_product((owner, *args))
        return super().call(__context, __obj, *args, **kwargs)

    def concatenate(self, parts: Sequence[Any]) -> str:
        """Join texts, up to the largest size."""
        texts = [str(part) for part in parts]
        _refuse_beyond(sum(map(len, texts)))
        return "".join(texts)


def _refuse_beyond(size: float) -> None:
    if size > SIZE_LIMIT:
        raise _TooMuchError(f"it builds a text of more than {SIZE_LIMIT:,} characters")


class ChatTemplate:
    """A model's own chat template.

    Parameters
    ----------
    source : str
        The Jinja text, ``tokenizer.chat_template`` of the model file.
    bos_token, eos_token : str
        The texts of these control tokens.

    Raises
    ------
    GenerationError
        When the source is no Jinja.

    Examples
    --------
    >>> template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    >>> template.render([{"role": "user", "content": "Hi"}])
    '<user>Hi'
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self._names = {"bos_token": bos_token, "eos_token": eos_token}
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        for name in _RESIZING_FILTERS:
            environment.filters[name] = _limited(environment.filters[name])
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, MemoryError) as error:
            raise GenerationError(f"this model's chat template is no valid Jinja: {_one_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Render the messages, and the beginning of the answer.

        Raises
        ------
        GenerationError
            When the template refuses the messages, fails, or takes more than 2 s or 8 million characters.
        """
        values = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            **self._names,
        }
        rendering = _Rendering(self._template, values)
        rendering.start()
        rendering.join()
        if rendering.error is not None:
            raise GenerationError(
                f"this model's chat template cannot take these messages: {_one_line(rendering.error)}"
            ) from rendering.error
        return rendering.text


class _Rendering(threading.Thread):
    """One rendering; the trace function raises in the middle of whatever runs once its time is up."""

    def __init__(self, template: jinja2.Template, values: Mapping[str, Any]) -> None:
        super().__init__(name="labkit-template", daemon=True)
        self.template, self.values = template, values
        self.text = ""
        self.error: BaseException | None = None

    def run(self) -> None:
        self._deadline = time.monotonic() + TIME_LIMIT_S
        sys.settrace(self._trace)
        try:
            self.text = self._joined()
        except BaseException as error:  # noqa: BLE001, RUF100  # handed to the caller, whatever the template raised
            self.error = error
        finally:
            sys.settrace(None)

    def _joined(self) -> str:
        parts: list[str] = []
        size = 0
        for part in self.template.generate(**self.values):
            size += len(part)
            _refuse_beyond(size)
            parts.append(part)
        return "".join(parts)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > self._deadline:
            raise _TooMuchError(f"it ran for more than {TIME_LIMIT_S:g} s")
        return self._trace


def _limited(function: Any) -> Any:
    """Let a filter work only on what stays far from the largest size, whatever it multiplies."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _refuse_product((*args, *kwargs.values()))
        return function(*args, **kwargs)

    wrapper.__dict__.update(function.__dict__)  # Jinja marks there what it passes first
    return wrapper


def _refuse_product(values: Sequence[Any]) -> None:
    """Refuse a call whose result could be as long as the product of its arguments, where that is far too long."""
    product = 1
    for value in values:
        if isinstance(value, (str, list, tuple)):
            product *= max(len(value), 1)
        elif isinstance(value, int):
            product *= max(abs(value), 1)
        if isinstance(value, str) and _WIDE_FORMAT.search(value):
            raise _TooMuchError("it formats a text to a width of more than 9,999")
    if product > SIZE_LIMIT * 16:
        _refuse_beyond(product)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
