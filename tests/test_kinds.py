"""GGUF files that are not a language model are named for what they are, and nothing that is unknown ends the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import labkit
from labkit.errors import GGUFError, LabkitError, ModelLoadError
from labkit.gguf_file import read_header
from labkit.load_check import dry_run, facts
from labkit.system.engine_library import engine_knows
from tests.gguf_kinds import KINDS
from tests.gguf_models import F32_TYPE, Parts, llama, weights
from tests.gguf_zoo import STRING, U32

ENTRIES: dict[str, Callable[[Path], object]] = {
    "load_model": lambda path: labkit.load_model(path, n_ctx=256),
    "estimate_memory_usage": lambda path: labkit.estimate_memory_usage(path, 256),
    "predict_speed": labkit.predict_speed,
    "recommend_settings": labkit.recommend_settings,
}


def _foreign(architecture: str, *names: str, **keys: tuple[int, object, int | None]) -> Parts:
    """Return a file of another kind: a few tensors, and no vocabulary."""
    import numpy as np

    parts = llama()
    parts.keys = {"general.architecture": (STRING, architecture, None), **{k.replace("__", "."): v for k, v in keys.items()}}
    rng = np.random.default_rng(0)
    parts.tensors = {name: ((64, 32), F32_TYPE, weights(rng, (64, 32), F32_TYPE)) for name in names}
    return parts


def _heads_only(architecture: str, n_heads: int = 1) -> Parts:
    """Return a model of four layers of which only the last are in the file, as prediction heads are published."""
    parts = llama(architecture=architecture, n_layer=4)
    parts.keys[f"{architecture}.nextn_predict_layers"] = (U32, n_heads, None)
    for name in list(parts.tensors):
        if name.startswith("blk.") and int(name.split(".")[1]) < 4 - n_heads:
            del parts.tensors[name]
    return parts


def _with_eyes(prefix: str) -> Parts:
    parts = llama()
    parts.tensors[f"{prefix}.blk.0.attn_q.weight"] = parts.tensors["blk.0.attn_q.weight"]
    return parts


def _vocabulary() -> Parts:
    parts = llama()
    parts.tensors = {}
    return parts


_WITH_HEADS = ("qwen35", "qwen3next", "glm4moe", "deepseek2", "step35", "cohere2moe", "nemotron_h", "hy_v3", "bailingmoe3")
FILES: dict[str, tuple[Parts, str]] = {
    "LoRA": (_foreign("llama", "blk.0.attn_q.weight.lora_a", general__type=(STRING, "adapter", None)), "adapter"),
    "LoRA by its tensors": (_foreign("llama", "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"), "adapter"),
    "projector": (_foreign("clip", "v.patch_embd.weight", general__type=(STRING, "mmproj", None)), "projector"),
    "projector without a type": (_foreign("clip", "v.patch_embd.weight"), "projector"),
    "importance matrix": (_foreign("llama", "blk.0.attn_q.weight.in_sum2"), "importance matrix"),
    "control vector": (_foreign("controlvector", "direction.1", "direction.2"), "control vector"),
    "vocabulary": (_vocabulary(), "a vocabulary without weights"),
    "pictures": (_foreign("flux", "double_blocks.0.img_attn.qkv.weight"), "pictures"),
    "video": (_foreign("wan", "blocks.0.cross_attn.k.weight"), "pictures or video"),
    "pictures by the tensors": (_foreign("pig", "model.diffusion_model.input_blocks.0.weight"), "pictures"),
    "newer model": (_foreign("qwen9", "token_embd.weight"), "update llama-cpp-python"),
    "Ollama's name": (_foreign("gptoss", "token_embd.weight"), "does not know the architecture"),
    "eagle": (llama(architecture="eagle3"), "draft"),
    "dflash": (llama(architecture="dflash"), "draft"),
    "assistant": (llama(architecture="gemma4-assistant"), "draft"),
    "another converter's assistant": (llama(architecture="gemma4_assistant"), r"draft.*another program"),
    "Ollama's vision tower": (_with_eyes("v"), "vision or audio part in one file"),
    "Ollama's audio tower": (_with_eyes("a"), "vision or audio part in one file"),
    **{f"heads of {name}": (_heads_only(name), "prediction head") for name in _WITH_HEADS},
    "heads of a model with two": (_heads_only("deepseek32", 2), "prediction head"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    """Loading, estimating, predicting and recommending say in one line what the file is; the description warns."""
    parts, expect = FILES[name]
    path = parts.write(tmp_path / "file.gguf")
    for call in ENTRIES.values():
        with pytest.raises(LabkitError, match=expect) as caught:
            call(path)
        assert "\n" not in str(caught.value)
    assert any("load_model will refuse it" in sentence for sentence in labkit.get_model_info(path).warnings)


def test_a_file_without_an_architecture_is_named(tmp_path: Path) -> None:
    """llama.cpp's importance matrices have no architecture."""
    parts = _foreign("x", "blk.0.attn_q.weight.in_sum2", general__type=(STRING, "imatrix", None))
    del parts.keys["general.architecture"]
    for call in (labkit.get_model_info, *ENTRIES.values()):
        with pytest.raises(GGUFError, match="importance matrix"):
            call(parts.write(tmp_path / "matrix.gguf"))


def test_a_vocabulary_loads_as_one(tmp_path: Path) -> None:
    """Without weights, a file still loads with vocab_only."""
    path = FILES["vocabulary"][0].write(tmp_path / "vocabulary.gguf")
    with labkit.load_model(path, n_ctx=256, vocab_only=True) as model:
        assert model.tokenize(b"hello")


def test_the_engines_architectures_are_found() -> None:
    """Every name that gguf-py and the engine share is found, also one that ends a longer name; foreign names are not."""
    import gguf

    known = [name for name in gguf.MODEL_ARCH_NAMES.values() if engine_knows(name)]
    assert {"llama", "bert", "neo-bert", "rwkv7", "gemma4", "gpt-oss", "clip"} <= set(known)
    assert len(known) > 100
    assert not any(map(engine_knows, ("flux", "qwen9", "gptoss", "gemma4_assistant")))


def _without(kind: str, tensor: str) -> Parts:
    parts = KINDS[kind]()
    del parts.tensors[tensor]
    return parts


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    facts._sound_file.cache_clear()


@pytest.mark.usefixtures("_own_cache")
def test_what_is_unknown_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with an unknown layout is tried in a child process, once; one with a known layout is not."""
    asked: list[Path] = []
    real = dry_run.lay_out
    monkeypatch.setattr(dry_run, "lay_out", lambda model, *a, **k: (asked.append(model), real(model, *a, **k))[1])
    known, unknown = llama().write(tmp_path / "known.gguf"), KINDS["phi3"]().write(tmp_path / "unknown.gguf")
    for _ in range(2):
        for path in (known, unknown):
            labkit.load_model(path, n_ctx=256).close()
        facts._sound_file.cache_clear()
    assert asked == [unknown]


@pytest.mark.usefixtures("_own_cache")
def test_a_file_that_ends_the_process_is_refused_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that passes every check of labkit but aborts the engine is refused, and not tried again."""
    path = _without("phi3", "blk.1.attn_qkv.weight").write(tmp_path / "hole.gguf")
    with pytest.raises(GGUFError, match="attn_qkv"):
        labkit.load_model(path)
    monkeypatch.setattr(
        sys.modules["labkit.gguf_file.preflight"], "check_tensors", lambda _: ()
    )  # as if the checks did not know this hole
    for _ in range(2):
        with pytest.raises(GGUFError, match="ended its process in a trial"):
            labkit.load_model(path, n_ctx=256)
        facts._sound_file.cache_clear()
        monkeypatch.setattr(dry_run, "lay_out", lambda *_, **__: pytest.fail("tried again"))


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("failure", ["signal 9", "exit status 1", "no process", "timeout"])
def test_a_trial_that_says_nothing_is_not_remembered(failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is killed from outside or cannot start proves nothing; one that hangs refuses the file this once."""

    def fail(*_: object, **__: object) -> None:
        if failure == "no process":
            raise OSError
        if failure == "timeout":
            raise subprocess.TimeoutExpired("child", 60)
        raise dry_run.ChildEndedError(failure)

    path = KINDS["phi3"]().write(tmp_path / "model.gguf")
    with monkeypatch.context() as patched:
        patched.setattr(dry_run, "lay_out", fail)
        if failure == "timeout":
            with pytest.raises(ModelLoadError, match="within 60 s"):
                facts.sound_file(path)
        else:
            assert facts.sound_file(path).architecture == "phi3"
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_known_layouts_are_exact(tmp_path: Path) -> None:
    """One tensor more, one less or one of another shape: the layout is not a known one."""
    from labkit.load_check.known_layout import has_known_layout

    for name in ("blk.0.attn_q.weight", "blk.1.ffn_norm.weight", "output_norm.weight"):
        less, other, more = llama(), llama(), llama()
        del less.tensors[name]
        shape, kind, raw = other.tensors[name]
        other.tensors[name] = (tuple(reversed(shape)) if len(set(shape)) > 1 else (*shape, 1, 1), kind, raw)
        more.tensors[f"{name}.scale"] = more.tensors["output_norm.weight"]
        for parts in (less, other, more):
            assert not has_known_layout(read_header(parts.write(tmp_path / "model.gguf")))
    assert has_known_layout(read_header(llama().write(tmp_path / "model.gguf")))
