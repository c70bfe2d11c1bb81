"""Reasoning and answer in the stream of a model's tokens, and a budget that ends the reasoning."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from labkit.chat_template.thinking import TAG, ThinkingForm
from labkit.engine.detokenizer import n_undecided
from labkit.engine.generation import Splitter
from labkit.engine.results import Kind
from labkit.engine.sampler import Sampler
from labkit.engine.tokenizer import Tokenizer


class ThinkingText:
    r"""Split a text into reasoning and answer while it comes; the parts do not depend on how it is cut into pieces.

    Reasoning is only at the beginning; what does not follow the form stays in the answer. Spaces around it are dropped.

    Examples
    --------
    >>> text = ThinkingText(ThinkingForm("<think>", "</think>"))
    >>> text.add("<thi"), text.add("nk>\n1+1"), text.add("\n</think>\n\n2"), text.add("", last=True)
    ([], [('reasoning', '1+1')], [('answer', '2')], [])
    """

    def __init__(self, form: ThinkingForm, *, opened: bool = False) -> None:
        self.form = form
        self.state = "reasoning" if opened else "start"
        self._held = ""
        self._trim = opened  # drop the spaces that come next
        self._n_blocks = int(opened)

    def add(self, text: str, *, last: bool = False) -> list[tuple[Kind, str]]:
        """Add text; return the parts that are now certain."""
        self._held += text
        parts: list[tuple[Kind, str]] = []
        while True:
            state = self.state
            part = {"start": self._start, "reasoning": self._reason, "after": self._after, "answer": self._answer}[state](
                last
            )
            if part:
                parts.append(("reasoning" if state == "reasoning" else "answer", part))
            if self.state == state:
                return parts

    def _start(self, last: bool) -> str:
        """Wait for the mark of reasoning, or of an answer; any other text is the answer as it is."""
        form, body = self.form, self._held.lstrip()
        marks = ((form.begin, "reasoning"), (form.answer, "answer"), ("" if form.turn else form.end, "answer"))
        for mark, state in marks:
            if mark and body.startswith(mark):
                self._go_on(state, body[len(mark) :])
                return ""
        if last or not any(mark.startswith(body) for mark, _ in marks):
            self.state = "answer"
        return ""

    def _reason(self, last: bool) -> str:
        if self._trim:
            self._held = self._held.lstrip()
            self._trim = not self._held
        at = self._held.find(self.form.end)
        if at >= 0:
            text = self._held[:at].rstrip()
            self._go_on("after", self._held[at + len(self.form.end) :])
        else:
            text = (
                self._held if last else self._held[: len(self._held) - n_undecided(self._held, (self.form.end,))]
            ).rstrip()
            self._held = self._held[len(text) :]
        if text and self._n_blocks > 1:
            text, self._n_blocks = f"\n\n{text}", 1
        return text

    def _after(self, last: bool) -> str:
        """Drop what is between reasoning and answer: the beginning of the next message, or of the answer."""
        mark, body = self.form.turn or self.form.answer, self._held.lstrip()
        if mark and body.startswith(mark):
            self._go_on("start" if self.form.turn else "answer", body[len(mark) :])
        elif last or not mark or not mark.startswith(body):
            self._go_on("answer", self._held)
        return ""

    def _answer(self, last: bool) -> str:
        text = self._held.lstrip() if self._trim else self._held
        self._trim = self._trim and not text
        self._held = ""
        return text

    def _go_on(self, state: str, rest: str) -> None:
        self.state, self._held, self._trim = state, rest, True
        self._n_blocks += state == "reasoning"


class Thinking(Splitter):
    """One answer of a model that thinks: splits its text, ends its reasoning, and constrains only its answer.

    A mark that is a token of the vocabulary is only found as that token: it has a lone surrogate, which no text has, before
    its name.

    Parameters
    ----------
    opened : bool
        Whether the prompt has begun the reasoning.
    budget : int or None
        Tokens of reasoning; then the end mark is put in, as the model would write it.
    constrained : bool
        Whether the answer follows a grammar, which reasoning and marks do not.
    wanted : bool
        With a grammar: whether the reasoning begins though the prompt has not begun it.
    """

    def __init__(
        self, tokenizer: Tokenizer, form: ThinkingForm, *, opened: bool, budget: int | None, constrained: bool, wanted: bool
    ) -> None:
        self._form, self._budget, self._constrained = form, budget, constrained
        self._tokenizer = tokenizer
        self._marks: dict[int, str] = {}
        marks = {}
        for field in ("begin", "end", "turn", "answer"):
            marks[field] = re.sub(TAG, self._marked, getattr(form, field))
        self._split = ThinkingText(ThinkingForm(**marks), opened=opened)
        self._forced: deque[int] = deque()
        self._n_tokens = 0
        self.reasoning = ""
        if opened:
            self._spend(0)
        elif constrained and wanted:
            self._force(form.begin)
        elif constrained:
            self._force(form.answer if form.turn else "")
            self._settle()

    def _marked(self, match: re.Match[str]) -> str:
        tokens = self._tokenizer.tokenize(match[0], parse_special=True)
        if len(tokens) != 1:
            return match[0]
        mark = self._marks.setdefault(tokens[0], chr(0xD800 + len(self._marks)))
        return mark + self._tokenizer.piece(tokens[0]).decode("utf-8", "replace")

    def mark(self, token: int) -> str:
        """Return the character before a token's text; empty for most."""
        return self._marks.get(token, "")

    def goes_on(self, token: int) -> bool:
        """Return whether a token that ends a text only ends a message of reasoning here."""
        return bool(self._form.turn) and self._split.state == "reasoning" and token in self._marks

    def choose(self, sampler: Sampler, ctx: Any, row: int) -> int:
        """Return the next token: one that is put in, or one from the sampler, with its grammar only in the answer."""
        if self._forced:
            token = self._forced.popleft()
            sampler.accept(token)
            return token
        return sampler.sample(ctx, row, free=self._constrained and self._split.state != "answer")

    def split(self, text: str, *, last: bool = False) -> list[tuple[Kind, str]]:
        """Return the parts of a new text, without the marks."""
        was = self._split.state
        parts = self._split.add(text, last=last)
        if self._split.state == "reasoning" and not last:
            self._spend(was == "reasoning")
        elif was == "reasoning" and self._constrained and not self._forced:
            self._force(self._form.closing.partition(self._form.end)[2])
        self._settle()
        parts = [(kind, part.translate(_WITHOUT_MARKS)) for kind, part in parts]
        self.reasoning += "".join(part for kind, part in parts if kind == "reasoning")
        return [(kind, part) for kind, part in parts if part]

    def _settle(self) -> None:
        """Begin the answer where the grammar leaves no other choice."""
        if self._constrained and not self._forced and self._split.state in ("start", "after"):
            self._split.state = "answer"

    def _spend(self, n_tokens: int) -> None:
        self._n_tokens += n_tokens
        if self._budget is not None and self._n_tokens >= self._budget and not self._forced:
            self._force(self._form.closing)

    def _force(self, text: str) -> None:
        self._forced.extend(self._tokenizer.tokenize(text, parse_special=True) if text else ())


_WITHOUT_MARKS = dict.fromkeys(range(0xD800, 0xD900))
