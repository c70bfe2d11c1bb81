"""The tokenizer of a loaded model: text -> tokens, tokens -> bytes."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from labkit.checks import check_int, check_text, shown
from labkit.engine.job import Job, start_thread
from labkit.engine.native import C
from labkit.errors import ArgumentError, GenerationError

T = TypeVar("T")

ROLES = ("system", "user", "assistant", "tool")
_SPECIAL = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
_MARKER = re.compile(r"<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\]")
# A text of up to this many bytes is tokenized in the calling thread; a longer one may need more stack than it has.
_SMALL_BYTES = 400
_WAIT_S = 0.2
_LONGEST_RUN = 300_000
_RUN = r"[^\W\d_]+|\d+|\s+|(?:[^\w\s]|_)+"


class Tokenizer:
    """The vocabulary of a loaded model; a text never becomes a control token unless ``parse_special`` asks for it."""

    def __init__(self, model: Any, vocab: Any) -> None:
        self.model, self.vocab = model, vocab
        self.n_vocab = int(C.llama_vocab_n_tokens(vocab))
        self.bos = int(C.llama_vocab_bos(vocab))
        self._special: tuple[re.Pattern[str], dict[str, int]] | None = None
        self._piece = ctypes.create_string_buffer(256)
        self._running: set[threading.Thread] = set()
        self._marker_names: dict[int, str] | None = None
        self._silent: list[int] | None = None

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Return the token ids of a text; ``parse_special`` reads ``<|im_end|>`` as the control token of that name.

        ``add_special`` adds the model's tokens around a text (usually a beginning-of-sequence token).
        """
        return self._tokenize(check_text("text", text), add_special, parse_special)

    def prompt_tokens(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the tokens of a prompt; an empty one begins with the beginning-of-sequence token, if there is one."""
        tokens = self._tokenize(check_text("prompt", text), True, parse_special)
        if not tokens and self.bos < 0:
            raise ArgumentError("the prompt is empty and this model has no beginning-of-sequence token: write something")
        return tokens or [self.bos]

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        tokens = self._tokenize_whole(data, add_special, parse_special)
        if parse_special or self._markers().keys().isdisjoint(tokens):
            return tokens
        # llama.cpp parses "user defined" tokens in any text, so their names are split in two.
        halves = (f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in self._markers().values())
        pieces = [piece.encode() for piece in re.split("|".join(halves), data.decode())]
        return [
            token
            for index, piece in enumerate(pieces)
            for token in self._tokenize_whole(piece, add_special and index == 0, False)
        ]

    def _tokenize_whole(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        if len(data) <= _SMALL_BYTES:
            return self._tokenize_here(data, add_special, parse_special)
        return self.with_large_stack(lambda: self._tokenize_here(data, add_special, parse_special), data)

    def _tokenize_here(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        room = len(data) + 4
        tokens = (C.llama_token * room)()
        count = C.llama_tokenize(self.vocab, data, len(data), tokens, room, add_special, parse_special)
        if count < 0:
            tokens = (C.llama_token * -count)()
            count = C.llama_tokenize(self.vocab, data, len(data), tokens, -count, add_special, parse_special)
        if count < 0:
            raise GenerationError(f"the engine could not tokenize a text of {len(data):,} bytes")
        return tokens[:count]

    def with_large_stack(self, tokenize: Callable[[], T], data: bytes) -> T:
        """Tokenize a long text in a thread with a large stack; after a Ctrl-C it continues, and `wait` waits for it."""
        if len(data) >= _LONGEST_RUN:
            _refuse_long_runs(data.decode("utf-8", "replace"))
        outcome: Job[T] = Job(lambda _: tokenize())
        thread = start_thread(outcome.run, "labkit-tokenizer")
        self._running = {thread, *(other for other in self._running if other.is_alive())}
        while not outcome.done.wait(_WAIT_S):
            pass
        self._running.discard(thread)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result  # type: ignore[return-value]  # done without an error

    def wait(self) -> None:
        """Wait for threads left by an interrupt, before the vocabulary is freed."""
        for thread in list(self._running):
            thread.join()

    def token_text(self, token: int) -> str:
        """Return a token's name in the vocabulary, ``<|im_end|>`` for example; empty if there is no such token."""
        if not 0 <= token < self.n_vocab:
            return ""
        return str(C.llama_vocab_get_text(self.vocab, token).decode("utf-8", errors="replace"))

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text; none for a control token."""
        size = C.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        if size < 0:
            self._piece = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        return self._piece.raw[:size]

    def check_tokens(self, tokens: Any) -> None:
        """Refuse tokens outside this vocabulary: they would crash the process."""
        for token in tokens:
            check_int("a token", token, 0, self.n_vocab - 1)

    def silent_tokens(self) -> list[int]:
        """Return the tokens that add nothing to a text and do not end it."""
        if self._silent is None:
            attributes = C.llama_vocab_get_attr
            special = (token for token in range(self.n_vocab) if attributes(self.vocab, token) & _SPECIAL)
            self._silent = [token for token in special if not self.is_end(token)]
        return self._silent

    def is_end(self, token: int) -> bool:
        """Whether a token ends the text (end of turn, end of sequence)."""
        return bool(C.llama_vocab_is_eog(self.vocab, token))

    def chat_template(self, name: str | None = None) -> str | None:
        """Return a chat template of the file: one of a name ("tool_use", for conversations with tools), or the default."""
        source = C.llama_model_chat_template(self.model, name.encode() if name else None)
        return str(source.decode("utf-8", errors="replace")) if source else None

    def _markers(self) -> dict[int, str]:
        """Return the "user defined" tokens that the template uses to mark turns: id -> name."""
        if self._marker_names is None:
            source = "\n".join(filter(None, map(self.chat_template, (None, "tool_use"))))
            names = {*_MARKER.findall(source), *(f"<|{role}|>" for role in ROLES if "role" in source)}
            found = {name: self._tokenize_whole(name.encode(), False, True) for name in names}
            self._marker_names = {
                tokens[0]: name
                for name, tokens in found.items()
                if len(tokens) == 1 and C.llama_vocab_get_attr(self.vocab, tokens[0]) & C.LLAMA_TOKEN_ATTR_USER_DEFINED
            }
        return self._marker_names

    def specials(self) -> tuple[re.Pattern[str], dict[str, int]]:
        """Return a pattern of the names of control tokens and marks of turns, and their ids."""
        if self._special is None:
            attributes = C.llama_vocab_get_attr
            tokens = [token for token in range(self.n_vocab) if attributes(self.vocab, token) & _SPECIAL]
            tokens += self._markers()
            ids = {name: token for token in reversed(tokens) if (name := self.token_text(token))}
            names = sorted(ids, key=len, reverse=True)
            self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)"), ids
        return self._special


def _refuse_long_runs(text: str) -> None:
    run = next((match[0] for match in re.finditer(_RUN, text) if len(match[0]) >= _LONGEST_RUN), None)
    if run is not None:
        raise ArgumentError(
            f"the text has a run of {len(run):,} characters of one kind, from {shown(run[:12])} on, but the engine's "
            f"tokenizers accept fewer than {_LONGEST_RUN:,}: split it"
        )


Vocabulary = Tokenizer  # its name in the checks that are kept outside this repository
