"""The lab's seven functions as exercises: how grading uses a student's function, and the file that collects them.

A model cannot be an input that is sent to a sandbox, nor a result that is sent back. So the first input of such an exercise
is a `Use`: it is called with the student's function, there where that runs, and returns plain values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from labkit.conformance.functions import scalar
from labkit.errors import ArgumentError
from labkit.output_files import write_atomic

_HEAD = '"""The seven functions of the lab, with llama_cpp and gguf: saved from the cells of chapter 09."""\n'
INFO_KEYS = (
    "architecture", "quantization", "parameter_count", "context_length", "file_size_bytes", "bits_per_weight",
    "block_count", "embedding_length", "head_count", "head_count_kv", "vocab_size",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Use:
    """How to use an answer: the first input of an exercise whose function needs a model; the others are its arguments."""

    name: str  # of the exercise

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what the function does with these inputs, as plain values."""
        return _USES[self.name](function, *inputs)


def _path() -> str:
    from labkit.models import bundled_model_path

    return str(bundled_model_path())


@lru_cache(maxsize=1)
def _llama() -> Any:
    from labkit.engine import load_model  # a Llama that does not stall on a busy machine

    return load_model(_path(), n_ctx=1024)


def _model() -> Any:
    """Return the bundled model, with nothing in its cache: an earlier prompt could change the rounding."""
    _llama().reset()
    return _llama()


def _load_model(function: Any, n_ctx: int, n_threads: int) -> Any:
    with contextlib.closing(function(_path(), n_ctx=n_ctx, n_threads=n_threads)) as model:
        found = [model.n_ctx(), model.n_threads, len(model.tokenize(b"Hello"))]
    try:
        function(f"{_path()}.missing")
    except Exception:  # any error is right
        return [*found, "an error"]
    return [*found, "no error"]


def _generate_text(function: Any, prompt: str, max_tokens: int, stop: str) -> Any:
    texts = [function(_model(), prompt, max_tokens=max_tokens, temperature=0)]
    texts.append(function(_model(), prompt, max_tokens=2 * max_tokens, temperature=0, stop=[stop]))
    drawn = [function(_model(), prompt, max_tokens=8, temperature=1.5, seed=seed) for seed in (1, 2, 3, 1)]
    return [*texts, len(set(drawn)) > 1, drawn[0] == drawn[3]]


def _generate_chat(function: Any, messages: list[dict[str, str]], max_tokens: int) -> Any:
    given = [dict(message) for message in messages]
    text = function(_model(), given, max_tokens=max_tokens, temperature=0)
    return [text.split()[:2], len(text) < 12 * max_tokens, given == messages]


def _values(found: Any, *keys: str) -> list[Any]:
    return [scalar(found[key]) for key in keys]


def _get_model_info(function: Any, shape: dict[str, int], quantization: str) -> Any:
    from labkit.ghost import build_ghost_model

    with tempfile.TemporaryDirectory() as folder:
        found = function(str(build_ghost_model(f"{folder}/model.gguf", shape=shape, quantization=quantization)))
        values = zip(INFO_KEYS, _values(found, *INFO_KEYS), strict=True)
        return {key: value.lower() if isinstance(value, str) else value for key, value in values}


def _estimate_memory_usage(function: Any, n_ctx: int) -> Any:
    keys = ("file_size_bytes", "weights_bytes", "kv_cache_bytes", "total_bytes")
    size, weights, cache, total = _values(function(_path(), n_ctx), *keys)
    fits = weights + cache + 2**20 < total < weights + cache + 2**29
    return [size, cache, math.isclose(weights, size, rel_tol=0.1), fits]


def _benchmark_inference(function: Any, n_prompts: int, max_tokens: int) -> Any:
    found = function(_model(), ["Once upon a time"] * n_prompts, max_tokens=max_tokens)
    long = function(_model(), ["The quick brown fox jumps over the lazy dog. " * 20], max_tokens=2)
    first, elapsed, total = _values(found, "time_to_first_token_s", "elapsed_s", "total_tokens")
    speed, memory, longer = *_values(found, "tokens_per_second", "memory_bytes"), *_values(long, "time_to_first_token_s")
    times = 0 < first <= elapsed and 0.4 < speed * elapsed / total < 2.5
    return [total, times, longer > first, 2**24 < memory < 2**44]


def _count_tokens(function: Any, text: str) -> Any:
    return scalar(function(_model(), text))


_USES: Mapping[str, Callable[..., Any]] = {
    "load_model": _load_model,
    "generate_text": _generate_text,
    "generate_chat": _generate_chat,
    "get_model_info": _get_model_info,
    "estimate_memory_usage": _estimate_memory_usage,
    "benchmark_inference": _benchmark_inference,
    "count_tokens": _count_tokens,
}


def save_functions(path: str | Path, functions: Sequence[Callable[..., Any]]) -> Path:
    """Write the cells that define functions into one Python file, imports first.

    It replaces a file that it has written before, and no other.

    Raises
    ------
    ArgumentError
        If the file is another one, or if the source of a function is unknown, because no cell or file defines it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_functions(f"{folder}/mine.py", [save_functions])
    ...     "def save_functions" in path.read_text(encoding="utf-8")
    True
    """
    sources = dict.fromkeys("".join(_lines(function)) for function in functions)
    imports, bodies = dict[str, None](), []
    for source in sources:
        lines = source.strip("\n").split("\n")
        imports |= dict.fromkeys(line for line in lines if line.startswith(("import ", "from ")) and not line.endswith("("))
        bodies.append("\n".join(line for line in lines if line not in imports).strip("\n"))
    target = Path(path).expanduser()
    if target.exists() and not target.read_bytes().startswith(_HEAD.encode()):
        raise ArgumentError(f"{target} exists and may have your work: choose another name, or move it")
    write_atomic(target, "\n".join([_HEAD, *sorted(imports), "", ""]) + "\n" + "\n\n\n".join(bodies) + "\n")
    return target


def _lines(function: Callable[..., Any]) -> list[str]:
    """Return the lines of the cell or file that defines a function."""
    code = getattr(function, "__code__", None)
    lines = linecache.getlines(code.co_filename) if code is not None else []
    if not lines:
        name = getattr(function, "__name__", type(function).__name__)
        raise ArgumentError(f"the source of {name} is unknown: run the cell that defines it, then this one")
    return lines
