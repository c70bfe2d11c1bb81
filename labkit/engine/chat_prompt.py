"""Text and messages -> tokens, so that what a user typed never becomes a control token."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import check_text, one_line, shown
from labkit.engine.native import C
from labkit.engine.tokenizer import ROLES, Vocabulary
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError

if TYPE_CHECKING:
    from labkit.chat_template.render import ChatTemplate

_SPACES = " \t\n\r\v\f"  # what C calls a space


class Tokenizer(Vocabulary):
    """The vocabulary of a loaded model and its chat template: prompts and conversations -> tokens."""

    def __init__(self, model: Any, vocab: Any) -> None:
        super().__init__(model, vocab)
        self._template: ChatTemplate | None = None

    def prompt_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the tokens of a prompt; an empty one begins with the beginning-of-sequence token, if there is one."""
        tokens = self._tokenize(check_text("prompt", text), True, parse_special)
        if not tokens and self.bos < 0:
            raise ArgumentError("the prompt is empty and this model has no beginning-of-sequence token: write something")
        return tokens or [self.bos]

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a conversation: control tokens from the template alone, never from a message.

        The template is rendered a second time with a mark instead of each message; the text around the marks is the
        template's own. Only this text is searched for control tokens. Everything between two of them, from template
        and user, is tokenized together as plain text, so an ordinary conversation gets exactly the tokens of its
        rendered text tokenized as a whole.

        A template that rewrites messages (trims, shortens, lowercases them) changes the marks. Then private-use characters
        replace the characters of control tokens in the messages, and the rendered text is searched for them.
        """
        whole = self.template.render(messages)
        parts = self._split_at_marks(messages, whole) or self._split_masked(messages, whole)
        tokens = self._with_bos(self._join(parts))
        if not tokens:
            raise GenerationError("this model's chat template made an empty text of these messages: write something")
        return tokens

    @property
    def template(self) -> ChatTemplate:
        """The model's own chat template."""
        if self._template is None:
            source = C.llama_model_chat_template(self.model, None)
            if not source:
                raise GenerationError(
                    "this model has no chat template, so it knows no roles: use generate_text, or load an instruct model"
                )
            eos = int(C.llama_vocab_eos(self.vocab))
            from labkit.chat_template.render import ChatTemplate

            self._template = ChatTemplate(
                source.decode("utf-8", errors="replace"),
                bos_token=self.token_text(self.bos),
                eos_token=self.token_text(eos),
            )
        return self._template

    def _split_at_marks(self, messages: Sequence[Mapping[str, str]], whole: str) -> list[tuple[bool, str]] | None:
        """Split a rendered conversation into (is a user's text, text), or None where the template rewrites messages."""
        marks = [f"\ue000{os.urandom(8).hex()}\ue001" for _ in messages]
        try:
            marked = self.template.render([{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)])
        except GenerationError:
            return None
        texts = {mark: m["content"] for m, mark in zip(messages, marks, strict=True)}
        parts = [(piece in texts, texts.get(piece, piece)) for piece in re.split("(" + "|".join(marks) + ")", marked)]
        return parts if "".join(text for _, text in parts) == whole else None

    def _split_masked(self, messages: Sequence[Mapping[str, str]], whole: str) -> list[tuple[bool, str]]:
        """Split as `_split_at_marks` does, where the template rewrites messages."""
        mask, unmask = self._masks(messages)
        masked = self.template.render([{**m, "content": m["content"].translate(mask)} for m in messages])
        parts: list[tuple[bool, str]] = []
        start = 0
        for match in self._specials()[0].finditer(masked):
            parts += [(True, masked[start : match.start()].translate(unmask)), (False, match[0])]
            start = match.end()
        parts.append((True, masked[start:].translate(unmask)))
        if "".join(text for _, text in parts) == whole:
            return parts
        # The template searches for such characters itself (for example to remove <think>…</think>). Then all control tokens
        # must be its own: otherwise their origin is unknown.
        if self._specials()[0].findall(whole) != [text for is_user, text in parts if not is_user]:
            found = next(filter(None, (self._find_special(m["content"]) for m in messages)), "a control token")
            raise GenerationError(
                f"this model's chat template rewrites a message that contains the text of a control token ({found!r}), so "
                "the two cannot be distinguished: remove it from the message"
            )
        return [(False, whole)]

    def _masks(self, messages: Sequence[Mapping[str, str]]) -> tuple[dict[int, int], dict[int, int]]:
        """Return translations of the characters of control tokens to private-use ones, and back.

        Characters such as ``<`` are enough, unless a message has the name between them and the template might add them.
        """
        inner = {core.casefold() for name in self._specials()[1] for core in re.findall(r"\w+", name)}
        contents = [m["content"].casefold() for m in messages]
        chars = {c for name in self._specials()[1] for c in name if not c.isalnum() and not c.isspace()}
        chars |= {c for name in self._specials()[1] for c in (name[0], name[-1]) if not c.isspace()}
        used = {ord(c) for m in messages for c in m["content"]}
        if any(core in content for core in inner for content in contents):
            chars |= {chr(code) for code in used if not chr(code).isspace()}
        free = (code for code in range(0xF0000, 0xFFFFE) if code not in used)
        mask = {ord(char): code for char, code in zip(sorted(chars), free, strict=False)}
        return mask, {code: char for char, code in mask.items()}

    def _join(self, parts: Sequence[tuple[bool, str]]) -> list[int]:
        """Tokenize a split conversation, with llama.cpp's rules for the spaces around its control tokens."""
        tokens: list[int] = []
        run = ""
        strips = 0  # attributes of the last control token: whether it strips the spaces after it

        def flush(next_strips: int) -> list[int]:
            text = run.lstrip(_SPACES) if strips & C.LLAMA_TOKEN_ATTR_RSTRIP else run
            return self._plain(text.rstrip(_SPACES) if next_strips & C.LLAMA_TOKEN_ATTR_LSTRIP else text)

        for is_user, text in parts:
            for plain, special in [(text, None)] if is_user else self._partition(text):
                run += plain
                if special is not None:
                    attributes = C.llama_vocab_get_attr(self.vocab, special)
                    tokens += [*flush(attributes), special]
                    run, strips = "", attributes
        return tokens + flush(0)

    def _plain(self, text: str) -> list[int]:
        return self.tokenize(text) if text else []

    def _with_bos(self, tokens: list[int]) -> list[int]:
        wants_bos = self.bos >= 0 and C.llama_vocab_get_add_bos(self.vocab)
        return tokens if not wants_bos or tokens[:1] == [self.bos] else [self.bos, *tokens]

    def _partition(self, text: str) -> list[tuple[str, int | None]]:
        """Split the template's own text at its control tokens: (plain text before, control token or None)."""
        pattern, ids = self._specials()
        result: list[tuple[str, int | None]] = []
        start = 0
        for match in pattern.finditer(text):
            result.append((text[start : match.start()], ids[match[0]]))
            start = match.end()
        return [*result, (text[start:], None)]

    def _find_special(self, text: str) -> str | None:
        match = self._specials()[0].search(text)
        return None if match is None else match[0]


def check_messages(messages: Any) -> list[dict[str, str]]:
    """Return the messages as plain dicts of role and content; an error names the wrong one and shows the format."""
    example = 'write [{"role": "user", "content": "Hello"}]'
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentTypeError(f"messages must be a list of dicts, not {type(messages).__name__}: {example}")
    if not messages:
        raise ArgumentError(f"messages is empty: {example}")
    return [_check_message(index, message, example) for index, message in enumerate(messages)]


def _check_message(index: int, message: Any, example: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ArgumentTypeError(f"messages[{index}] must be a dict, not {type(message).__name__}: {example}")
    for key in ("role", "content"):
        if key not in message:
            raise ArgumentError(f"messages[{index}] has no {key!r}: {example}")
    unknown = [str(key) for key in message if key not in ("role", "content")]
    if unknown:
        raise ArgumentError(
            f"messages[{index}] has {one_line(repr(unknown[0]), 60)}, but only 'role' and 'content' are known: {example}"
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in ROLES:
        raise ArgumentError(f"messages[{index}] has the role {shown(role)}: roles are {', '.join(ROLES)}")
    check_text(f"messages[{index}]['content']", content)
    return {"role": role, "content": content}
