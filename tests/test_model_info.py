"""get_model_info describes models of every kind of architecture."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import labkit
from labkit.engine.native import EngineLog, claim_log
from labkit.errors import GGUFError, ModelNotFoundError
from labkit.gguf_file import read_header
from labkit.model_info import ModelInfo, get_model_info
from tests import gguf_models as models
from tests import gguf_zoo as zoo
from tests.gguf_kinds import KINDS
from tests.test_gguf_file import assert_parity, bundled, split

CONTRACT = (
    "architecture", "name", "quantization", "parameter_count", "context_length", "file_size_bytes", "bits_per_weight",
    "gguf_version", "tensor_count", "tensor_types", "block_count", "embedding_length", "feed_forward_length", "head_count",
    "head_count_kv", "head_dim_k", "head_dim_v", "sliding_window", "vocab_size", "tokenizer", "chat_template", "license",
    "metadata",
)  # fmt: skip


@dataclasses.dataclass
class Spec:
    """An architecture's keys, and the expected description."""

    keys: dict[str, Any]
    expect: dict[str, Any]
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16
    file_type: int | None = 1


_Q = gguf.GGMLQuantizationType

SPECS: dict[str, Spec] = {
    "llama": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "feed_forward_length": 96, "rope.dimension_count": 16},
        {"head_count": 4, "head_count_kv": 2, "head_dim_k": 16, "head_dim_v": 16, "layer_kinds": (), "sliding_window": None},
    ),
    "gpt2": Spec(
        {"attention.head_count": 4, "feed_forward_length": 256, "attention.layer_norm_epsilon": 1e-5},
        {"head_count": 4, "head_count_kv": 4, "head_dim_k": 16, "feed_forward_length": 256},
        _Q.F32, 0,
    ),
    "qwen3": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 32, "attention.value_length": 32},
        {"head_dim_k": 32, "head_dim_v": 32, "head_count_kv": 2},
        _Q.Q8_0, 7,
    ),
    "qwen3moe": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "expert_count": 8, "expert_used_count": 2,
         "expert_feed_forward_length": 48},
        {"expert_count": 8, "expert_used_count": 2, "feed_forward_length": 48, "layer_kinds": ("mixture of experts",)},
        _Q.Q4_0, 2,
    ),
    "gpt-oss": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.sliding_window": 128, "expert_count": 4,
         "expert_used_count": 4, "feed_forward_length": 96, "expert_feed_forward_length": 96},
        {"sliding_window": 128, "layer_kinds": ("mixture of experts", "sliding window")},
    ),
    "gemma2": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 24, "attention.value_length": 24},
        {"sliding_window": 4096, "head_dim_k": 24, "layer_kinds": ("sliding window",)},
    ),
    "gemma3": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 64, "attention.value_length": 64,
         "attention.sliding_window": 512},
        {"sliding_window": 512, "head_dim_k": 64, "head_count_kv": 1, "layer_kinds": ("sliding window",)},
        _Q.Q5_1, 9,
    ),
    "phi3": Spec(
        {"attention.head_count": 4, "attention.sliding_window": 2047, "feed_forward_length": 96},
        {"sliding_window": None, "layer_kinds": ()},
    ),
    "llama4": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "expert_count": 16, "expert_used_count": 1,
         "feed_forward_length": 96},
        {"sliding_window": 8192, "layer_kinds": ("mixture of experts", "sliding window")},
    ),
    "deepseek2": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 48, "attention.value_length": 32,
         "attention.key_length_mla": 32, "attention.value_length_mla": 16, "attention.kv_lora_rank": 32,
         "rope.dimension_count": 16, "expert_count": 4, "expert_used_count": 2, "feed_forward_length": 96},
        {"head_count_kv": 1, "head_dim_k": 48, "head_dim_v": 32, "layer_kinds": ("mixture of experts", "latent attention")},
        _Q.BF16, 32,
    ),
    "mamba": Spec(
        {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.time_step_rank": 4,
         "feed_forward_length": 0, "attention.head_count": 0},
        {"head_count": 0, "head_count_kv": 0, "head_dim_k": None, "head_dim_v": None, "layer_kinds": ("recurrent",)},
    ),
    "rwkv7": Spec(
        {"wkv.head_size": 16, "attention.head_count": 0, "feed_forward_length": 256},
        {"head_count": 0, "head_dim_k": None, "layer_kinds": ("recurrent",)},
    ),
    "jamba": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": [0, 2], "ssm.conv_kernel": 4, "ssm.inner_size": 128,
         "ssm.state_size": 16, "ssm.time_step_rank": 4, "feed_forward_length": 96},
        {"head_count": 4, "head_count_kv": (0, 2), "head_dim_k": 16, "layer_kinds": ("hybrid",)},
    ),
    "nemotron_h": Spec(
        {"attention.head_count": [0, 8], "attention.head_count_kv": [0, 2], "feed_forward_length": [0, 96],
         "attention.key_length": 16, "attention.value_length": 16, "ssm.inner_size": 128, "ssm.state_size": 16},
        {"head_count": (0, 8), "head_count_kv": (0, 2), "feed_forward_length": (0, 96), "head_dim_k": 16,
         "layer_kinds": ("hybrid",)},
    ),
    "lfm2": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": [0, 2], "shortconv.l_cache": 3, "feed_forward_length": 96},
        {"head_count_kv": (0, 2), "layer_kinds": ("hybrid",)},
    ),
    "falcon-h1": Spec(
        {"attention.head_count": 4, "attention.head_count_kv": 2, "ssm.inner_size": 64, "ssm.state_size": 16},
        {"head_count_kv": 2, "layer_kinds": ("hybrid",)},
    ),
    "bert": Spec(
        {"attention.head_count": 4, "attention.causal": False, "feed_forward_length": 96},
        {"head_count": 4, "layer_kinds": ()},
    ),
}  # fmt: skip


def write(path: Path, name: str, spec: Spec) -> Path:
    """Write a small model with the gguf package."""
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(f"tiny {name}")
    writer.add_license("mit")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    if spec.file_type is not None:
        writer.add_file_type(spec.file_type)
    for key, value in spec.keys.items():
        add = {bool: writer.add_bool, float: writer.add_float32, list: writer.add_array}.get(type(value), writer.add_uint32)
        add(f"{name}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(100)])
    writer.add_token_types([1] * 100)
    writer.add_chat_template("{{ messages }}")
    writer.add_array("general.tags", ["text-generation", "tiny"])
    rng = np.random.default_rng(0)
    for tensor, shape in (
        ("token_embd.weight", (100, 64)),
        ("blk.0.ffn_up.weight", (96, 64)),
        ("blk.1.ffn_up.weight", (96, 64)),
    ):
        values = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(tensor, gguf.quants.quantize(values, spec.kind), raw_dtype=spec.kind)
    writer.add_tensor("output_norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", SPECS)
def test_info_is_right_for_each_architecture(tmp_path: Path, name: str) -> None:
    """Dense, sparse, sliding, latent, recurrent and hybrid models are described as llama.cpp handles them."""
    spec = SPECS[name]
    info = get_model_info(write(tmp_path / "tiny.gguf", name, spec))
    assert {key: info[key] for key in spec.expect} == spec.expect
    assert (info.architecture, info.name, info.license) == (name, f"tiny {name}", "mit")
    assert (info.context_length, info.embedding_length, info.block_count, info.vocab_size) == (256, 64, 2, 100)
    assert info.parameter_count == 100 * 64 + 2 * 96 * 64 + 64
    assert info.quantization == spec.kind.name
    assert (info.tokenizer, info.chat_template) == ("gpt2", "{{ messages }}")
    assert not [sentence for sentence in info.warnings if "refuse" in sentence and "is missing" not in sentence]


@pytest.mark.parametrize("name", SPECS)
def test_reader_equals_the_gguf_package(tmp_path: Path, name: str) -> None:
    """For a file from the gguf package, every key, value and tensor equals the package's reader."""
    path = write(tmp_path / "tiny.gguf", name, SPECS[name])
    assert_parity(read_header(path), path)


def assert_engine_parity(path: Path) -> None:
    """Compare the header with what llama.cpp reports for the loaded model."""
    import llama_cpp

    info = get_model_info(path)
    with EngineLog(echo=False).claimed():
        claim_log()
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
    assert model is not None
    try:
        assert info.parameter_count == llama_cpp.llama_model_n_params(model)
        assert info.weights_bytes == llama_cpp.llama_model_size(model)
        assert info.block_count == llama_cpp.llama_model_n_layer(model)
        assert info.embedding_length == llama_cpp.llama_model_n_embd(model)
        assert info.head_count == llama_cpp.llama_model_n_head(model)
        assert info.head_count_kv == llama_cpp.llama_model_n_head_kv(model)
        assert info.context_length == llama_cpp.llama_model_n_ctx_train(model)
        assert (info.sliding_window or 0) == llama_cpp.llama_model_n_swa(model)
        assert info.vocab_size == llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


@pytest.mark.parametrize("name", ["bundled", "llama", *sorted(set(KINDS) - {"mamba"})])
def test_info_equals_the_engine(tmp_path: Path, name: str) -> None:
    """Counts, sizes, heads, context, window and vocabulary equal what llama.cpp reports for the loaded model."""
    parts = KINDS.get(name, models.llama)()
    path = bundled() if name == "bundled" else parts.write(tmp_path / "tiny.gguf")
    assert_engine_parity(path)


# The contract


def test_info_has_every_key_of_the_contract() -> None:
    """The documented keys exist, as attributes and as mapping keys."""
    info = get_model_info(bundled())
    assert isinstance(info, ModelInfo)
    assert [key for key in CONTRACT if key not in dict(info)] == []
    assert info.quantization == info["quantization"] == "Q4_1"
    assert (info.parameter_count, round(info.bits_per_weight, 2), info.vocab_size) == (134_515_008, 5.74, 49_152)
    assert info.tensor_types["Q4_1"] == (210, 66_355_200)
    assert (info.head_count, info.head_count_kv, info.head_dim_k) == (9, 3, 64)
    assert info.license == "apache-2.0"
    assert info.warnings == ()


def test_info_accepts_none_name_path_and_text() -> None:
    """None is the bundled model, and a known name works as for load_model."""
    path = bundled()
    assert get_model_info() == get_model_info(path) == get_model_info(str(path))
    assert get_model_info("smollm2-135m").name == get_model_info().name


def test_info_names_what_is_missing(tmp_path: Path) -> None:
    """A missing file, an unknown name, a folder and a broken file each give a specific error."""
    with pytest.raises(ModelNotFoundError):
        get_model_info("no such model")
    with pytest.raises(ModelNotFoundError):
        get_model_info(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFoundError, match=r"is a folder"):
        get_model_info(str(tmp_path))
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GGUFError, match=r"the file is empty"):
        get_model_info(str(tmp_path / "empty.gguf"))
    with pytest.raises(labkit.LabkitError):
        get_model_info(3)  # type: ignore[arg-type]


def test_info_is_the_same_for_any_part(tmp_path: Path) -> None:
    """A split model has the same description for any given part; only its size on disk differs from the single file."""
    whole = get_model_info(models.llama().write(tmp_path / "whole.gguf"))
    for path in split(tmp_path, models.llama()):
        info = get_model_info(path)
        same = [key for key in CONTRACT if key not in ("file_size_bytes", "metadata")]
        assert {key: info[key] for key in same} == {key: whole[key] for key in same}


def test_info_is_json_ready_and_readable() -> None:
    """to_dict converts lazy arrays to type and length, and repr has one field per line."""
    info = get_model_info()
    plain = json.loads(json.dumps(info.to_dict()))
    assert plain["metadata"]["tokenizer.ggml.tokens"] == {"type": "string", "length": 49_152}
    assert plain["metadata"]["general.languages"] == ["en"]
    assert plain["tensor_types"]["F32"] == [61, 140_544]
    assert len(repr(info).splitlines()) == len(info) + 1
    assert "<td" in info._repr_html_()


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    """Markup and control characters in a file's texts are escaped in terminal and notebook."""
    parts = models.llama().set("general.name", "<script>alert(1)</script>\x1b[31m")
    info = get_model_info(parts.write(tmp_path / "model.gguf"))
    assert "\x1b" not in repr(info) + info._repr_html_()
    assert "<script>" not in info._repr_html_()


# Warnings


def _with_types(base: models.Parts, kinds: dict[str, str]) -> models.Parts:
    """Change tensor types, by a part of the name; widths must be multiples of 256."""
    numbers = {kind.name: int(kind) for kind in gguf.GGMLQuantizationType}
    copy = base.copy()
    for name, (shape, _, _) in base.tensors.items():
        for part, kind in kinds.items():
            if part in name and len(shape) > 1:
                copy.tensors[name] = (shape, numbers[kind], bytes(models.n_bytes(shape, numbers[kind])))
    return copy


WIDE = models.llama(n_embd=256, n_ff=256, n_layer=4)
MIXES = {
    "F16": {},
    "Q8_0": {"weight": "Q8_0"},
    "Q4_0": {"weight": "Q4_0", "token_embd": "Q6_K"},
    "Q4_K_S": {"weight": "Q4_K", "blk.0.attn_v": "Q5_K"},
    "Q4_K_M": {"weight": "Q4_K", "blk.0.ffn_down": "Q6_K", "token_embd": "Q6_K"},
    "Q5_K_S": {"weight": "Q5_K", "token_embd": "Q6_K"},
    "Q5_K_M": {"weight": "Q5_K", "attn_v": "Q6_K"},
    "Q6_K": {"weight": "Q6_K"},
    "Q3_K_S": {"weight": "Q3_K", "token_embd": "Q6_K"},
    "Q3_K_M": {"weight": "Q3_K", "ffn_down": "Q4_K", "blk.0.ffn_down": "Q5_K"},
    "Q3_K_L": {"weight": "Q3_K", "ffn_down": "Q5_K"},
    "Q2_K": {"weight": "Q2_K", "attn_v": "Q3_K"},
    "Q2_K_S": {"weight": "Q2_K", "attn_v": "Q4_K"},
    "IQ4_XS": {"weight": "IQ4_XS", "attn_v": "Q5_K"},
    "IQ3_M": {"weight": "IQ3_S", "attn_v": "Q4_K"},
    "BF16": {"weight": "BF16"},
    "TQ2_0": {"weight": "TQ2_0", "token_embd": "Q6_K"},
    "MXFP4_MOE": {"ffn": "MXFP4"},
}


@pytest.mark.parametrize("name", MIXES)
def test_quantization_is_derived_from_the_tensors(tmp_path: Path, name: str) -> None:
    """If general.file_type is missing, the name is derived from the tensors, with a warning."""
    parts = _with_types(WIDE, MIXES[name])
    if name == "MXFP4_MOE":  # only the experts have this type
        parts.tensors = {key: entry for key, entry in parts.tensors.items() if "attn" not in key}
    del parts.keys["general.file_type"]
    info = get_model_info(parts.write(tmp_path / "model.gguf"))
    assert info.quantization == name
    assert info.warnings[0] == f"key 'general.file_type' is missing; the tensors indicate {name}"


def test_a_wrong_file_type_is_corrected(tmp_path: Path) -> None:
    """A file type that no tensor matches, or an unknown number, is replaced with a warning."""
    q8_0 = _with_types(WIDE, MIXES["Q8_0"])
    info = get_model_info(q8_0.set("general.file_type", 15).write(tmp_path / "claims.gguf"))
    assert info.quantization == "Q8_0"
    assert info.warnings == ("key 'general.file_type' says Q4_K_M, but no tensor has that type; the tensors indicate Q8_0",)
    info = get_model_info(q8_0.set("general.file_type", 999).write(tmp_path / "nonsense.gguf"))
    assert (info.quantization, len(info.warnings)) == ("Q8_0", 1)
    text = q8_0.copy()
    text.keys["general.file_type"] = (zoo.STRING, "Q4_K_M", None)
    assert get_model_info(text.write(tmp_path / "text.gguf")).quantization == "Q8_0"


def test_file_type_with_only_fallback_types_is_accepted(tmp_path: Path) -> None:
    """A K type with only fallback types, on rows that are not a multiple of 256, is accepted."""
    parts = _with_types(models.llama(n_embd=96, n_ff=96), {"weight": "Q5_0"}).set("general.file_type", 15)
    info = get_model_info(parts.write(tmp_path / "model.gguf"))
    assert (info.quantization, info.warnings) == ("Q4_K_M", ())


def test_info_warns_about_what_preflight_refuses(tmp_path: Path) -> None:
    """A file that would abort the process is described, with a warning that load_model will refuse it."""
    info = get_model_info(models.llama().set("llama.block_count", 0).write(tmp_path / "model.gguf"))
    assert info.block_count == 0
    assert len(info.warnings) == 1
    assert info.warnings[0].startswith("load_model will refuse it: ")
    assert "block_count' is 0" in info.warnings[0]


def test_unused_window_gives_a_warning(tmp_path: Path) -> None:
    """A window that llama.cpp does not use is None, with a warning."""
    info = get_model_info(KINDS["phi3"]().write(tmp_path / "model.gguf"))
    assert info.sliding_window is None
    assert info.warnings == ("the file names a sliding window of 32, which llama.cpp does not use for phi3",)


def test_values_of_a_wrong_type_are_none(tmp_path: Path) -> None:
    """Text instead of a number makes the field None, not an error."""
    parts = models.llama().copy()
    for key in ("context_length", "block_count", "attention.head_count", "feed_forward_length", "embedding_length"):
        parts.keys[f"llama.{key}"] = (zoo.STRING, "many", None)
    parts.keys["tokenizer.chat_template"] = (zoo.U32, 1, None)
    del parts.keys["general.name"]
    info = get_model_info(parts.write(tmp_path / "odd.gguf"))
    assert (info.context_length, info.block_count, info.head_count, info.head_dim_k) == (None, None, None, None)
    assert (info.chat_template, info.name) == (None, "odd")
