"""Speed prediction: the work per token is counted correctly, and the timed kernels are llama.cpp's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import labkit
from labkit.errors import ArgumentError, ArgumentTypeError, LabkitError, ModelNotFoundError
from labkit.gguf_file import read_header
from labkit.kv_cache.layers import model_layers
from labkit.roofline import pass_work
from labkit.roofline.kernels import MatrixJob, SmallJob, time_kernels
from labkit.roofline.work import attentions, matrices
from tests import more_ghosts  # noqa: F401  # adds architectures


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Time kernels very briefly, because these tests do not check speeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.roofline.kernels._SECONDS", 0.005)
        patch.setattr("labkit.roofline.predict._BEYOND_CACHES", 2**20)
        yield


@pytest.fixture(scope="module")
def prediction() -> labkit.SpeedPrediction:
    return labkit.predict_speed(n_prompt=8, n_threads=1)


def test_every_weight_is_read_once_per_token() -> None:
    """The bundled model's matrices are all of its tensors except the norms; the tied embedding is the output."""
    header = read_header(labkit.bundled_model_path())
    found = matrices(header, 1, 1)
    norms = sum(tensor.n_bytes for tensor in header.tensors if len(tensor.shape) == 1)
    assert sum(matrix.n_bytes * matrix.count for matrix in found) == sum(t.n_bytes for t in header.tensors) - norms
    weights = sum(matrix.n_in * matrix.n_out * matrix.count for matrix in found)
    assert sum(matrix.operations for matrix in found) == 2 * weights


def test_attention_reads_the_whole_cache() -> None:
    """Attention over a full context of the bundled model reads its whole cache."""
    header = read_header(labkit.bundled_model_path())
    (found,) = attentions(model_layers(header), 2047, 1, 1)
    cache = labkit.estimate_memory_usage(n_ctx=2048, method="formula").kv_cache_bytes
    assert found.n_bytes * found.count == cache


def test_a_mixture_reads_the_chosen_experts(tmp_path: Path) -> None:
    """One token reads only the used experts; many tokens read nearly all experts."""
    path = labkit.build_ghost_model(tmp_path / "moe.gguf", architecture="qwen3moe", shape="tiny")
    header = read_header(path)
    n_experts, used = header.hparam("expert_count"), header.hparam("expert_used_count")
    layers = header.hparam("block_count")
    stacked = [tensor for tensor in header.tensors if "_exps." in tensor.name]
    shapes = {(tensor.type.id, *tensor.shape[:2]) for tensor in stacked}

    alike = [t for t in header.tensors if (t.type.id, *t.shape) in shapes and t.name != "token_embd.weight"]

    def read(n_tokens: int) -> float:
        found = sum(m.count for m in matrices(header, n_tokens, 1) if (m.type.id, m.n_in, m.n_out) in shapes)
        return found - len(alike)  # plain matrices of the same shape and type

    assert len(stacked) == 3 * layers
    assert read(1) == pytest.approx(3 * layers * used)
    assert 0.99 < read(64 * n_experts) / (3 * layers * n_experts) <= 1


def test_a_mixture_computes_its_used_experts_for_every_token(tmp_path: Path) -> None:
    """However many tokens share the reading of experts, each token needs the same operations."""
    path = labkit.build_ghost_model(tmp_path / "moe.gguf", architecture="qwen3moe", shape="tiny")
    found = {n: pass_work(path, n_parallel=n, depth=100) for n in (1, 3, 8, 200)}
    assert {round(work.operations / n) for n, work in found.items()} == {round(found[1].operations)}
    assert found[1].n_bytes < found[3].n_bytes < 3 * found[1].n_bytes


def test_pass_work_is_what_predict_speed_counts(prediction: labkit.SpeedPrediction) -> None:
    """The bytes, the operations and the ceiling of a pass are those of the prediction."""
    work = pass_work(depth=prediction.depth)
    assert work.n_bytes == prediction.bytes_per_pass
    assert work.operations == pytest.approx(prediction.operations_per_token)
    assert work.ceiling(prediction.read_bytes_per_second, 1e18) == pytest.approx(prediction.roofline_tokens_per_second)
    assert work.limit(prediction.read_bytes_per_second, 1e18) == "bandwidth"
    assert work.limit(1e18, prediction.operations_per_second) == "compute"
    assert work.at(2.0) == (work.operations / work.n_bytes, 2.0 * work.operations)
    with pytest.raises(ArgumentError, match="n_parallel"):
        pass_work(n_parallel=0)


def test_tokens_of_a_prompt_share_one_output_row() -> None:
    """Prefill reads the weights once for all tokens, and computes logits for the last one only."""
    one, prompt, texts = pass_work(depth=0), pass_work(n_tokens=64, depth=0), pass_work(n_parallel=64, depth=0)
    assert one.n_tokens == 1
    assert prompt.n_tokens == texts.n_tokens == 64
    assert one.n_bytes == pytest.approx(prompt.n_bytes)
    assert prompt.operations < texts.operations == 64 * one.operations


def test_windows_and_states_limit_attention(tmp_path: Path) -> None:
    """A window limits what attention reads; a recurrent model has no attention."""
    window = labkit.build_ghost_model(tmp_path / "window.gguf", architecture="gemma3", shape="tiny")
    layers = model_layers(read_header(window))
    deep = {item.n_cells for item in attentions(layers, 16_000, 1, 1)}
    assert max(deep) > 16_000
    assert min(deep) < layers.window + 512
    state = labkit.build_ghost_model(tmp_path / "state.gguf", architecture="mamba", shape="tiny")
    assert attentions(model_layers(read_header(state)), 1000, 1, 1) == ()
    assert any(
        "recurrent state" in sentence for sentence in labkit.predict_speed(state, n_prompt=8, n_threads=1).assumptions
    )


def test_prediction_adds_up(prediction: labkit.SpeedPrediction) -> None:
    """The speed is 1 / (sum of the parts), the roofline bandwidth / bytes; each part has its limit."""
    seconds = sum(part.predicted_s for part in prediction.parts)
    assert prediction.decode_tokens_per_second == pytest.approx(1 / seconds)
    n_bytes = sum(part.n_bytes for part in prediction.parts)
    assert prediction.roofline_tokens_per_second == pytest.approx(prediction.read_bytes_per_second / n_bytes)
    assert {part.limit for part in prediction.parts} <= {"bandwidth", "compute", "overhead"}
    assert all(part.compute_s <= part.predicted_s for part in prediction.parts)
    weights = labkit.get_model_info(labkit.bundled_model_path()).parameter_count
    assert 1.9 * weights < prediction.operations_per_token < 2.5 * weights


@pytest.mark.thorough
def test_kernels_of_every_kind_are_timed(tmp_path: Path) -> None:
    """With and without flash attention, repacked and plain weights, several sequences: each speed is positive."""
    for architecture, flash in (("llama", True), ("deepseek2", False), ("jamba", False), ("qwen2moe", True)):
        path = labkit.build_ghost_model(tmp_path / f"{architecture}.gguf", architecture=architecture, shape="tiny")
        found = labkit.predict_speed(path, flash_attn=flash, n_parallel=3, n_prompt=40, depth=300)
        assert found.decode_tokens_per_second > 0 < found.prompt_tokens_per_second
        assert (found.flash_attn, found.n_parallel, found.depth) == (flash, 3, 300)


def test_given_system_is_not_measured_again(tmp_path: Path) -> None:
    """Its bandwidth is used unchanged, for the number of threads it was measured with."""
    path = labkit.build_ghost_model(tmp_path / "tiny.gguf", shape="tiny")
    known = labkit.measure_system(seconds=0.05).replace(read_bytes_per_second=1e6, bandwidth_threads=1)
    found = labkit.predict_speed(path, n_prompt=8, system=known)
    assert found.read_bytes_per_second == 1e6
    assert (found.n_threads, found.limit) == (1, "bandwidth")


def test_times_grow_with_the_work() -> None:
    """A matrix with four times the rows takes longer, and a small operation is faster than both."""
    small, large = MatrixJob(8, 1024, 1024, 1), MatrixJob(8, 1024, 8192, 1)
    row = SmallJob(64, 1)
    times = time_kernels([small, large, row], 1)
    assert times[row] < times[small] < times[large]


def test_wrong_arguments_end_in_one_line() -> None:
    """Each wrong argument is a one-line error."""
    for kwargs, error in (
        ({"n_threads": 0}, ArgumentError),
        ({"n_threads": "2"}, ArgumentTypeError),
        ({"depth": -1}, ArgumentError),
        ({"n_prompt": 0}, ArgumentError),
        ({"n_parallel": 999}, ArgumentError),
        ({"system": 3}, ArgumentTypeError),
    ):
        with pytest.raises(error) as caught:
            labkit.predict_speed(**kwargs)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFoundError):
        labkit.predict_speed("no-such-model.gguf")
    with pytest.raises(LabkitError, match="aborted its process"):
        time_kernels([MatrixJob(9999, 32, 32, 1)], 1)
