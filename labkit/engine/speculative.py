"""Prompt-lookup decoding: verify several drafted tokens in one decode, where the engine computes the same numbers so.

One read of the weights serves all tokens of a decode, so that several cost little more than one. The draft is what followed
the same tokens before (`PromptLookup`); the sampler chooses from each row of logits in turn, and a drafted token stays as
long as it is the one that was chosen. So with the same numbers in the rows the text is the same, at any temperature and
under any grammar.

Are they the same numbers? The engine often adds up in another order for several tokens, activations are then rounded the
other way, and after 30 layers the logits differ by about 1 (bundled model, attention without flash): no margin between the
two likeliest tokens is safe from that. Nor does a look at some rows tell: activations are quantized, which hides a
difference of the last bit until one falls on the other side, so that some rows agree by luck. So drafting is for what was
read in the engine's source to be alike, and measured to be, bit for bit, over hundreds of rows (`_rounds_otherwise`). Beyond
that the first draft of each size, and the first in each 256 tokens of context, is computed both ways; a difference ends
drafting.

References
----------
Y. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023. llama.cpp
``ggml/src/ggml-cpu/llamafile/sgemm.cpp`` (attention without flash, from two tokens on), ``ops.cpp`` (flash attention divides
an F16 cache among the threads for one token alone, from 512 cells on), ``repack.cpp`` (Q4_K and others, four tokens a time).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.engine.bindings import C
from labkit.engine.contexts import second_context, token_batch
from labkit.engine.drafts import SIZES, Costs, Pace, PromptLookup
from labkit.engine.generate import Generation, decode
from labkit.engine.known_files import sound_file
from labkit.engine.results import GenerationReport, TextChunk
from labkit.errors import GenerationError, ModelLoadError

if TYPE_CHECKING:
    from labkit.engine.arguments import SamplingSettings
    from labkit.engine.model import Model
    from labkit.engine.sampler import Sampler
    from labkit.engine.worker import Job

__all__ = ["SpeculativeDecoder", "same_beginning"]

_CELLS = 256  # llama.cpp lets attention look at so many cells more at a time
_ADVICE = "load_model(…, flash_attn=True, type_k='q8_0', type_v='q8_0')"
# What was measured: see the module's docstring. ggml's ids of the cache's types: F16 and Q8_0.
_KEY_TYPES, _VALUE_TYPES, _WEIGHT_TYPES = (1, 8), (8,), {"Q4_0", "Q4_1", "Q8_0"}


class Trust:
    """Which decodes gave the same numbers as single-token decodes: by tokens together, and by cells of context.

    Attributes
    ----------
    blocks : set of int
        Blocks of 256 cells in which rows were compared.
    sizes : set of int
        Tokens together of which every row was compared.
    """

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self.sizes: set[int] = set()
        self._bad_block: float = float("inf")
        self._bad_size: float = float("inf")

    def usable(self, block: int) -> tuple[int, ...]:
        """Return the sizes that were not found to differ."""
        return () if block >= self._bad_block else tuple(size for size in SIZES if size < self._bad_size)

    def checked(self, block: int) -> set[int]:
        """Return the sizes that need no check in a block."""
        return self.sizes if block in self.blocks else set()

    def note(self, block: int, size: int, *, equal: bool, n_rows: int) -> None:
        """Take note of a check that compared ``n_rows`` rows."""
        if equal:
            if n_rows > 1:
                self.blocks.add(block)
            if n_rows == size:
                self.sizes.add(size)
        elif size in self.sizes or size == SIZES[0]:
            self._bad_block = min(self._bad_block, block)
        else:
            self._bad_size = min(self._bad_size, size)

    def refusal(self, block: int) -> str | None:
        """Say why nothing can be verified from a block on, if so."""
        if self.usable(block):
            return None
        since = f" from {self._bad_block * _CELLS:,.0f} tokens of context on" if self._bad_block else ""
        return (
            f"this engine rounds otherwise for several tokens together than for one{since}, which could change the text: "
            "nothing can be drafted there"
        )


class SpeculativeDecoder:
    """What a model keeps between speculative texts: a context with rows for a draft, times, and what was found to agree.

    The context is made at the first text and stays until the model is closed, so that what the next prompt begins with need
    not be computed again; the model's own context, and what it holds for reuse, is left alone.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._stack = contextlib.ExitStack()
        self._ctx: Any = None
        self._batch: Any = None
        self._cached_prompt: list[int] = []
        self.trust, self.costs = Trust(), Costs()

    def refusal(self, n_prompt: int) -> str | None:
        """Say why a text is better made without drafts, if so; makes the context otherwise."""
        reason = self._unfit() or self.trust.refusal(n_prompt // _CELLS)
        if reason is not None or self._ctx is not None:
            return reason
        settings = self._model.settings
        try:
            context = second_context(self._model, n_ctx=settings.n_ctx, n_batch=settings.n_batch, n_rows=SIZES[-1])
            self._ctx = self._stack.enter_context(context)
        except (ModelLoadError, GenerationError) as error:
            return f"no second context: {error}"
        self._batch = self._stack.enter_context(token_batch(SIZES[-1]))
        return None

    def _unfit(self) -> str | None:
        model = self._model
        if model._is_recurrent or model._is_hybrid:
            return "this model has layers with a state, which cannot go back to before a draft"
        if C.llama_model_n_swa(model._model.model) and not model.settings.swa_full:
            return "the cache of a sliding window cannot go back to before a draft: load_model(…, swa_full=True) can"
        if (difference := _rounds_otherwise(model)) is not None:
            return f"{difference} may round otherwise for several tokens than for one, which could change the text"
        if model.settings.n_ubatch < SIZES[-1]:
            return f"n_ubatch={model.settings.n_ubatch} is too small for a draft: load with {SIZES[-1]} or more"
        return None

    def run(
        self,
        job: Job[Any],
        prompt: list[int],
        max_tokens: int,
        settings: SamplingSettings,
        emit: Callable[[TextChunk], None],
    ) -> GenerationReport:
        """Generate; on an error or an early end the cache is emptied."""
        generation = _Speculation(self, prompt, max_tokens, settings)
        n_reused = self._prepare(prompt)
        try:
            report = generation.run(job, emit, n_reused)
        except BaseException:
            self._forget()
            raise
        if report.finish_reason == "cancelled":
            self._forget()
        if self.trust.refusal(0) is not None:
            self.close()
        return report

    def _prepare(self, prompt: list[int]) -> int:
        """Cut the cache to what can be used again bit for bit; returns how many tokens that is."""
        model = self._model
        same = same_beginning(self._cached_prompt, prompt, model.settings.n_ubatch) if model._may_reuse() else 0
        if not same or not C.llama_memory_seq_rm(C.llama_get_memory(self._ctx), 0, same, -1):
            self._forget()
            same = 0
        self._cached_prompt = prompt
        return same

    def _forget(self) -> None:
        C.llama_memory_clear(C.llama_get_memory(self._ctx), False)
        self._cached_prompt = []

    def close(self) -> None:
        """Free the context."""
        self._stack.close()
        self._ctx = self._batch = None
        self._cached_prompt = []


class _Speculation(Generation):
    """One run of the loop that verifies drafts."""

    def __init__(self, home: SpeculativeDecoder, prompt: list[int], max_tokens: int, settings: SamplingSettings) -> None:
        model = home._model
        super().__init__(home._ctx, model._own_tokenizer, model.n_batch, prompt, max_tokens, settings)
        self._trust, self._costs, self._batch, self._n_vocab = home.trust, home.costs, home._batch, model.n_vocab()
        self._memory = C.llama_get_memory(self.ctx)
        self._slot = (C.llama_token * 1)()
        self._one = C.llama_batch_get_one(self._slot, 1)
        self._pace = Pace(home.costs)
        self._size = 0  # tokens of the decode whose draft is being verified; 0 while there is none
        self._draft: list[int] = []
        self._n_ok = 0  # drafted tokens that were chosen
        self._rows: Any = None  # what a draft gave that is being checked
        self.n_drafted = self.n_accepted = 0

    def _loop(self, job: Job[Any], sampler: Sampler, emit: Callable[[TextChunk], None]) -> None:
        self._lookup = PromptLookup(self.prompt)
        row = -1  # of the batch: its last, the only one after the prompt and after a single token
        while self._take(sampler.sample(self.ctx, row), job, emit):
            self._lookup.add(self.tokens[-1])
            if self._next_is_accepted():
                self.n_accepted += 1
                if self._rows is None:
                    row += 1  # its logits are there already
                    continue
                self._single(job)
                self._compare()
            else:
                self._settle()
                row = 0 if self._compute(job) else -1

    def _next_is_accepted(self) -> bool:
        if self._n_ok >= len(self._draft) or self._draft[self._n_ok] != self.tokens[-1]:
            return False
        self._n_ok += 1
        return True

    def _settle(self) -> None:
        """Take leave of a draft: what was not chosen leaves the cache."""
        if not self._size:
            return
        if self._rows is not None:
            self._trust.note(self._block(), self._size, equal=True, n_rows=self._n_ok + 1)
        elif self._n_ok < len(self._draft):
            self._roll_back()
        self._pace.verified(self._size, self._n_ok)
        self._size, self._draft, self._n_ok, self._rows = 0, [], 0, None

    @property
    def _n_past(self) -> int:
        """Tokens in the cache that stay: all but the last, which is about to be computed."""
        return len(self.prompt) + len(self.tokens) - 1

    def _block(self) -> int:
        return self._n_past // _CELLS

    def _roll_back(self) -> None:
        if not C.llama_memory_seq_rm(self._memory, 0, self._n_past, -1):
            raise GenerationError("the engine could not take a draft out of its cache: generate without speculative")

    def _compute(self, job: Job[Any]) -> bool:
        """Compute the last token, and a draft where that is worth it; returns whether there is a row for each."""
        size = self._choose()
        if not size:
            self._single(job)
            return False
        self._size, self._draft = size, self._lookup.draft(size - 1)
        self.n_drafted += size - 1
        self._several([self.tokens[-1], *self._draft], job)
        if size in self._trust.checked(self._block()):
            return True
        self._rows = [self._row(index).copy() for index in range(size)]
        self._roll_back()
        self._single(job)
        self._compare()
        return False

    def _choose(self) -> int:
        """Return the tokens to compute together: no more than may still be asked for, nor over a block's end."""
        match = self._lookup.match()
        if not match:
            return 0
        room = min(self.max_tokens - len(self.tokens), _CELLS - self._n_past % _CELLS)
        sizes = [size for size in self._trust.usable(self._block()) if size <= room]
        return self._pace.size(sizes, match, self._trust.checked(self._block()))

    def _single(self, job: Job[Any]) -> None:
        self._slot[0] = self.tokens[-1]
        begun = time.perf_counter()
        decode(self.ctx, self._one, job)
        C.llama_synchronize(self.ctx)
        self._costs.single(time.perf_counter() - begun)

    def _several(self, tokens: list[int], job: Job[Any]) -> None:
        batch, start = self._batch, self._n_past
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.logits[index] = token, start + index, 1
        batch.n_tokens = len(tokens)
        begun = time.perf_counter()
        decode(self.ctx, batch, job)
        C.llama_synchronize(self.ctx)
        self._costs.several(len(tokens), time.perf_counter() - begun)

    def _row(self, index: int) -> Any:
        return np.ctypeslib.as_array(C.llama_get_logits_ith(self.ctx, index), (self._n_vocab,))

    def _compare(self) -> None:
        """Compare the row of a single token with the one that it had in a draft; a difference ends the check."""
        if np.array_equal(self._rows[self._n_ok], self._row(-1)):
            return
        self._trust.note(self._block(), self._size, equal=False, n_rows=self._n_ok + 1)
        self._size, self._draft, self._n_ok, self._rows = 0, [], 0, None

    def report(self) -> GenerationReport:
        """Return the figures of this run."""
        return dataclasses.replace(
            super().report(), n_drafted=self.n_drafted, n_accepted=self.n_accepted, speculation_off=self._why_off()
        )

    def _why_off(self) -> str | None:
        reason = self._trust.refusal(self._block())
        if reason is None and self._pace.rests:
            return f"it did not pay: {self.n_accepted:,} of {self.n_drafted:,} drafted tokens were accepted"
        return reason


def _rounds_otherwise(model: Model) -> str | None:
    """Say which part of the computation is not known to give the same numbers for several tokens as for one, if any is."""
    from labkit.system import engine_build

    settings = model.settings
    if settings.devices or settings.n_gpu_layers:
        return "other devices than this CPU"
    if "AVX512" not in engine_build().features:
        return "the kernels for this CPU (only those for AVX-512 were measured)"
    if not settings.flash_attn or settings.type_k not in _KEY_TYPES or settings.type_v not in _VALUE_TYPES:
        return f"attention with these settings ({_ADVICE} does not)"
    if model._lora_adapter is not None:
        return "a LoRA adapter"
    matrices = sound_file(Path(model.model_path)).matrices
    if any("_exps" in name for name, *_ in matrices):
        return "a mixture of experts"
    others = sorted({kind for _, kind, *_ in matrices} - _WEIGHT_TYPES)
    return f"weights in {', '.join(others)} ({', '.join(sorted(_WEIGHT_TYPES))} do not)" if others else None


def same_beginning(cached: list[int], prompt: list[int], step: int) -> int:
    """Return how many tokens of a cached prompt serve the next one: whole computations, and never all of it.

    Examples
    --------
    >>> same_beginning([1, 2, 3, 4, 5], [1, 2, 3, 4, 9], 2)
    4
    """
    most = min(len(cached), len(prompt) - 1)
    return next((index for index in range(most) if prompt[index] != cached[index]), most) // step * step
