"""Messages -> tokens, so that what a user typed never becomes a control token."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.chat_template.conversation import REASONING, Conversation, texts_of
from labkit.chat_template.render import ChatTemplate
from labkit.checks import check_text
from labkit.engine.native import C
from labkit.engine.tokenizer import Tokenizer
from labkit.errors import GenerationError

_SPACES = " \t\n\r\v\f"  # what C calls a space
_NOTHING = re.compile("(?!)")
_HIDDEN = 0x10F000  # private-use characters that stand for the first characters of control tokens
# Marks in a model's own answers: <think>, [/THINK], <|END_THINKING|>, <tool_call>, [TOOL_CALLS], <|begin_of_box|>.
_OWN_MARK = re.compile(r"^[<\[◁].*(?:think|thought|reason|tool.?call|of_box)(?!.*(?:result|response))", re.IGNORECASE)
# Jinja's names of special tokens -> the keys in the file.
_OTHER_SPECIALS = {
    "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding", "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip


class ChatTokenizer:
    """A model's tokenizer and chat template, its own or a given one: conversations -> tokens."""

    def __init__(self, tokenizer: Tokenizer, source: Any = None, *, for_tools: bool = False) -> None:
        self._tokenizer = tokenizer
        if source is None:
            source = (tokenizer.chat_template("tool_use") if for_tools else None) or _own_source(tokenizer)
        check_text("template_options['chat_template']", source)
        self.template = _template(source, *_names(tokenizer))

    def encode(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> tuple[list[int], str]:
        """Return the tokens and the text of a conversation; ``more`` are tools and the template's variables.

        Control tokens come from the template alone, never from a message.

        The template is rendered a second time with a mark instead of each message; the text around the marks is the
        template's own. Only this text is searched for control tokens. Everything between two of them, from template
        and user, is tokenized together as plain text, so an ordinary conversation gets exactly the tokens of its
        rendered text tokenized as a whole.

        A template that rewrites messages (trims, shortens, lowercases them) changes the marks. Then private-use characters
        replace the characters of control tokens in the messages, and the rendered text is searched for them.

        An assistant's message is a model's earlier answer: marks that only an assistant writes (of reasoning, of calls to
        tools) stay its own, as control tokens if they are; all others are text there too. In tools, calls and reasoning,
        the first character of a control token's name is replaced until the text is split.
        """
        hide, unhide = self._shield()
        shielded = [{key: one if key in ("role", "content") else hide(one) for key, one in m.items()} for m in messages]
        talk = self.template.lay_out(shielded, **hide(more))
        if talk.parts is None:
            parts = self._split_masked(talk)
        else:
            parts = [("template" if index is None else talk.messages[index]["role"], text) for index, text in talk.parts]
        tokens = self._with_bos(self._join(parts, unhide))
        if not tokens:
            raise GenerationError("this model's chat template made an empty text of these messages: write something")
        return tokens, talk.text.translate(unhide)

    def _shield(self) -> tuple[Callable[[Any], Any], dict[int, int]]:
        """Return a function that hides control tokens in the texts of a value, and the translation that undoes it."""
        pattern, ids = self._tokenizer.specials()
        firsts = {first: chr(_HIDDEN + number) for number, first in enumerate({name[0] for name in ids})}

        def hide(value: Any) -> Any:
            if isinstance(value, str):
                return pattern.sub(lambda match: firsts[match[0][0]] + match[0][1:], value)
            if isinstance(value, Mapping):
                return {key: hide(one) for key, one in value.items()}
            return [hide(one) for one in value] if isinstance(value, (list, tuple)) else value

        return hide, {ord(hidden): ord(first) for first, hidden in firsts.items()}

    def _split_masked(self, talk: Conversation) -> list[tuple[str, str]]:
        """Split a conversation that the template rewrites into (source, text)."""
        messages = talk.messages
        mask, unmask = self._masks(texts_of(messages))

        def hide(index: int, text: str) -> str:
            seen = re.compile(f"({self._own_marks().pattern}|{REASONING.pattern})", re.IGNORECASE)
            pieces = seen.split(text) if messages[index]["role"] == "assistant" else [text]
            return "".join(piece if number % 2 else piece.translate(mask) for number, piece in enumerate(pieces))

        masked = talk.render_with(hide)
        parts: list[tuple[str, str]] = []
        start = 0
        for match in self._tokenizer.specials()[0].finditer(masked):
            parts += [("user", masked[start : match.start()].translate(unmask)), ("template", match[0])]
            start = match.end()
        parts.append(("user", masked[start:].translate(unmask)))
        if "".join(text for _, text in parts) == talk.text:
            return parts
        # The template searches for such characters itself. If the control tokens are the same, they are its own; otherwise
        # it takes a user's text for one of them, so it is rendered without seeing it.
        own = [text for source, text in parts if source == "template"]
        return [("template", talk.text)] if self._tokenizer.specials()[0].findall(talk.text) == own else parts

    def _own_marks(self) -> re.Pattern[str]:
        """Return a pattern of the special tokens that only an assistant writes."""
        ids = self._tokenizer.specials()[1]
        names = [name for name in ids if _OWN_MARK.search(name) and not self._tokenizer.is_end(ids[name])]
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")

    def _masks(self, texts: Sequence[str]) -> tuple[dict[int, int], dict[int, int]]:
        """Return translations of the characters of control tokens to private-use ones, and back.

        Characters such as ``<`` are enough, unless a message has the name between them and the template might add them.
        """
        inner = {core.casefold() for name in self._tokenizer.specials()[1] for core in re.findall(r"\w+", name)}
        contents = [text.casefold() for text in texts]
        chars = {c for name in self._tokenizer.specials()[1] for c in name if not c.isalnum() and not c.isspace()}
        chars |= {c for name in self._tokenizer.specials()[1] for c in (name[0], name[-1]) if not c.isspace()}
        used = {ord(c) for text in texts for c in text}
        if any(core in content for core in inner for content in contents):
            chars |= {chr(code) for code in used if not chr(code).isspace()}
        free = (code for code in range(0xF0000, 0xFFFFE) if code not in used)
        mask = {ord(char): code for char, code in zip(sorted(chars), free, strict=False)}
        return mask, {code: char for char, code in mask.items()}

    def _join(self, parts: Sequence[tuple[str, str]], unhide: Mapping[int, int]) -> list[int]:
        """Tokenize a split conversation, with llama.cpp's rules for the spaces around its control tokens."""
        tokens: list[int] = []
        run = ""
        strips = 0  # attributes of the last control token: whether it strips the spaces after it

        def flush(next_strips: int) -> list[int]:
            text = run.lstrip(_SPACES) if strips & C.LLAMA_TOKEN_ATTR_RSTRIP else run
            text = text.rstrip(_SPACES) if next_strips & C.LLAMA_TOKEN_ATTR_LSTRIP else text
            return self._tokenizer.tokenize(text) if text else []

        for source, text in parts:
            for plain, special in self._partition(text, source):
                run += plain.translate(unhide)
                if special is not None:
                    attributes = C.llama_vocab_get_attr(self._tokenizer.vocab, special)
                    tokens += [*flush(attributes), special]
                    run, strips = "", attributes
        return tokens + flush(0)

    def _with_bos(self, tokens: list[int]) -> list[int]:
        wants_bos = self._tokenizer.bos >= 0 and C.llama_vocab_get_add_bos(self._tokenizer.vocab)
        return tokens if not wants_bos or tokens[:1] == [self._tokenizer.bos] else [self._tokenizer.bos, *tokens]

    def _partition(self, text: str, source: str) -> list[tuple[str, int | None]]:
        """Split a text at the control tokens that may be in it: (plain text before, control token or None)."""
        pattern, ids = self._tokenizer.specials()
        if source != "template":
            pattern = self._own_marks() if source == "assistant" else _NOTHING
        result: list[tuple[str, int | None]] = []
        start = 0
        for match in pattern.finditer(text):
            result.append((text[start : match.start()], ids[match[0]]))
            start = match.end()
        return [*result, (text[start:], None)]


def _own_source(tokenizer: Tokenizer) -> str:
    source = tokenizer.chat_template()
    if source is None:
        raise GenerationError(
            "this model has no chat template, so it knows no roles: use generate_text, or load an instruct model"
        )
    return source


@functools.lru_cache(maxsize=16)
def _template(source: str, *names: tuple[str, str]) -> ChatTemplate:
    """Return a template, which remembers the form of reasoning that it found by rendering examples."""
    return ChatTemplate(source, **dict(names))


def _names(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the names of the special tokens as templates know them; of those that the file has."""
    ids = {"bos_token": tokenizer.bos, "eos_token": int(C.llama_vocab_eos(tokenizer.vocab))}
    value = ctypes.create_string_buffer(32)
    for name, key in _OTHER_SPECIALS.items():
        if C.llama_model_meta_val_str(tokenizer.model, f"tokenizer.ggml.{key}_token_id".encode(), value, len(value)) > 0:
            ids[name] = int(value.value) if value.value.isdigit() else -1
    texts = {name: tokenizer.token_text(token) for name, token in ids.items()}
    return [(name, text) for name, text in texts.items() if text or name in ("bos_token", "eos_token")]
