"""Preflight refuses files that would abort the process in llama.cpp, and no file that works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import GGUFError
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import TENSOR_TYPES
from labkit.gguf_file.preflight import preflight
from tests import gguf_models as models
from tests.gguf_engine import EngineChild
from tests.gguf_kinds import KINDS
from tests.gguf_models import Parts
from tests.gguf_mutants import mutate
from tests.gguf_zoo import ARRAY, BOOL, F32, I32, STRING, U32

N_MUTANTS = 400  # `python -m tests.fuzz_gguf engine --count 20000` loads more


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineChild]:
    with EngineChild() as child:
        yield child


def _with(number: int, value: Any, element: int | None = None) -> tuple[int, Any, int | None]:
    return number, value, element


def _changed(base: Parts, **keys: tuple[int, Any, int | None]) -> Parts:
    copy = base.copy()
    for name, entry in keys.items():
        copy.keys[name.replace("__", ".")] = entry
    return copy


def _retyped(base: Parts, tensor: str, kind: int) -> Parts:
    copy = base.copy()
    shape = copy.tensors[tensor][0]
    copy.tensors[tensor] = (shape, kind, bytes(models.n_bytes(shape, kind)))
    return copy


def _tokens(base: Parts, changes: dict[int, str]) -> Parts:
    tokens = list(base.keys["tokenizer.ggml.tokens"][1])
    for index, token in changes.items():
        tokens[index] = token
    return base.set("tokenizer.ggml.tokens", tokens)


LLAMA = models.llama()
GPT2 = models.llama(tokenizer="gpt2")
INTEGERS = {row.name: number for number, row in TENSOR_TYPES.items()}


def _kind(name: str, **numbers: int) -> Parts:
    """Return a model of another kind with some of its keys changed."""
    return _changed(KINDS[name](), **{f"{name}__{key}": _with(U32, value) for key, value in numbers.items()})


def _sections(*sizes: int) -> Parts:
    """Return a model whose rotation has sections."""
    return _changed(models.llama(architecture="qwen2vl"), qwen2vl__rope__dimension_sections=_with(ARRAY, list(sizes), I32))


def _without(base: Parts, tensor: str) -> Parts:
    return Parts(base.keys, {name: entry for name, entry in base.tensors.items() if name != tensor})


BEYOND = _changed(LLAMA, tokenizer__ggml__model=_with(STRING, "t5"), tokenizer__ggml__bos_token_id=_with(U32, 99_999))

# Each of these files aborts the process in llama.cpp, with preflight's error.
KILLERS: dict[str, tuple[Parts, str]] = {
    "no layers": (LLAMA.set("llama.block_count", 0), r"block_count' is 0, 1 to 512"),
    "513 layers": (LLAMA.set("llama.block_count", 513), r"block_count' is 513"),
    "2^31 layers": (LLAMA.set("llama.block_count", 1 << 31), r"block_count' is 2,147,483,648"),
    "next-token layers": (_changed(LLAMA, llama__nextn_predict_layers=_with(U32, 3)), r"nextn_predict_layers' is 3 of 2"),
    "too many experts": (_changed(LLAMA, llama__expert_count=_with(U32, 1025)), r"expert_count' is 1,025, 1,024 at most"),
    "unused experts": (_changed(LLAMA, llama__expert_count=_with(U32, 8)), r"expert_used_count' is 0 of 8"),
    "used without experts": (_changed(LLAMA, llama__expert_used_count=_with(U32, 2)), r"expert_used_count' is 2 of 0"),
    "groups without experts": (_changed(LLAMA, llama__expert_group_count=_with(U32, 2)), r"expert_group_count' is 2 for 0"),
    "unknown rope scaling": (_changed(LLAMA, llama__rope__scaling__type=_with(STRING, "x")), r"scaling.type' is 'x', known"),
    "NaN epsilon": (
        LLAMA.set("llama.attention.layer_norm_rms_epsilon", float("nan")), r"layer_norm_rms_epsilon' is nan, a finite"),
    "negative epsilon": (
        LLAMA.set("llama.attention.layer_norm_rms_epsilon", -1.0), r"layer_norm_rms_epsilon' is -1, zero or more"),
    "same token twice": (_tokens(GPT2, {300: "the"}), r"same token 'the' twice, at \d+ and 300"),
    "same token before a zero byte": (_tokens(GPT2, {300: "the\0x"}), r"same token 'the' twice, at \d+ and 300"),
    "same token as an empty one": (_tokens(GPT2, {300: "", 301: "[EMPTY_300]"}), r"twice, at 300 and 301"),
    "no vocabulary": (LLAMA.set("tokenizer.ggml.model", "none"), r"without a vocabulary there is no text"),
    "no byte tokens": (_tokens(LLAMA, {3 + 0xF0: "x y z"}), r"no token <0xF0> for the byte 240"),
    "byte tokens in bert": (LLAMA.set("tokenizer.ggml.model", "bert"), r"marks byte tokens"),
    "norm in Q4_0": (_retyped(LLAMA, "blk.0.attn_norm.weight", INTEGERS["Q4_0"]), r"attn_norm.weight' is Q4_0, a vector"),
    "norm in F16": (_retyped(LLAMA, "output_norm.weight", INTEGERS["F16"]), r"output_norm.weight' is F16, a vector"),
    "begin token outside the vocabulary": (BEYOND, r"bos_token_id' is 99999, the vocabulary has 320 tokens"),
    "half a rotation": (_kind("qwen2", rope__dimension_count=8), r"dimension_count' is 8, qwen2 rotates all 16"),
    "uneven head lengths": (
        _kind("qwen2", attention__key_length=32, rope__dimension_count=32), r"key heads of 32 and value heads of 16, qwen2"),
    "odd rotation": (_kind("gemma2", rope__dimension_count=15), r"dimension_count' is 15, an even number up to .* 16"),
    "window of 2^31-1": (_kind("gemma3", attention__sliding_window=(1 << 31) - 1), r"sliding_window' is 2,147,483,647"),
    "sections too long": (_sections(2, 3, 255, 0), r"sections' is \[2, 3, 255, 0\], sizes that add up to 1 to 16"),
    "no sections": (_sections(0, 0, 0, 5), r"sections' is \[0, 0, 0, 5\]"),
    "sections of nothing": (_sections(1, -1, 0, 0), r"sections' is \[1, 4294967295, 0, 0\]"),
    "latent key too short": (_kind("deepseek2", attention__key_length=40), r"key_length' is 40, kv_lora_rank 32 and .* 16"),
    "latent key all rotated": (_kind("deepseek2", attention__key_length_mla=16), r"16 of 16 dimensions of a head"),
    "two latent keys": (_kind("deepseek2", attention__head_count_kv=2), r"head_count_kv' is 2, latent attention needs 1"),
    "attention weights missing": (_without(KINDS["phi3"](), "blk.1.attn_qkv.weight"), r"'blk.1.attn_qkv.weight' is missing"),
    "convolution in BF16": (_retyped(KINDS["mamba"](), "blk.0.ssm_conv1d.weight", INTEGERS["BF16"]), r"conv1d.* is BF16"),
    "state in F16": (_retyped(KINDS["mamba"](), "blk.0.ssm_d", INTEGERS["F16"]), r"ssm_d' is F16, a vector"),
    "weights in I8": (_retyped(LLAMA, "blk.1.ffn_up.weight", INTEGERS["I8"]), r"ffn_up.weight' holds weights as I8"),
    "weights in I32": (_retyped(LLAMA, "blk.1.ffn_up.weight", INTEGERS["I32"]), r"ffn_up.weight' holds weights as I32"),
    "weights in F64": (_retyped(LLAMA, "token_embd.weight", INTEGERS["F64"]), r"token_embd.weight' holds weights as F64"),
    "weights in Q8_1": (_retyped(LLAMA, "blk.0.attn_v.weight", INTEGERS["Q8_1"]), r"attn_v.weight' holds weights as Q8_1"),
}  # fmt: skip

BERT_OF_TWO = _changed(
    GPT2,
    tokenizer__ggml__model=_with(STRING, "bert"),
    tokenizer__ggml__tokens=_with(ARRAY, ["a", "b"], STRING),
    tokenizer__ggml__token_type=_with(ARRAY, [1, 1], I32),
)

# llama.cpp may survive these files, but they are useless.
REFUSED: dict[str, tuple[Parts, str]] = {
    "context of 0": (LLAMA.set("llama.context_length", 0), r"context_length' is 0"),
    "context of 2^32-1": (LLAMA.set("llama.context_length", (1 << 32) - 1), r"context_length' is 4,294,967,295.*exhaust"),
    "endless output": (
        _changed(LLAMA, llama__embedding_length_out=_with(U32, 3_549_454_885)), r"length_out' is 3,549,454,885, but no te"),
    "NaN rope": (LLAMA.set("llama.rope.freq_base", float("nan")), r"rope.freq_base' is nan.*make every result NaN"),
    "no rotation": (_kind("gemma2", rope__dimension_count=0), r"dimension_count' is 0, an even number"),
    "infinite rope": (LLAMA.set("llama.rope.freq_base", float("inf")), r"rope.freq_base' is inf"),
    "odd rope": (LLAMA.set("llama.rope.dimension_count", 15), r"rope.dimension_count' is 15, an even number up to .* 16"),
    "long rope": (LLAMA.set("llama.rope.dimension_count", 32), r"rope.dimension_count' is 32"),
    "uneven heads": (LLAMA.set("llama.attention.head_count_kv", 3), r"layer 0 has 4 query heads for 3 key heads"),
    "uneven heads in one layer": (
        _changed(LLAMA, llama__attention__head_count_kv=_with(ARRAY, [2, 3], U32)), r"layer 1 has 4 query heads for 3"),
    "an audio model": (LLAMA.set("general.architecture", "clip"), "this is a vision or audio projector"),
    "an adapter": (_changed(LLAMA, general__type=_with(STRING, "adapter")), r"this is an adapter \(LoRA\), not a model"),
    "rwkv without bytes": (GPT2.set("tokenizer.ggml.model", "rwkv"), r"no token for the byte 0"),
    "bert without its special tokens": (BERT_OF_TWO, r"bos_token_id' is 319, the vocabulary has 2"),
    "a tensor without elements": (
        Parts(LLAMA.keys, {**LLAMA.tensors, "x": ((0, 4), 0, b"")}), r"tensor 'x' has the shape \(0, 4\), without elements"),
    "experts in odd groups": (
        _changed(LLAMA, llama__expert_count=_with(U32, 8), llama__expert_used_count=_with(U32, 2),
                 llama__expert_group_count=_with(U32, 3)), r"8 experts in 3 groups of which 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", KILLERS)
def test_preflight_refuses_files_that_crash_llama_cpp(name: str, tmp_path: Path, engine: EngineChild) -> None:
    """Each file aborts the process in llama.cpp, and preflight refuses it in one line that names the cause."""
    parts, expect = KILLERS[name]
    path = parts.write(tmp_path / "model.gguf")
    with pytest.raises(GGUFError, match=expect) as caught:
        preflight(read_header(path))
    assert "\n" not in str(caught.value)
    assert engine.load(path, confirm=False).startswith("DIED"), "the engine survives: is the check still needed?"


@pytest.mark.parametrize("name", REFUSED)
def test_preflight_refuses_useless_files(name: str, tmp_path: Path) -> None:
    """Each file is refused in one line that names the key or the tensor."""
    parts, expect = REFUSED[name]
    with pytest.raises(GGUFError, match=expect) as caught:
        preflight(read_header(parts.write(tmp_path / "model.gguf")))
    assert "\n" not in str(caught.value)


SOUND: dict[str, Parts] = {
    "sentencepiece": LLAMA,
    "byte pairs": GPT2,
    "Q8_0": models.llama(matrix=models.Q8_0_TYPE),
    "F32": models.llama(matrix=models.F32_TYPE),
    "one layer, one head": models.llama(n_layer=1, n_head=1, n_head_kv=1),
    "many layers": models.llama(n_layer=40, n_embd=32, n_head=2, n_head_kv=1, n_ff=32),
    "empty tokens": _tokens(GPT2, {300: "", 301: ""}),
    "tokens that are invalid UTF-8 when cut": _tokens(GPT2, {300: "\u20ac", 301: "\0"}),
    "a head count for each layer": _changed(LLAMA, llama__attention__head_count_kv=_with(ARRAY, [2, 2], U32)),
    "sections": _sections(2, 3, 3, 0),
    "yarn": _changed(LLAMA, llama__rope__scaling__type=_with(STRING, "yarn"), llama__rope__scaling__factor=_with(F32, 4.0)),
    "no rope.dimension_count": Parts({k: v for k, v in LLAMA.keys.items() if "dimension" not in k}, LLAMA.tensors),
    "no end token added": _changed(GPT2, tokenizer__ggml__add_eos_token=_with(BOOL, False)),
    "several output streams": _changed(LLAMA, llama__embedding_length_out=_with(U32, 256)),
    "long context": LLAMA.set("llama.context_length", 10_485_760),
    **{name: build() for name, build in KINDS.items()},
}


@pytest.mark.parametrize("name", SOUND)
def test_preflight_accepts_valid_models(name: str, tmp_path: Path, engine: EngineChild) -> None:
    """A file that llama.cpp can load and use is not refused."""
    path = SOUND[name].write(tmp_path / "model.gguf")
    assert preflight(read_header(path)) == ()
    assert engine.load(path) == "ok"


def test_preflight_warns_about_files_that_llama_cpp_refuses(tmp_path: Path) -> None:
    """A table that matches neither the width nor the vocabulary, and an encoder, each give a warning."""
    odd = LLAMA.copy()
    odd.keys["llama.embedding_length"] = (U32, 128, None)
    odd.keys["tokenizer.ggml.tokens"] = (ARRAY, LLAMA.keys["tokenizer.ggml.tokens"][1][:-1], STRING)
    odd.keys["llama.context_length"] = (U32, 1 << 25, None)
    sentences = preflight(read_header(odd.write(tmp_path / "odd.gguf")))
    assert [part in " ".join(sentences) for part in ("64 wide", "320 rows", "33,554,432")] == [True, True, True]
    bert = LLAMA.set("general.architecture", "bert").write(tmp_path / "bert.gguf")
    assert "is an encoder" in preflight(read_header(bert))[0]


def test_preflight_finds_a_duplicate_token_in_a_large_vocabulary(tmp_path: Path) -> None:
    """The two positions of a duplicate among 262,144 tokens are named."""
    tokens = [f"token {i}" for i in range(1 << 18)]
    tokens[200_000] = tokens[7]
    parts = Parts({**GPT2.keys, "tokenizer.ggml.tokens": (ARRAY, tokens, STRING)}, GPT2.tensors)
    with pytest.raises(GGUFError, match=r"same token 'token 7' twice, at 7 and 200,000"):
        preflight(read_header(parts.write(tmp_path / "large.gguf")))


@pytest.mark.slow
def test_mutants_that_pass_preflight_never_crash_llama_cpp(tmp_path: Path, engine: EngineChild) -> None:
    """Of several hundred mutants of small models, those that pass preflight are loaded and used without a crash."""
    rng = random.Random(20)
    bases = [LLAMA, GPT2, models.llama(matrix=models.Q8_0_TYPE), *(build() for build in KINDS.values())]
    path, loaded = tmp_path / "mutant.gguf", 0
    for _ in range(N_MUTANTS):
        what, data = mutate(rng.choice(bases), rng)
        path.write_bytes(data)
        try:
            preflight(read_header(path))
        except GGUFError:
            continue
        loaded += 1
        assert not engine.load(path).startswith("DIED"), what
    assert loaded > N_MUTANTS // 3, "too few mutants reach the engine for this to mean anything"
