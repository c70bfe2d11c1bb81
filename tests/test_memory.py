"""A model's memory: formula, llama.cpp's dry run and its real buffers agree to the byte."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.cli import main
from labkit.errors import ArgumentError, ArgumentTypeError, LabkitError
from labkit.gguf_file import read_header
from labkit.gguf_file.formats import tensor_type
from labkit.ghost import build_ghost_model, ghost_shapes
from labkit.kv_cache.layers import CHECKED
from labkit.memory.allocator import Graph
from labkit.memory.dry_run import simulate
from labkit.memory.estimate import estimate_plan
from labkit.memory.plan import make_plan
from labkit.plots import plot_memory
from tests import more_ghosts  # noqa: F401  # adds architectures
from tests.gguf_kinds import KINDS
from tests.gguf_models import Parts, llama
from tests.gguf_mutants import mutate
from tests.gguf_zoo import U32
from tests.layouts import Layout, lay_out

needs_breakdown = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="llama.cpp's exact buffer sizes are readable only with GNU's C++ library"
)
Q4_0 = tensor_type("Q4_0").id


def _wide(**values: Any) -> Parts:
    """Return a llama with rows long enough for quantization and repacking, and heads of 64."""
    return llama(n_embd=256, n_head=4, n_ff=512, **{"tokenizer": "gpt2", **values})


def _untied() -> Parts:
    parts = _wide(matrix=Q4_0)
    shape, kind, data = parts.tensors["token_embd.weight"]
    parts.tensors["output.weight"] = (shape, kind, data)
    return parts


MODELS: dict[str, Callable[[], Parts]] = {
    **KINDS,
    "multi-head": lambda: _wide(n_head_kv=4),
    "multi-query": lambda: _wide(n_head_kv=1),
    "grouped-query": _wide,
    "rearranged": _untied,
    "rearranged, tied": lambda: _wide(matrix=Q4_0),
}
F16, Q8, Q4 = 1, tensor_type("Q8_0").id, Q4_0
CASES: tuple[dict[str, Any], ...] = (
    {"n_ctx": 256},
    {"n_ctx": 1000, "n_ubatch": 128},
    {"n_ctx": 3072, "flash_attn": True},
    {"n_ctx": 2048, "n_seq": 4},
    {"n_ctx": 1024, "n_seq": 2, "swa_full": True},
)
QUANTIZED: tuple[dict[str, Any], ...] = (
    {"n_ctx": 2048, "flash_attn": True, "type_k": Q8, "type_v": Q8},
    {"n_ctx": 1280, "flash_attn": True, "type_k": Q4, "type_v": F16},
    {"n_ctx": 512, "type_k": Q8},
)
GHOSTS = tuple(dict.fromkeys(shape.architecture for shape in ghost_shapes()))
ZOO = [
    *((name, case) for name, case in itertools.product(MODELS, CASES)),
    *((f"ghost {name}", case) for name, case in itertools.product(GHOSTS, (CASES[1], CASES[3], QUANTIZED[0]))),
    *((name, case) for name, case in itertools.product(("multi-head", "multi-query", "grouped-query"), QUANTIZED)),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write every model once."""
    folder = tmp_path_factory.mktemp("memory")
    paths = {name: folder / f"{index}.gguf" for index, name in enumerate(MODELS)}
    for name, path in paths.items():
        MODELS[name]().write(path)
    for name in GHOSTS:
        paths[f"ghost {name}"] = build_ghost_model(folder / f"{name}.gguf", architecture=name, shape={})
    return paths


@pytest.fixture(scope="module")
def pair(rpc: None) -> Iterator[list[labkit.ServedDevice]]:
    """Serve two devices on loopback."""
    with labkit.start_device("127.0.0.1:0") as first, labkit.start_device("127.0.0.1:0") as second:
        yield [first, second]


def _estimate(path: Path, case: dict[str, Any], **more: Any) -> labkit.MemoryEstimate:
    return labkit.estimate_memory_usage(
        path, **{"flash_attn": False, "method": "formula", "use_mmap": False, **case, **more}
    )


def _engine(path: Path, case: dict[str, Any], *, allocate: bool) -> Layout:
    names = {"n_seq": "n_seq_max", "flash_attn": "flash_attn_type"}
    settings = {names.get(name, name): value for name, value in case.items()}
    cells = -(-case["n_ctx"] // 256) * 256
    n_batch = min(512, cells)
    settings |= {"n_ctx": cells, "n_batch": n_batch, "n_ubatch": min(case.get("n_ubatch", 512), n_batch)}
    return lay_out(path, allocate=allocate, **{"n_outputs_max": case.get("n_seq", 1), **settings})


@needs_breakdown
@pytest.mark.parametrize(("name", "case"), ZOO, ids=lambda value: str(value))
def test_formula_equals_dry_run_and_real_buffers(files: dict[str, Path], name: str, case: dict[str, Any]) -> None:
    """Weights and cache are equal in formula, dry run and real buffers; the compute buffer is close."""
    slack = 0.05 if name in ("ghost falcon-h1", "ghost granitehybrid", "ghost jamba") else 0.015
    estimate = _estimate(files[name], case)
    for allocate in (False, True):
        engine = _engine(files[name], case, allocate=allocate)
        assert estimate.weights_bytes + estimate.repack_bytes == engine.weights
        assert estimate.kv_cache_bytes + estimate.recurrent_state_bytes == engine.cache
        assert estimate.compute_buffer_bytes == pytest.approx(engine.graph, rel=slack)
    assert estimate.compute_buffer_bytes / 2**20 == pytest.approx(engine.logged("compute"), rel=slack, abs=0.02)
    assert estimate.kv_cache_bytes / 2**20 == pytest.approx(engine.logged("KV"), abs=0.011)
    assert estimate.recurrent_state_bytes / 2**20 == pytest.approx(engine.logged("RS"), abs=0.006)
    assert estimate.output_buffer_bytes / 2**20 == pytest.approx(engine.logged("output"), abs=0.006)


@pytest.mark.parametrize("name", ["gemma3", "mamba", "deepseek2", "mixtral", "rearranged"])
def test_methods_agree(files: dict[str, Path], name: str) -> None:
    """All three methods agree on an architecture that the formula knows."""
    formula, simulated, auto = (
        labkit.estimate_memory_usage(files[name], 1024, method=method, use_mmap=False)
        for method in ("formula", "simulate", "auto")
    )
    assert formula.kv_cache_bytes == simulated.kv_cache_bytes == auto.kv_cache_bytes
    assert formula.recurrent_state_bytes == pytest.approx(simulated.recurrent_state_bytes, abs=6000)
    assert formula.compute_buffer_bytes == pytest.approx(simulated.compute_buffer_bytes, rel=0.1)
    assert auto.compute_buffer_bytes == simulated.compute_buffer_bytes
    assert (formula.method, simulated.method, auto.method) == ("formula", "simulate", "auto")
    assert auto.total_bytes == pytest.approx(formula.total_bytes, rel=0.1)


@needs_breakdown
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", ["rearranged", "rearranged, tied", "gemma3"])
def test_weights_are_mapped_loaded_and_repacked_as_in_llama_cpp(files: dict[str, Path], name: str, mapped: bool) -> None:
    """Mapped, copied and repacked bytes equal llama.cpp's buffers."""
    estimate = _estimate(files[name], {"n_ctx": 256}, use_mmap=mapped)
    engine = lay_out(files[name], allocate=True, mapped=mapped, n_ctx=256, n_batch=256, n_ubatch=256)
    assert estimate.weights_bytes + estimate.repack_bytes == engine.weights
    by_kind = {kind: size for kind, size, _, _ in engine.rows if size}
    mine = {part.name: part.resident_bytes for part in estimate.parts if "weights" in part.name}
    assert mine.get("repacked weights", 0) == by_kind.get("CPU_REPACK", 0)
    assert estimate.file_backed_bytes == (by_kind.get("CPU_Mapped", by_kind.get("CPU", 0)) if mapped else 0)


def test_every_checked_architecture_is_tested(files: dict[str, Path]) -> None:
    """The zoo has exactly the architectures in CHECKED, and gguf knows every name."""
    assert {read_header(path).architecture for path in files.values()} == CHECKED
    assert set(gguf.MODEL_ARCH_NAMES.values()) >= CHECKED


def test_unchecked_architectures_use_llama_cpps_cache_size(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """For unchecked architectures the automatic method uses llama.cpp's cache size, and says so."""
    expected = labkit.estimate_memory_usage(files["gemma3"], 1024).kv_cache_bytes
    monkeypatch.setattr("labkit.kv_cache.layers.CHECKED", frozenset())
    monkeypatch.setattr("labkit.kv_cache.size.cache_bytes", lambda *_, **__: {-1: 1})
    monkeypatch.setattr("labkit.memory.estimate.cache_bytes", lambda *_, **__: {-1: 1})
    estimate = labkit.estimate_memory_usage(files["gemma3"], 1024)
    assert estimate.kv_cache_bytes == expected
    assert any("llama.cpp's own figure" in sentence for sentence in estimate.assumptions)


def test_load_model_needs_the_estimated_memory() -> None:
    """llama.cpp's log of a real load has the estimated cache, compute buffer and weights."""
    estimate = labkit.estimate_memory_usage(n_ctx=1024)
    with labkit.load_model(n_ctx=1024) as model:
        log = Layout([], model.load_log)
    assert round(estimate.kv_cache_bytes / 2**20, 2) == log.logged("KV")
    assert round(estimate.compute_buffer_bytes / 2**20, 2) == log.logged("compute")
    assert round(estimate.weights_bytes / 2**20, 2) == log.logged("model")


def test_llama_cpp_pythons_defaults_can_be_estimated() -> None:
    """With all rows of logits and full windows, the estimate is that of Llama(...) without labkit."""
    ours = labkit.estimate_memory_usage(n_ctx=1024)
    theirs = labkit.estimate_memory_usage(
        n_ctx=1024, n_outputs_max=0, swa_full=True, flash_attn=False, use_mmap=True, method="simulate"
    )
    assert theirs.compute_buffer_bytes > 49_152 * 4 * 512 > ours.compute_buffer_bytes


def test_formula_is_fast() -> None:
    """With the header read, it opens no file, starts no process, and needs only milliseconds."""
    header = read_header(labkit.bundled_model_path())
    given = dict.fromkeys(("n_gpu_layers",), 0) | dict.fromkeys(("type_k", "type_v"), "f16")
    given |= {"n_batch": 512, "n_ubatch": 512, "n_seq": 1, "use_mmap": None, "flash_attn": "auto", "swa_full": False}
    given |= {"n_outputs_max": None, "devices": None, "tensor_split": None}
    plan = make_plan(header, 2048, **given)
    away = dataclasses.replace(plan, header=dataclasses.replace(header, paths=()))
    assert estimate_plan(away, "formula").kv_cache_bytes == 47_185_920


def test_layers_move_to_the_device(files: dict[str, Path]) -> None:
    """More layers on the device mean less on the host; total weights and cache do not change."""
    sizes = [_estimate(files["multi-head"], {"n_ctx": 512}, n_gpu_layers=n) for n in (0, 1, 2, -1)]
    assert [size.gpu_bytes for size in sizes] == sorted(size.gpu_bytes for size in sizes)
    assert sizes[0].gpu_bytes == 0
    assert len({size.kv_cache_bytes for size in sizes}) == 1
    on_device = {part.name for part in sizes[-1].parts if part.device != "CPU"}
    assert on_device == {"weights", "cache", "compute"}


def test_two_devices_share_the_layers() -> None:
    """Shares are equal by default, else as given."""
    bundled = labkit.bundled_model_path()
    even = _estimate(bundled, {"n_ctx": 512}, n_gpu_layers=-1, devices=["a:1", "b:2"])
    odd = _estimate(bundled, {"n_ctx": 512}, n_gpu_layers=-1, devices=["a:1", "b:2"], tensor_split=[1, 0])
    caches = [{part.device: part.resident_bytes for part in e.parts if part.name == "cache"} for e in (even, odd)]
    assert set(caches[0]) == {"a:1", "b:2"}
    assert set(caches[1]) == {"a:1"}


@pytest.mark.parametrize("n_gpu_layers", [1, 15, -1])
def test_split_equals_the_engines_log(pair: list[labkit.ServedDevice], n_gpu_layers: int) -> None:
    """On one and two served devices, weights and cache are as estimated; compute buffers within 3 %."""
    for devices in (pair[:1], pair):
        estimate = labkit.estimate_memory_usage(n_ctx=2048, n_gpu_layers=n_gpu_layers, devices=devices)
        with labkit.load_model(n_ctx=2048, n_threads=1, n_gpu_layers=n_gpu_layers, devices=devices) as model:
            for name, buffer, slack in (("weights", "model", 0.006), ("cache", "KV", 0.006), ("compute", "compute", 0.03)):
                mine = {p.device: p.resident_bytes / 2**20 for p in estimate.parts if p.name == name}
                logged = dict(re.findall(rf"(\S+) {buffer} buffer size = +([0-9.]+) MiB", model.load_log))
                theirs = {
                    re.sub(r"RPC\d+\[(.*)\]|CPU_Mapped", lambda m: m[1] or "CPU", k): float(v) for k, v in logged.items()
                }
                assert mine == pytest.approx(theirs, abs=0.006, rel=slack if name == "compute" else 0)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"method": "guess"}, ArgumentError),
        ({"n_ctx": -1}, ArgumentError),
        ({"n_ctx": 2.5}, ArgumentTypeError),
        ({"n_seq": 0}, ArgumentError),
        ({"type_k": "q9"}, ArgumentError),
        ({"type_v": "q8_0", "flash_attn": False}, ArgumentError),
        ({"flash_attn": "maybe"}, ArgumentTypeError),
        ({"n_gpu_layers": -2}, ArgumentError),
        ({"devices": ["a"], "tensor_split": [1, 2], "n_gpu_layers": 1}, ArgumentError),
    ],
)
def test_wrong_arguments_are_one_line_errors(given: dict[str, Any], kind: type[LabkitError]) -> None:
    """Each wrong argument is a one-line error."""
    with pytest.raises(kind) as caught:
        labkit.estimate_memory_usage(**given)
    assert "\n" not in str(caught.value)


def test_crash_in_the_dry_run_is_a_one_line_error(tmp_path: Path) -> None:
    """A crash of the dry run is a one-line error."""
    broken = tmp_path / "broken.gguf"
    parts = MODELS["multi-head"]()
    parts.keys["llama.expert_count"] = (U32, 3, None)  # llama.cpp asserts that some experts are used
    parts.write(broken)
    with pytest.raises(labkit.ModelLoadError, match="aborted its process"):
        simulate(broken, n_ctx=512, n_batch=512, n_ubatch=512)
    with pytest.raises(labkit.GGUFError):
        labkit.estimate_memory_usage(broken, 512)


def test_failed_dry_run_falls_back_to_the_formula(tmp_path: Path) -> None:
    """If llama.cpp refuses the model, the automatic method uses the formula and says so; simulate raises the reason."""
    broken = tmp_path / "broken.gguf"
    parts = MODELS["multi-head"]()
    del parts.tensors["blk.1.attn_norm.weight"]
    parts.write(broken)
    with pytest.raises(labkit.ModelLoadError, match="attn_norm"):
        labkit.estimate_memory_usage(broken, 512, method="simulate")
    estimate = labkit.estimate_memory_usage(broken, 512)
    assert estimate.method == "formula"
    assert any("dry run failed" in sentence for sentence in estimate.assumptions)


def test_mutated_headers_give_figures_or_one_line_errors(tmp_path: Path) -> None:
    """For any header, the estimate is soon a figure or a LabkitError."""
    rng = random.Random(7)
    models = [make() for make in MODELS.values()]
    path = tmp_path / "mutant.gguf"
    for _ in range(400):
        path.write_bytes(mutate(rng.choice(models), rng)[1])
        settings = {"type_k": rng.choice(("f16", "q8_0")), "flash_attn": rng.choice((True, False)), "n_gpu_layers": -1}
        with contextlib.suppress(LabkitError):
            assert labkit.estimate_memory_usage(path, 2048, method="formula", **settings).total_bytes > 0


def test_simulation_is_cached(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run of the same file and settings is not repeated."""
    first = simulate(files["qwen2"], n_ctx=768, n_batch=512, n_ubatch=512)
    monkeypatch.setattr("labkit.memory.dry_run._ask", lambda *_: pytest.fail("asked again"))
    assert simulate(files["qwen2"], n_ctx=768, n_batch=512, n_ubatch=512) == first


def test_verdict_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little RAM, the verdict says how much is missing."""
    monkeypatch.setattr("labkit.memory.estimate.available_ram_bytes", lambda: 1024)
    monkeypatch.setattr("labkit.memory.estimate.resident_bytes", lambda: 0)
    estimate = labkit.estimate_memory_usage(method="formula", use_mmap=False)
    assert not estimate.fits
    assert estimate.verdict.startswith("does not fit")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_allocator_peak_is_between_largest_and_sum(sizes: list[int], random: Any) -> None:
    """For any graph, the peak is between the largest tensor and the sum of all."""
    graph = Graph()
    made = [graph.input(sizes[0])]
    for size in sizes[1:]:
        made.append(graph.compute(size, *random.sample(made[-5:], min(len(made), 2, len(made[-5:])))))
    padded = [-(-size * 4 // 32) * 32 for size in sizes]
    assert max(padded) <= graph.buffer_bytes() <= sum(padded)


# -- settings ------------------------------------------------------------------------------------------------------


def test_recommended_settings_are_the_largest_that_fit() -> None:
    """The next larger context, or the larger cache type, does not fit in the same RAM."""
    ram = 260 * 2**20
    advice = labkit.recommend_settings(ram=ram)
    assert advice.fits
    assert advice.type_k == "q8_0"
    assert advice.estimate.ram_bytes <= ram
    for n_ctx, kind in ((advice.n_ctx + 256, "q8_0"), (advice.n_ctx, "f16")):
        more = labkit.estimate_memory_usage(n_ctx=n_ctx, type_k=kind, type_v=kind, method="formula")
        assert more.ram_bytes > 0.95 * ram


def test_recommended_settings_load() -> None:
    """load_model accepts the recommended settings and needs the estimated memory."""
    advice = labkit.recommend_settings(ram="200 MiB")
    with labkit.load_model(**advice.as_arguments()) as model:
        assert model.settings.n_ctx == advice.n_ctx
        assert labkit.generate_text(model, "Hello", 4, temperature=0)


def test_plenty_of_ram_gives_the_trained_context() -> None:
    """If everything fits, the training context and F16 are recommended."""
    advice = labkit.recommend_settings(ram="64 GiB")
    assert advice.as_arguments() == {"n_ctx": 8192, "type_k": "f16", "type_v": "f16", "n_gpu_layers": 0}


def test_as_many_layers_go_to_devices_as_fit() -> None:
    """A larger device gets more layers, and no device gets more than its memory."""
    counts = []
    for size in (64, 96, 160):
        advice = labkit.recommend_settings(ram="2 GiB", devices=[f"{size} MiB"], n_ctx=1024)
        counts.append(advice.n_gpu_layers)
        assert advice.estimate.gpu_bytes <= size * 2**20
    assert counts == sorted(set(counts))


def test_too_little_ram_names_the_needed_memory() -> None:
    """If nothing fits, the reason names the memory of the weights."""
    advice = labkit.recommend_settings(ram="100 MiB")
    assert not advice.fits
    assert "does not fit" in advice.reasons[-1]
    assert "weights" in advice.reasons[-1]


@pytest.mark.parametrize("given", [{"ram": "much"}, {"ram": 0}, {"devices": ["-1 GiB"]}, {"n_ctx": -5}])
def test_wrong_arguments_of_recommend_settings_are_one_line_errors(given: dict[str, Any]) -> None:
    """Each wrong argument is a one-line error."""
    with pytest.raises(LabkitError):
        labkit.recommend_settings(**given)


# -- the command line and the picture ------------------------------------------------------------------------------


def test_memory_command_prints_the_parts_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a table, the verdict and the call to load the model; --json has the same values."""
    assert main(["memory", "--n-ctx", "1024", "--method", "formula", "--ram", "1GiB"]) == 0
    shown = capsys.readouterr().out
    assert "30 layers x 1,024 cells" in " ".join(shown.split())
    assert "fits: needs" in shown
    assert "load_model(…, n_ctx=8192" in shown
    assert main(["memory", "--n-ctx", "1024", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kv_cache_bytes"] == 1024 * 23_040
    assert sum(part["resident_bytes"] for part in told["parts"]) == told["total_bytes"]


def test_picture_has_an_equivalent_text() -> None:
    """It has bars by device with their parts, the RAM as a line, and an equivalent text."""
    estimate = labkit.estimate_memory_usage(n_ctx=1024, n_gpu_layers=10, method="formula")
    axes = plot_memory({"1,024": estimate, "again": estimate}, ram_bytes=2**30)
    assert axes.get_xlabel().endswith("(MiB)")
    label = str(axes.get_label())
    assert "1,024 on CPU" in label
    assert "again on device" in label
    assert "RAM: 1024 MiB" in label
    assert len(axes.get_yticklabels()) == 4


# -- measured ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_mmap": False}, {"type_k": "q8_0", "type_v": "q8_0"}])
def test_measured_peak_equals_the_estimate(options: dict[str, Any]) -> None:
    """On Linux, the estimate is at most 2 % below and 5 % above the measured peak RSS."""
    measured = labkit.measure_memory(n_ctx=512, **options)
    estimate = labkit.estimate_memory_usage(n_ctx=512, **options)
    assert measured.n_tokens == 512
    if sys.platform.startswith("linux"):
        assert 0.98 <= estimate.total_bytes / measured.peak_bytes <= 1.05


def test_measuring_an_invalid_model_is_a_one_line_error(tmp_path: Path) -> None:
    """The child's error is raised."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(labkit.ModelLoadError, match="version"):
        labkit.measure_memory(broken)
