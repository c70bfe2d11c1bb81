"""Shapes of ghost models: a table of real models' shapes, and a tiny one per architecture for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from labkit.checks import nearest
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.ghost.shape import READS, Shape, checked
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class GhostShape(Record):
    """A named shape for `build_ghost_model`.

    Attributes
    ----------
    architecture : str
        As in ``general.architecture``.
    name : str
        The name to give as ``shape``.
    source : str
        The model whose configuration has these sizes; the tiny shapes are artificial.
    settable : tuple of str
        The allowed keys in a dict of changes.
    shape : Shape
        The sizes.
    """

    architecture: str
    name: str
    source: str
    settable: tuple[str, ...]
    shape: Shape


_TINY = "artificial, for tests"
_SMALL: dict[str, Any] = {"n_vocab": 512, "n_ctx_train": 2048, "n_embd": 256, "n_layer": 2}
_HEADS: dict[str, Any] = {"n_ff": 512, "n_head": 4, "n_head_kv": 2}
_MAMBA: dict[str, Any] = {"ssm_d_conv": 4, "ssm_d_state": 16}


def _llama2(n_embd: int, n_layer: int, n_ff: int, n_head: int, n_head_kv: int) -> Shape:
    return Shape(32_000, 4096, n_embd, n_layer, False, 1e-5, n_ff, n_head, n_head_kv)


def _llama3(n_embd: int, n_layer: int, n_ff: int, n_head: int, *, tied: bool = True) -> Shape:
    return Shape(128_256, 131_072, n_embd, n_layer, tied, 1e-5, n_ff, n_head, 8, freq_base=500_000.0)


def _qwen2(n_vocab: int, n_embd: int, n_layer: int, n_ff: int, n_head: int, n_head_kv: int, *, tied: bool = True) -> Shape:
    return Shape(n_vocab, 131_072, n_embd, n_layer, tied, 1e-6, n_ff, n_head, n_head_kv, freq_base=1e6)


def _qwen3(n_embd: int, n_layer: int, n_ff: int, n_head: int, n_head_kv: int = 8, **more: Any) -> Shape:
    return Shape(151_936, 40_960, n_embd, n_layer, norm_eps=1e-6, n_ff=n_ff, n_head=n_head, n_head_kv=n_head_kv,
                 n_embd_head=128, freq_base=1e6, **more)  # fmt: skip


def _gemma3(n_ctx_train: int, n_embd: int, n_layer: int, n_ff: int, n_head: int, n_head_kv: int, n_swa: int) -> Shape:
    return Shape(262_144, n_ctx_train, n_embd, n_layer, True, 1e-6, n_ff, n_head, n_head_kv, 256, 1e6, n_swa=n_swa)


# fmt: off
SHAPES: dict[str, dict[str, tuple[str, Shape]]] = {
    "llama": {
        "tiny": (_TINY, Shape(**_SMALL, **_HEADS)),
        "135M": ("SmolLM2-135M", Shape(49_152, 8192, 576, 30, True, 1e-5, 1536, 9, 3, freq_base=100_000.0)),
        "1B": ("Llama-3.2-1B", _llama3(2048, 16, 8192, 32)),
        "3B": ("Llama-3.2-3B", _llama3(3072, 28, 8192, 24)),
        "7B": ("Llama-2-7B", _llama2(4096, 32, 11_008, 32, 32)),
        "8B": ("Llama-3.1-8B", _llama3(4096, 32, 14_336, 32, tied=False)),
        "13B": ("Llama-2-13B", _llama2(5120, 40, 13_824, 40, 40)),
        "70B": ("Llama-2-70B", _llama2(8192, 80, 28_672, 64, 8)),
        "tiny-moe": (_TINY, Shape(**_SMALL, **_HEADS, n_expert=4, n_expert_used=2)),
        "8x7B": ("Mixtral-8x7B-v0.1", Shape(32_000, 32_768, 4096, 32, False, 1e-5, 14_336, 32, 8, freq_base=1e6,
                                            n_expert=8, n_expert_used=2)),
    },
    "qwen2": {
        "tiny": (_TINY, Shape(**_SMALL, **_HEADS)),
        "0.5B": ("Qwen2-0.5B", _qwen2(151_936, 896, 24, 4864, 14, 2)),
        "1.5B": ("Qwen2-1.5B", _qwen2(151_936, 1536, 28, 8960, 12, 2)),
        "7B": ("Qwen2-7B", _qwen2(152_064, 3584, 28, 18_944, 28, 4, tied=False)),
    },
    "qwen3": {
        "tiny": (_TINY, Shape(**_SMALL, **_HEADS)),
        "0.6B": ("Qwen3-0.6B", _qwen3(1024, 28, 3072, 16)),
        "4B": ("Qwen3-4B", _qwen3(2560, 36, 9728, 32)),
        "8B": ("Qwen3-8B", _qwen3(4096, 36, 12_288, 32, tied=False)),
    },
    "gemma3": {
        "tiny": (_TINY, Shape(**_SMALL | {"n_layer": 6}, **_HEADS, freq_base=1e6, n_swa=64)),
        "270M": ("Gemma-3-270M", _gemma3(32_768, 640, 18, 2048, 4, 1, 512)),
        "1B": ("Gemma-3-1B", _gemma3(32_768, 1152, 26, 6912, 4, 1, 512)),
        "4B": ("Gemma-3-4B", _gemma3(131_072, 2560, 34, 10_240, 8, 4, 1024)),
    },
    "qwen3moe": {
        "tiny": (_TINY, Shape(**_SMALL, **_HEADS, n_expert=8, n_expert_used=2, n_ff_exp=256)),
        "30B-A3B": ("Qwen3-30B-A3B", _qwen3(2048, 48, 6144, 32, 4, tied=False, n_expert=128, n_expert_used=8, n_ff_exp=768)),
    },
    "deepseek2": {
        "tiny": (_TINY, Shape(**_SMALL, tied=False, n_ff=512, n_head=4, n_expert=8, n_expert_used=2, n_ff_exp=256,
                              n_expert_shared=1, n_layer_dense=1, n_lora_kv=128, n_rot=32, n_embd_head_k_mla=96,
                              n_embd_head_v_mla=64)),
        "16B": ("DeepSeek-V2-Lite", Shape(102_400, 163_840, 2048, 27, False, 1e-6, 10_944, 16, n_expert=64, n_expert_used=6,
                                          n_ff_exp=1408, n_expert_shared=2, n_layer_dense=1, n_lora_kv=512, n_rot=64,
                                          n_embd_head_k_mla=192, n_embd_head_v_mla=128)),
    },
    "mamba": {
        "tiny": (_TINY, Shape(**_SMALL, **_MAMBA)),
        "130M": ("mamba-130m", Shape(50_280, 1_048_576, 768, 24, **_MAMBA)),
        "2.8B": ("mamba-2.8b", Shape(50_280, 1_048_576, 2560, 64, **_MAMBA)),
    },
    "jamba": {
        "tiny": (_TINY, Shape(**_SMALL | {"n_layer": 4}, **_HEADS, **_MAMBA, attention_layers=(1, 3), n_expert=4,
                              n_expert_used=2, expert_every=2)),
        "52B": ("Jamba-v0.1", Shape(65_536, 262_144, 4096, 32, False, 1e-6, 14_336, 32, 8, **_MAMBA,
                                    attention_layers=(4, 12, 20, 28), n_expert=16, n_expert_used=2, expert_every=2)),
    },
}
# fmt: on


def ghost_shapes(architecture: str | None = None) -> tuple[GhostShape, ...]:
    """List the named shapes, of one architecture or of all.

    Raises
    ------
    ArgumentError
        When there is no such architecture.

    Examples
    --------
    >>> [shape.name for shape in ghost_shapes("gemma3")]
    ['tiny', '270M', '1B', '4B']
    """
    names = list(SHAPES) if architecture is None else [_architecture(architecture)]
    return tuple(
        GhostShape(arch, name, source, READS[arch], shape)
        for arch in names
        for name, (source, shape) in SHAPES[arch].items()
    )


def find_shape(architecture: str, shape: str | Mapping[str, Any]) -> GhostShape:
    """Return a shape by its name, or the architecture's tiny shape with some sizes changed."""
    rows = SHAPES[_architecture(architecture)]
    if isinstance(shape, Mapping):
        source, base = rows["tiny"]
        return GhostShape(architecture, "tiny", source, READS[architecture], checked(architecture, base, shape))
    if not isinstance(shape, str):
        raise ArgumentTypeError(f"shape must be a name or a dict of numbers, not {type(shape).__name__}: try shape='tiny'")
    by_name = {name.upper(): name for name in rows}
    if shape.strip().upper() not in by_name:
        homes = [arch for arch, others in SHAPES.items() if shape in others]
        hint = f" (architecture={homes[0]!r} has)" if homes else ""
        raise ArgumentError(
            f"{architecture} has no shape {shape[:60]!r}{hint}; its shapes are {', '.join(rows)}, or give a dict"
        )
    name = by_name[shape.strip().upper()]
    source, base = rows[name]
    return GhostShape(architecture, name, source, READS[architecture], base)


def _architecture(name: str) -> str:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"architecture must be a name, not {type(name).__name__}: try 'llama'")
    if name in SHAPES:
        return name
    near = nearest(name.lower(), SHAPES)
    hint = f" (did you mean {near!r}?)" if near else ""
    raise ArgumentError(f"there are no ghost models of architecture {name[:60]!r}{hint}; choose one of {', '.join(SHAPES)}")
