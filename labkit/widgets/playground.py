"""Playground: text generation or a chat, with sampler settings and streaming."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets

from labkit.chat import stream_chat
from labkit.engine import Model, TextChunk, TextStream, stream_text
from labkit.errors import ArgumentError, LabkitError
from labkit.output_files import written
from labkit.tables import Table
from labkit.units import counted
from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import button, dropdown, sampler_sliders, slider
from labkit.widgets.parts.view import View

_EVERY_S = 0.06  # between updates of the text in the browser
_CONTINUE, _CHAT = "continue a text", "chat"
_LABELS = {
    "mode": "Mode", "prompt": "Prompt", "temperature": "Temperature", "top_k": "Top-k", "top_p": "Top-p", "min_p": "Min-p",
    "seed": "Seed", "max_tokens": "Max tokens",
}  # fmt: skip


def describe(chunk: TextChunk, *, stopped: bool = False) -> str:
    """Describe a generation in progress or at its end: tokens, speed, reason of its end."""
    if stopped and not chunk.n_generated:
        return f"Stopped before the first token, after a prompt of {chunk.n_prompt}."
    end = {"length": "max tokens reached", "end": "the model ended the text", "stop": "stop sequence reached"}
    reason = f"; {end[chunk.finish_reason]}" if chunk.finish_reason in end else ""
    return (
        f"{counted(chunk.n_generated, 'token')} after a prompt of {chunk.n_prompt}: "
        f"first token after {chunk.time_to_first_token_s * 1000:.0f} ms, then {chunk.tokens_per_second:.1f} tokens/s"
        f"{'; stopped' if stopped else reason}."
    )


class Playground(ModelExplorer):
    """Generate text with any sampler settings, and watch it stream.

    ``mode`` is ``"continue a text"`` or ``"chat"``. ``transcript`` has all prompts and answers; it can be edited, copied and
    saved.
    """

    title: ClassVar[str] = "Playground"
    settle_s: ClassVar[float] = 0.15  # a slider's last value may arrive after the click on a button

    def __init__(
        self, model: Model | Path | str | None = None, *, prompt: str = "The capital of France is", mode: str = _CONTINUE
    ) -> None:
        self.use_model(model, n_ctx=2048)
        self._messages: list[dict[str, str]] = []
        self.transcript = ipywidgets.Textarea(description="Transcript", rows=10)
        self.transcript.add_class("labkit-transcript")
        copy = button("Copy transcript", lambda: None)
        copy.add_class("labkit-copy")  # done in the browser: see accessibility.py
        super().__init__(
            {
                "mode": dropdown("Mode", [_CONTINUE, _CHAT], mode),
                "prompt": ipywidgets.Textarea(description="Prompt", value=prompt, rows=3),
                **sampler_sliders(),
                "max_tokens": slider("Max tokens", 64, 1, 512, 1),
            },
            actions=[
                button("Generate", self.generate),
                button("Stop", self.stop),
                copy,
                button("Save transcript", self.save),
                button("New conversation", self.clear),
            ],
            below=[self.transcript],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the settings; changing one generates nothing."""
        return _view("Nothing generated yet.", values)

    def generate(self) -> None:
        """Generate with the current settings; ends a running generation, which the transcript notes."""
        self.start(lambda ticket: self._generate(self.values, ticket))

    def save(self) -> Path | None:
        """Write the transcript into a file next to the notebook; return its path."""
        path = Path(f"transcript-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}.txt")
        try:
            written(self.transcript.value, path)
        except LabkitError as error:
            self.fail(error)
            return None
        self.report(f"saved as {path.name}")
        return path

    def clear(self) -> None:
        """Cancel a running generation and delete the conversation."""
        self.start(lambda _ticket: self._clear())

    def _moved(self, _change: object) -> None:
        """Do nothing until Generate is pressed."""

    def _clear(self) -> None:
        self._messages, self.transcript.value = [], ""
        self.report("")

    def _generate(self, values: Values, ticket: Ticket) -> None:
        self.report("loading the model" if not self.has_model else "processing the prompt")
        model = self.model()
        if ticket.cancelled:
            return
        stream, head = self._open(model, values)
        before = self.transcript.value + ("\n\n" if self.transcript.value else "")
        self.show(_view("Generating: the text grows in the transcript.", values))
        if values["mode"] == _CHAT:
            self.controls["prompt"].value = ""  # for the next message
        ticket.on_cancel(stream.close)
        text, chunk, updated_s = "", None, 0.0
        for chunk in stream:
            text += chunk.text
            if time.monotonic() - updated_s > _EVERY_S:
                updated_s = time.monotonic()
                self.transcript.value = before + head + text
                self.report(describe(chunk))
        end = "" if not ticket.cancelled else " [stopped]" if ticket.stopped else " [ended by the next Generate]"
        self.transcript.value = before + head + text + end
        if chunk is not None:
            self._finish(values, text, chunk, stopped=chunk.finish_reason in (None, "cancelled"))

    def _open(self, model: Model, values: Values) -> tuple[TextStream, str]:
        """Return the stream, and the transcript's text before it."""
        options: dict[str, Any] = {name: values[name] for name in ("top_k", "top_p", "min_p", "seed")}
        limit, temperature, prompt = values["max_tokens"], values["temperature"], values["prompt"]
        if values["mode"] == _CONTINUE:
            return stream_text(model, prompt, limit, temperature, **options), prompt
        if not prompt.strip():
            raise ArgumentError("the message is empty: write one in Prompt, and press Generate")
        messages = [*self._messages, {"role": "user", "content": prompt}]
        return stream_chat(model, messages, limit, temperature, **options), f"You: {prompt}\n\nModel: "

    def _finish(self, values: Values, text: str, chunk: TextChunk, *, stopped: bool) -> None:
        if values["mode"] == _CHAT:
            turn = [{"role": "user", "content": values["prompt"]}, {"role": "assistant", "content": text}]
            self._messages = [*self._messages, *turn]
        sentence = describe(chunk, stopped=stopped)
        self.show(_view(sentence, values))
        self.report("done")


def _view(sentence: str, values: Values) -> View:
    rows = [(label, str(values[name])) for name, label in _LABELS.items()]
    return View(sentence, None, [Table("Settings", ("setting", "value"), rows)])
