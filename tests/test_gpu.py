"""What labkit predicts and chooses next to a GPU, checked without one: build and dry runs were recorded on an H100."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import labkit
from labkit.cli import doctor
from labkit.engine.settings import LoadRequest, choose_settings
from labkit.load_check.facts import LoadFacts
from labkit.memory import dry_run
from labkit.system.build import Device, EngineBuild

MIB = 2**20
GPU = Device("CUDA0", "GPU", "NVIDIA H100 80GB HBM3", 85_017_493_504, 84_465_090_560, pins_memory=True)
CPU = Device("CPU", "CPU", "Intel(R) Xeon(R) Processor", 135_148_564_480, 135_148_564_480)
BUILD = EngineBuild(
    version="0.3.36",
    features=("AVX2", "AVX512", "REPACK"),
    backends=("CUDA", "RPC", "CPU"),
    has_gpu=True,
    has_rpc=True,
    repacked_types=("Q4_0", "Q4_K"),
    devices=(GPU, CPU),
)
# Buffer type, bytes of weights, cache and graph: a llama of 7B in Q4_K_M (synthetic), n_ctx 2,048, by n_gpu_layers.
DRY_RUNS: dict[int, list[list[Any]]] = {
    0: [["CUDA0", 0, 0, 202_377_216], ["CPU", 0, 1_073_741_824, 0], ["CUDA_Host", 4_080_263_168, 0, 46_145_568]],
    16: [
        ["CUDA0", 1_943_170_816, 503_316_480, 114_493_440],
        ["CPU", 0, 570_425_344, 0],
        ["CUDA_Host", 2_137_096_192, 0, 27_275_296],
    ],
    -1: [["CUDA_Host", 73_728_000, 0, 18_886_688], ["CUDA0", 4_006_543_360, 1_073_741_824, 94_906_496]],
}
LOG = """llama_kv_cache: size = 1024.00 MiB (  2048 cells,  32 layers,  1/1 seqs)
sched_reserve:      CUDA0 compute buffer size =   109.19 MiB
sched_reserve:  CUDA_Host compute buffer size =    26.01 MiB
"""
FACTS = LoadFacts(
    "llama",
    {"block_count": 2, "attention.head_count": 4, "embedding_length": 256, "context_length": 2048},
    (("blk.0.ffn_up.weight", "Q4_K", 512, 256, 73_728),),
    73_728,
)


@pytest.fixture
def next_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have labkit meet the recorded build and dry runs; returns the numbers of layers that the dry runs were asked for."""
    asked: list[int] = []

    def ask(_model: Any, settings: Any, _limit_s: float) -> dict[str, Any]:
        asked.append(settings["n_gpu_layers"])
        return {
            "log": LOG,
            "error": "",
            "resident_after_bytes": 337_686_528,
            "buffers": DRY_RUNS[settings["n_gpu_layers"]],
        }

    monkeypatch.setattr("labkit.memory.plan.engine", lambda: BUILD)
    monkeypatch.setattr("labkit.system.engine_build_or_usual", lambda: BUILD)
    monkeypatch.setattr("labkit.memory.dry_run.engine_build", lambda: BUILD)
    monkeypatch.setattr("labkit.memory.dry_run.recall", lambda *_: None)
    monkeypatch.setattr("labkit.memory.dry_run.remember", lambda *_: None)
    monkeypatch.setattr("labkit.memory.dry_run._ask", ask)
    return asked


def _part(estimate: labkit.MemoryEstimate, name: str, device: str) -> int:
    return sum(part.resident_bytes for part in estimate.parts if (part.name, part.device) == (name, device))


@pytest.mark.parametrize("n_gpu_layers", DRY_RUNS)
def test_compute_buffers_are_llama_cpp_s_own_on_each_side(next_to_a_gpu: list[int], n_gpu_layers: int) -> None:
    """The dry run puts the layers on the GPU, and its buffers count where they are: "CUDA_Host" is RAM."""
    estimate = labkit.estimate_memory_usage(n_gpu_layers=n_gpu_layers)
    sizes = {name: graph for name, _, _, graph in DRY_RUNS[n_gpu_layers]}
    assert next_to_a_gpu == [n_gpu_layers]
    assert _part(estimate, "compute", "device") == sizes["CUDA0"]
    assert _part(estimate, "compute", "CPU") == sizes["CUDA_Host"]


def test_no_layer_on_a_gpu_still_uses_its_memory(next_to_a_gpu: list[int]) -> None:
    """With n_gpu_layers=0 the GPU computes prompts: its buffer, and CUDA's work space with cuBLAS, 443 MiB on an H100."""
    estimate = labkit.estimate_memory_usage(n_gpu_layers=0)
    assert estimate.gpu_bytes == 202_377_216 + 250 * MIB


def test_buffers_are_read_from_the_log_where_nothing_else_tells() -> None:
    """A build whose buffers cannot be asked for has them in its log, to 0.01 MiB."""
    answer = {"log": LOG, "resident_after_bytes": 0, "buffers": None}
    found = dry_run._read(answer)
    assert found.device_compute_bytes == round(109.19 * MIB)
    assert found.compute_buffer_bytes == round((109.19 + 26.01) * MIB)


def test_devices_of_other_processes_are_not_this_machine_s_gpu(next_to_a_gpu: list[int]) -> None:
    """With devices=[address] the CPU's weights are repacked, and CUDA adds nothing."""
    estimate = labkit.estimate_memory_usage(n_gpu_layers=16, devices=["127.0.0.1:50052"], method="formula")
    assert _part(estimate, "runtime", "127.0.0.1:50052") == 0
    assert not next_to_a_gpu


@pytest.mark.parametrize("n_gpu_layers", [0, 1, -1])
def test_weights_are_read_into_pinned_ram(n_gpu_layers: int) -> None:
    """Next to such a GPU the file is read, not mapped, and the reason is not that this CPU repacks weights: it does not."""
    chosen = choose_settings(LoadRequest(n_gpu_layers=n_gpu_layers), FACTS, BUILD)
    assert not chosen.use_mmap
    assert "pinned RAM" in chosen.reasons["use_mmap"]
    assert "REPACK" not in BUILD.weight_features
    assert "repacked for this CPU" in choose_settings(LoadRequest(), FACTS, _without_gpu()).reasons["use_mmap"]


def _without_gpu(*backends: str) -> EngineBuild:
    return BUILD.replace(has_gpu=False, devices=(CPU,), backends=(*backends, "RPC", "CPU"))


def test_recommendation_leaves_the_driver_room_on_a_gpu(next_to_a_gpu: list[int]) -> None:
    """The GPU's free memory less 256 MiB is what the layers may use; flash attention is on, as load_model has it there."""
    advice = labkit.recommend_settings(n_ctx=2048)
    assert advice.n_gpu_layers == 31
    assert advice.reasons[-1].endswith("fit in 78.41 GiB with their cache")
    assert set(advice.estimate.by_device()) == {"CPU", "CUDA0"}
    on = labkit.estimate_memory_usage(n_gpu_layers=-1, flash_attn=True, method="formula")
    assert _part(advice.estimate, "compute", "CUDA0") == _part(on, "compute", "device")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (BUILD, ""),
        (_without_gpu(), "built without a GPU backend"),
        (_without_gpu("CUDA"), "the CUDA backend found no GPU: is its driver installed?"),
    ],
)
def test_a_missing_gpu_has_a_reason(build: EngineBuild, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without a GPU backend and a GPU that the backend cannot find are told apart, in doctor too."""
    assert build.why_no_gpu == reason
    monkeypatch.setattr("labkit.system.engine_build", lambda: build)
    found = next(finding.found for finding in doctor.check_engine() if finding.what == "devices")
    assert reason in found if reason else found == "CUDA0 (NVIDIA H100 80GB HBM3, 78.66 GiB free), CPU"


def test_backends_start_silently() -> None:
    """What a CUDA backend reports at its start does not reach stderr; a level that was set stays."""
    code = (
        "import logging; from labkit.system import engine_build; engine_build(); import llama_cpp._logger as log; "
        "log.llama_log_callback(2, b'ggml_cuda_init: found 1 CUDA devices', None); "
        "log.logger.setLevel(logging.DEBUG); engine_build(); assert log.logger.level == logging.DEBUG"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")
