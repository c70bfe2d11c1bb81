"""A wrong type in any argument of a public function is one line that names it, and nothing ends or hangs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labkit
from labkit.errors import LabkitError
from tests.tiny_models import write_tiny_model


class Hostile:
    """Raises in every method."""

    def _fail(self, *_args: Any) -> Any:
        raise RuntimeError("no")

    __getattr__ = __repr__ = __str__ = __iter__ = __index__ = __float__ = __len__ = _fail
    __eq__ = __bool__ = _fail  # type: ignore[assignment]
    __hash__ = object.__hash__


ODD: dict[str, Any] = {
    "an object": object(),
    "bytes": b"x",
    "hostile": Hostile(),
    "a list of hostile": [Hostile()],
    "nested lists": [[["a"]]],
    "an array": np.zeros((2, 2)),
    "a surrogate": "\ud800",
    "a null": "a\0b",
    "a long text": "x" * 9_000,
    "complex": 1j,
    "nan": math.nan,
    "huge": 2**70,
    "negative": -(2**63),
    "a type": int,
}
TEXT = "hello world " * 40
USER = [{"role": "user", "content": "a"}]
# function -> arguments that are fine, and the names of others to try
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "get_model_info": ({}, "model_path"),
    "estimate_memory_usage": (
        {"method": "formula"},
        "model_path n_ctx n_gpu_layers type_k type_v n_batch n_ubatch n_seq use_mmap flash_attn swa_full "
        "n_outputs_max devices tensor_split method",
    ),
    "recommend_settings": ({}, "model_path ram devices n_ctx"),
    "measure_memory": ({"n_ctx": -1}, "model_path seed limit_s type_k"),
    "predict_speed": ({"n_threads": 0}, "model_path system depth n_prompt n_parallel flash_attn"),
    "measure_threads": ({"n_prompt": 0}, "model n_threads n_gen progress"),
    "tune": ({"n_prompt": 0}, "model_path goal n_gen progress"),
    "run_milestone": ({"target": 0}, "model_path n_threads max_tokens progress"),
    "build_ghost_model": ({"shape": "tiny", "quantization": "none"}, "target architecture shape seed overwrite progress"),
    "quantize_model": ({"quantization": "none"}, "source target n_threads overwrite progress"),
    "measure_perplexity": ({"n_ctx": 32}, "model text n_ctx stride progress"),
    "compare_quantizations": ({"quantizations": []}, "source quantizations folder n_ctx n_threads progress"),
    "fetch_model": ({"filename": ""}, "name_or_repo filename"),
    "generate_batch": ({"max_tokens": 1}, "model prompts max_tokens temperature n_parallel stop seed top_k"),
    "benchmark_inference": ({"max_tokens": 1, "repeats": 0}, "model prompts max_tokens warmup repeats n_parallel"),
    "generate_chat": ({"max_tokens": 1}, "model messages max_tokens temperature stop json_schema grammar"),
    "next_token_logits": ({}, "model prompt"),
    "token_text": ({}, "model token"),
    "compare_benchmarks": ({}, "first second"),
    "ghost_shapes": ({}, "architecture"),
}
BASE: dict[str, Callable[[labkit.Model, Path], dict[str, Any]]] = {
    "build_ghost_model": lambda _model, folder: {"target": folder / "ghost.gguf"},
    "quantize_model": lambda _model, folder: {"source": folder / "tiny.gguf", "target": folder / "made.gguf"},
    "measure_perplexity": lambda model, _folder: {"model": model, "text": TEXT},
    "compare_quantizations": lambda _model, folder: {"source": folder / "tiny.gguf", "text": TEXT},
    "fetch_model": lambda _model, _folder: {"name_or_repo": "org/repo"},
    "generate_batch": lambda model, _folder: {"model": model, "prompts": ["a"]},
    "benchmark_inference": lambda model, _folder: {"model": model, "prompts": ["a"]},
    "generate_chat": lambda model, _folder: {"model": model, "messages": USER},
    "next_token_logits": lambda model, _folder: {"model": model, "prompt": "a"},
    "token_text": lambda model, _folder: {"model": model, "token": 1},
    "measure_threads": lambda model, _folder: {"model": model},
    "compare_benchmarks": lambda _model, _folder: {"first": None, "second": None},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labkit.Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("types") / "tiny.gguf")
    with labkit.load_model(path, n_ctx=256, n_threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("function", "argument"), [(function, name) for function, (_, names) in CALLS.items() for name in names.split()]
)
def test_wrong_types_are_one_line(
    function: str, argument: str, model: labkit.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value of a wrong kind works or raises a LabkitError of one line."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = Path(model.model_path).parent
    monkeypatch.chdir(folder)
    fine, _ = CALLS[function]
    base = BASE.get(function, lambda _model, _folder: {})(model, folder)
    for name, value in ODD.items():
        if argument == "progress" and callable(value):
            continue  # its errors are the caller's
        try:
            getattr(labkit, function)(**{**base, **fine, argument: value})
        except LabkitError as error:
            message = str(error)
            assert message.isprintable(), (name, message)
            assert 0 < len(message) < 2500, (name, message[:200])
