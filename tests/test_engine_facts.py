"""Facts and conditions of every architecture, compared with what the engine itself says; nothing here is listed by hand."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

import labkit
from labkit.children import ChildEndedError
from labkit.errors import ArgumentError
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import tensor_type
from labkit.gguf_file.preflight.architectures import EQUAL_HEADS
from labkit.kv_cache.layers import _MORE_PATTERNS, model_layers
from labkit.load_check.dry_run import lay_out
from labkit.model_info import describe_model
from labkit.system.engine_library import engine_knows
from tests.engine_facts import N_LAYERS, header
from tests.tiny_models import write_tiny_model

NAMES = sorted(filter(engine_knows, {*gguf.MODEL_ARCH_NAMES.values(), *EQUAL_HEADS, *_MORE_PATTERNS} - {"clip"}))


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, Any]]:
    """Ask the engine about every architecture; where it aborts for want of a key, a new child goes on with the next."""
    answers: dict[str, dict[str, Any]] = {}
    todo = list(NAMES)
    while todo:
        child = subprocess.run(
            [sys.executable, "-m", "tests.engine_facts"],
            input="\n".join(todo), capture_output=True, text=True, encoding="utf-8", errors="replace",
            cwd=Path(__file__).parents[1], timeout=100, check=False,
        )  # fmt: skip
        found = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        answers.update({answer["architecture"]: answer for answer in found})
        todo = todo[len(found) + (child.returncode != 0) :] if found or child.returncode else []
    return answers


def test_facts_equal_the_engines(said: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Window, context, width, heads and experts of over 120 architectures are those that the engine prints."""
    compared, wrong = 0, {}
    for name, answer in said.items():
        if answer["error"] or name == "wavtokenizer-dec":
            continue
        file = read_header(header(name, answer["keys"]).write(tmp_path / "keys.gguf"))
        info, engine = describe_model(file), answer["said"]
        heads_kv = [int(number) for number in re.findall(r"\d+", engine["n_head_kv"])]
        window = int(engine["n_swa"]) * int(engine["is_swa_any"])
        pairs = {
            "sliding_window": (info.sliding_window or 0, window),
            "cache's window": (model_layers(file).window, window),
            "context_length": (info.context_length, int(engine["n_ctx_train"])),
            "embedding_length": (info.embedding_length, int(engine["n_embd"])),
            "head_dim_k": (info.head_dim_k or 0, int(engine["n_embd_head_k"])),
            "head_dim_v": (info.head_dim_v or 0, int(engine["n_embd_head_v"])),
            "expert_count": (info.expert_count or 0, int(engine["n_expert"])),
            "head_count_kv": (_each(info.head_count_kv), tuple(heads_kv * N_LAYERS if len(heads_kv) == 1 else heads_kv)),
        }
        compared += 1
        wrong.update({(name, what): pair for what, pair in pairs.items() if pair[0] != pair[1]})
    assert not wrong
    assert compared > 120


def _each(heads: Any) -> tuple[int, ...]:
    return heads if isinstance(heads, tuple) else (heads,) * N_LAYERS


@pytest.mark.parametrize("width", [160, 320, 256])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_cache_types_are_refused_as_by_the_engine(width: int, flash_attn: bool, tmp_path: Path) -> None:
    """Heads of 40, 80 and 64: what the engine refuses, or aborts at, is refused by every part of labkit, and only that."""
    path = write_tiny_model(tmp_path / "model.gguf", width=width)
    for type_k, type_v in itertools.product(("f16", "q8_0"), repeat=2):
        kinds = {"type_k": type_k, "type_v": type_v}
        context = {name: tensor_type(kind).id for name, kind in kinds.items()}
        request = {"n_ctx": 256, "flash_attn_type": int(flash_attn), **context}
        try:
            refused = bool(lay_out(path, {"n_gpu_layers": 0, "contexts": [request]}, 60, measures=False)["error"])
        except ChildEndedError:
            refused = True
        for call in (labkit.load_model, labkit.estimate_memory_usage):
            if refused:
                with pytest.raises(ArgumentError, match="type_"):
                    call(path, 256, flash_attn=flash_attn, **kinds)
            else:
                result = call(path, 256, flash_attn=flash_attn, **kinds)
                result.close() if isinstance(result, labkit.Model) else None


def test_recommendation_and_tuning_leave_out_what_the_engine_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With heads of 40 the cache stays in F16, and tuning tries the other settings."""
    monkeypatch.setattr("labkit.tuning.session._SECONDS", 0.01)  # no claim about speed
    monkeypatch.setattr("labkit.tuning.session._ROUNDS", 1)
    path = write_tiny_model(tmp_path / "model.gguf", width=160, n_ctx_train=65_536)
    small = labkit.recommend_settings(path, ram="64 MiB")
    assert small.type_k == "f16"
    found = labkit.tune(path, goal="memory", n_prompt=32, n_gen=8, progress=False)
    assert found.type_k == "f16"
    assert {item.type_k for item in found.tried} == {"f16"}


def test_a_context_that_fails_gives_the_engines_reason(tmp_path: Path) -> None:
    """Labkit's own guess never replaces what the engine says."""
    from labkit.second_context import second_context

    path = write_tiny_model(tmp_path / "model.gguf", width=160)
    with labkit.load_model(path, n_ctx=256) as model:
        changes = {"type_k": tensor_type("q8_0").id, "flash_attn_type": 1}

        def make(_: object) -> None:
            with second_context(model, n_ctx=256, n_batch=32, n_rows=1, changes=changes):
                pass

        with pytest.raises(labkit.LabkitError, match="does not divide n_embd_head_k"):
            model.compute(make)
