"""Chat templates: untrusted Jinja from a model file, rendered with limits on time and memory.

Jinja's sandbox protects Python's internals, but a template can still run forever or exhaust the memory: ``a == b`` on lists
nested ninety deep never returns and holds the interpreter lock, so no thread could stop it. Therefore a small subprocess
renders templates and is killed when it exceeds the time limit.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.chat_template.calls import CallForm, find_call_form
from labkit.chat_template.conversation import Conversation, TemplateError, lay_out
from labkit.chat_template.thinking import ThinkingForm, find_form, with_reasoning
from labkit.chat_template.tools import describe, in_words, with_instructions
from labkit.children import queue_lines, script_command
from labkit.errors import GenerationError

TIME_LIMIT_S = 2.0
START_LIMIT_S = 30.0
SIZE_LIMIT = 8_000_000
_CHILD = Path(__file__).with_name("render_child.py")
_READY = {"source": "", "values": {}, "size_limit": 0}


class ChatTemplate:
    """A model's chat template, with the names of its special tokens (``bos_token``, ``eos_token``, ``unk_token`` …)."""

    def __init__(self, source: str, **special_tokens: str) -> None:
        self.source = source
        self._names = {"bos_token": "", "eos_token": "", **special_tokens}

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **more: Any) -> str:
        """Render the messages and the beginning of the answer; a template that loses a message is an error."""
        return self.lay_out(messages, add_generation_prompt=add_generation_prompt, **more).text

    def lay_out(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Conversation:
        """Render the messages in a shape in which the template loses none; tools in words where it does not know them."""
        messages = [self._with_reasoning(message) for message in messages]
        calls = [call["function"]["name"] for message in messages for call in message.get("tool_calls", ())]
        tools = more.pop("tools", None)
        if not tools and not calls:
            return self._lay_out(messages, more)
        names = [*calls, *(tool["function"]["name"] for tool in tools or ())]
        for as_text in (False, True):  # most templates want a call's arguments as a dict, some as JSON text
            with contextlib.suppress(GenerationError):
                shaped = [_with_texts(message) for message in messages] if as_text else messages
                talk = self._lay_out(shaped, {**more, "tools": tools})
                if all(name in talk.text for name in names):
                    return talk
        return self._in_words(messages, tools, more)

    def _in_words(self, messages: Sequence[Mapping[str, Any]], tools: Any, more: dict[str, Any]) -> Conversation:
        plain = in_words(messages)
        return self._lay_out(with_instructions(plain, describe(tools), system=self.has_system) if tools else plain, more)

    def _lay_out(self, messages: Sequence[Mapping[str, Any]], more: dict[str, Any]) -> Conversation:
        return lay_out(lambda shaped: self.render_unchecked(shaped, **more), messages)

    def _with_reasoning(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if "reasoning_content" not in message:
            return dict(message)
        return with_reasoning(message, message["reasoning_content"], self.thinking)

    @functools.cached_property
    def has_system(self) -> bool:
        """Whether this template knows the role "system"."""
        with contextlib.suppress(GenerationError):
            self.lay_out([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
            return True
        return False

    @functools.cached_property
    def thinking(self) -> ThinkingForm | None:
        """How this template writes reasoning; None if it has none."""
        return find_form(self.source, self.render_unchecked)

    @functools.cached_property
    def calls(self) -> CallForm | None:
        """How this template writes calls of tools; None if it writes none, or in a form that is not known."""
        return find_call_form(self.render_unchecked)

    def render_unchecked(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> str:
        """Render within 2 s, 8 million characters and 1 GB of memory."""
        values = {"add_generation_prompt": True, **more, **self._names, "messages": [dict(message) for message in messages]}
        answer = _renderer().ask({"source": self.source, "values": values, "size_limit": SIZE_LIMIT}, TIME_LIMIT_S)
        if "invalid" in answer:
            raise GenerationError(f"this model's chat template is not valid Jinja: {answer['invalid']}")
        if "error" in answer:
            raise TemplateError(f"this model's chat template cannot render these messages: {answer['error']}")
        return str(answer["text"])


class _Renderer:
    """The rendering process, started on first use and restarted after it has ended."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Return the answer to a request."""
        line = json.dumps(request, default=str).encode("ascii") + b"\n"
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                return self._exchange(line, limit_s)
            except BaseException:  # also on Ctrl-C: otherwise the next request would get this answer
                self.stop()
                raise

    def stop(self) -> None:
        """Stop the process, if it is running."""
        process, self._process = self._process, None
        if process is None or self.pid != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _start(self) -> None:
        self.stop()
        try:
            process = subprocess.Popen(
                script_command(_CHILD),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                **_detached(),
            )
        except (OSError, ValueError, TypeError) as error:
            raise GenerationError(
                f"the process for chat templates could not be started ({' '.join(str(error).split())}): use generate_text"
            ) from error
        self._process = process
        self._answers = queue.SimpleQueue()
        threading.Thread(
            target=queue_lines, args=(process.stdout, self._answers), name="labkit-template", daemon=True
        ).start()
        try:
            path = json.dumps([str(folder) for folder in sys.path])
            self._exchange(f"{path}\n{json.dumps(_READY)}\n".encode("ascii"), START_LIMIT_S)
        except BaseException:
            self.stop()
            raise

    def _exchange(self, line: bytes, limit_s: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None:
            raise GenerationError("the process for chat templates has ended: try again")
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(OSError):  # it has ended; the queue reports it
            process.stdin.write(line)
            process.stdin.flush()
        while True:
            try:
                answer = self._answers.get(timeout=0.2)
                break
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise GenerationError(
                        f"this model's chat template cannot render these messages: it ran for more than {limit_s:g} s"
                    ) from None
        if not answer:
            raise GenerationError(
                "this model's chat template cannot render these messages: its process died, probably from lack of memory"
            )
        result: dict[str, Any] = json.loads(answer)
        return result


def _with_texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with the arguments of its calls as JSON text."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


def _detached() -> dict[str, Any]:
    """Return options that keep Ctrl-C in the terminal from reaching the process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


_renderers: list[_Renderer] = []


def _renderer() -> _Renderer:
    """Return this process's renderer; a forked child gets a new one."""
    if not _renderers or _renderers[-1].pid != os.getpid():
        _renderers.append(_Renderer())  # the parent's renderer is kept, but its process is not ours to stop
    return _renderers[-1]


@atexit.register
def _stop_renderers() -> None:
    for renderer in _renderers:
        renderer.stop()
