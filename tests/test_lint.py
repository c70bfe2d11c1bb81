"""Traps in how a model is loaded are found before it is loaded, with what they cost and what mends them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit.cli import main
from labkit.cli.doctor import check_settings
from labkit.engine.options import CACHE_TYPES
from labkit.errors import LabkitError
from labkit.gguf_file.formats import tensor_type
from labkit.lint import LintFinding, LintReport, find, machine
from labkit.lint.weights import uniform_bytes
from labkit.model_info import read_model_header
from labkit.system import physical_cores_available, unused_instructions
from tests.gguf_models import llama
from tests.gguf_mutants import mutate
from tests.test_system import linux_only, plant, siblings, version_2
from tests.tiny_models import write_tiny_model

Q4_0, F16 = tensor_type("Q4_0").id, tensor_type("F16").id


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write small models, one for each kind of trap in a file."""
    folder = tmp_path_factory.mktemp("lint")
    paths = {name: folder / f"{name}.gguf" for name in ("tiny", "rearranged", "fallback", "plain", "q8_0", "wide")}
    write_tiny_model(paths["tiny"])
    llama(n_embd=256, n_head=4, n_ff=2048, n_layer=12, tokenizer="gpt2", matrix=Q4_0).write(paths["rearranged"])
    labkit.quantize_model(paths["tiny"], paths["fallback"], "Q4_K_M")
    labkit.quantize_model(paths["tiny"], paths["plain"], "Q4_0")
    labkit.quantize_model(paths["tiny"], paths["q8_0"], "Q8_0")
    parts = llama(n_embd=64, n_ff=64, n_vocab=2048, tokenizer="gpt2", matrix=Q4_0)
    shape = parts.tensors["token_embd.weight"][0]
    parts.tensors["token_embd.weight"] = (shape, F16, bytes(2 * shape[0] * shape[1]))
    parts.write(paths["wide"])
    paths["window"] = labkit.build_ghost_model(folder / "window.gguf", architecture="gemma3", shape={"n_layer": 6})
    return paths


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the load for low: what else runs while these tests do is no claim of theirs."""
    monkeypatch.setattr(machine, "_load", lambda: 0.0)


def _found(report: LintReport, code: str) -> LintFinding:
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, f"{code} is not once in {report.codes}"
    return found[0]


def _machine(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Give the machine other facts."""
    changed = dataclasses.replace(machine.look_around(), **facts)
    monkeypatch.setattr(find, "look_around", lambda: changed)


def test_what_load_model_chooses_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model, loaded as load_model does by default, has no trap on a machine whose engine was built for it."""
    _machine(monkeypatch, unused=())
    report = labkit.lint_settings()
    assert report.findings == ()
    assert report.is_clean
    with labkit.load_model() as model:
        assert dict(report.settings) == dict(model.settings)


def test_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine opens the model."""
    import llama_cpp

    def refuse(*_: Any) -> None:
        raise AssertionError("the engine was asked to load")

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", refuse)
    labkit.lint_settings(as_llama=True, n_ctx=4096, use_mmap=True)


def test_quantized_values_without_flash_attention_are_an_error(files: dict[str, Path]) -> None:
    """What the engine refuses is an error, and the mended settings load."""
    report = labkit.lint_settings(type_v="q8_0", flash_attn=False)
    finding = report.findings[0]
    assert (finding.code, finding.severity) == ("v-cache-without-flash", "error")
    with pytest.raises(LabkitError, match="flash"):
        labkit.load_model(type_v="q8_0", flash_attn=False)
    mended = {"n_ctx": 256, "type_v": "q8_0", "flash_attn": False} | report.changes()
    assert "v-cache-without-flash" not in labkit.lint_settings(**mended).codes
    labkit.load_model(**mended).close()


def test_heads_that_are_no_whole_blocks_are_an_error(files: dict[str, Path]) -> None:
    """Heads of 16 cannot be cached in blocks of 32: the engine refuses, and the mended settings load."""
    given = {"n_ctx": 256, "type_k": "q8_0", "type_v": "q8_0"}
    report = labkit.lint_settings(files["tiny"], **given)
    assert set(report.codes) >= {"cache-blocks"}
    assert report.findings[0].severity == "error"
    with pytest.raises(LabkitError, match="block size 32"):
        labkit.load_model(files["tiny"], **given)
    labkit.load_model(files["tiny"], **given | report.changes()).close()


@pytest.mark.parametrize(
    ("code", "name", "trap", "mended"),
    [
        ("doubled-weights", "rearranged", {"use_mmap": True}, {"use_mmap": False}),
        ("full-window-cache", "window", {"swa_full": True, "n_ctx": 8192}, {"swa_full": False}),
        ("f32-cache", "rearranged", {"type_k": "f32", "type_v": "f32", "n_ctx": 512}, {"type_k": "f16", "type_v": "f16"}),
        ("beyond-training", "rearranged", {"n_ctx": 8192}, {"n_ctx": 512}),
    ],
)
def test_costs_in_memory_are_the_estimates(
    files: dict[str, Path], code: str, name: str, trap: dict[str, Any], mended: dict[str, Any]
) -> None:
    """A cost is the estimate with the trap less the estimate without; the mended settings have it no more."""
    report = labkit.lint_settings(files[name], **trap)
    finding = _found(report, code)
    assert finding.change == mended
    whole = {"use_mmap": report.settings.use_mmap, "flash_attn": report.settings.flash_attn, **trap}
    with_trap, without = (
        labkit.estimate_memory_usage(files[name], method="formula", **given) for given in (whole, whole | mended)
    )
    assert finding.cost_bytes == with_trap.total_bytes - without.total_bytes > 0
    assert code not in labkit.lint_settings(files[name], **trap | report.changes()).codes


def test_rearranged_weights_are_counted_to_the_byte(files: dict[str, Path]) -> None:
    """A mapped file costs the second copy, but for what lies behind the last tensor used as it is: that is unmapped."""
    if "REPACK" not in labkit.engine_build().features:
        pytest.skip("this engine rearranges nothing")
    finding = _found(labkit.lint_settings(files["rearranged"], use_mmap=True), "doubled-weights")
    twice = labkit.estimate_memory_usage(files["rearranged"], use_mmap=True, method="formula").repack_bytes
    once = labkit.estimate_memory_usage(files["rearranged"], use_mmap=False, method="formula").repack_bytes
    last = 3 * 256 * 2048 * 18 // 32  # the last layer's feed-forward matrices, in blocks of 32 weights and 18 bytes
    assert finding.cost_bytes == twice - once - last


def test_rows_of_all_logits_are_counted(files: dict[str, Path]) -> None:
    """logits_all costs the compute buffer's rows, a batch's and the context's; the last are what the model really holds."""
    finding = _found(labkit.lint_settings(files["tiny"], n_ctx=1024, logits_all=True), "logits-all")
    one, every = (
        labkit.estimate_memory_usage(files["tiny"], 1024, n_outputs_max=rows, method="formula").compute_buffer_bytes
        for rows in (1, 0)
    )
    with labkit.load_model(files["tiny"], 1024, logits_all=True) as model:
        held, row = model.scores.nbytes, 4 * model.n_vocab()
    assert finding.cost_bytes == every - one + held + (512 - 1) * row
    assert "logits-all" not in labkit.lint_settings(files["tiny"], n_ctx=1024).codes


def test_too_long_a_context_gets_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is an error with the settings that recommend_settings finds; they fit."""
    ram = 400 * 2**20
    monkeypatch.setattr("labkit.memory.estimate.available_ram_bytes", lambda: ram)
    monkeypatch.setattr("labkit.memory.estimate.resident_bytes", lambda: 0)
    report = labkit.lint_settings(n_ctx=65_536, flash_attn=True)
    finding = _found(report, "does-not-fit")
    assert finding.severity == "error"
    assert finding.change == labkit.recommend_settings(ram=ram).as_arguments()
    estimate = labkit.estimate_memory_usage(n_ctx=65_536, flash_attn=True, method="formula")
    assert finding.cost_bytes == estimate.ram_bytes - ram
    assert labkit.lint_settings(**finding.change).settings.n_ctx == finding.change["n_ctx"]
    assert "does-not-fit" not in labkit.lint_settings(**finding.change).codes
    monkeypatch.setattr("labkit.memory.estimate.available_ram_bytes", lambda: ram * 3 // 4)
    finding = _found(labkit.lint_settings(n_ctx=65_536, flash_attn=False), "does-not-fit")
    assert (finding.change["type_v"], finding.change["flash_attn"]) == ("q8_0", True)


def test_few_threads_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread of four cores is a warning, three are a note, four are right."""
    _machine(monkeypatch, physical=4, performance=4, logical=8, quota=None)
    found = _found(labkit.lint_settings(n_threads=1), "few-threads")
    assert (found.severity, found.change) == ("warning", {"n_threads": 4})
    assert _found(labkit.lint_settings(n_threads=3), "few-threads").severity == "note"
    assert not {"few-threads", "threads-over-cores"} & set(labkit.lint_settings(n_threads=4).codes)
    assert _found(labkit.lint_settings(n_threads=8), "threads-over-cores").change == {"n_threads": 4}
    assert _found(labkit.lint_settings(n_threads=9), "threads-over-limit").change == {"n_threads": 4}
    _machine(monkeypatch, physical=12, performance=4, logical=16, quota=None, unused=())
    assert labkit.lint_settings().findings == labkit.lint_settings(n_threads=4).findings == ()


@linux_only
def test_threads_beyond_a_containers_quota_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota of 1.5 CPUs bears one thread, whatever the machine has."""
    root = version_2(plant(tmp_path, siblings("0", "1")), "/", {"cpu.max": "150000 100000"})
    facts = machine.look_around(root)
    assert (facts.physical, facts.quota) == (physical_cores_available(root), 1.5)
    monkeypatch.setattr(find, "look_around", lambda: facts)
    finding = _found(labkit.lint_settings(n_threads=2), "threads-over-limit")
    assert finding.change == {"n_threads": 1}
    assert "quota of 1.5 CPUs" in finding.trap
    assert "threads-over-limit" not in labkit.lint_settings().codes


@linux_only
def test_an_engine_built_for_an_older_cpu_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the CPU has and the build does not use is named; a kernel that tells nothing is no trap."""
    plant(tmp_path, {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx2 avx512f fma\n"})
    assert unused_instructions(("AVX2", "FMA"), tmp_path) == ("AVX512",)
    assert unused_instructions((), tmp_path / "nowhere") == ()
    _machine(monkeypatch, unused=("AVX512",))
    assert "AVX512" in _found(labkit.lint_settings(), "unused-instructions").trap


def test_layers_without_a_gpu_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers on a GPU that is not there are a warning; devices that are named are none."""
    facts = machine.look_around()
    _machine(monkeypatch, build=facts.build.replace(has_gpu=False))
    assert _found(labkit.lint_settings(n_gpu_layers=-1), "no-gpu").change == {"n_gpu_layers": 0}
    assert "no-gpu" not in labkit.lint_settings(n_gpu_layers=-1, devices=["127.0.0.1:50052"]).codes
    _machine(monkeypatch, build=facts.build.replace(has_gpu=True))
    report = labkit.lint_settings(n_gpu_layers=-1)
    assert "no-gpu" not in report.codes
    assert (report.settings.n_gpu_layers, report.settings.flash_attn) == (-1, True)
    assert _found(labkit.lint_settings(n_gpu_layers=-1, as_llama=True), "logits-reserved").severity == "warning"


def test_a_busy_machine_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load over the CPUs is told where OpenMP's threads spin, and not where they were told to wait."""
    build = machine.look_around().build.replace(features=("OPENMP",))
    _machine(monkeypatch, build=build, load=9.0, n_cpus=4, wait_policy="", unused=())
    assert _found(labkit.lint_settings(), "busy-machine").severity == "note"
    _machine(monkeypatch, build=build, load=9.0, n_cpus=4, wait_policy="passive", unused=())
    assert "busy-machine" not in labkit.lint_settings().codes


def test_flash_attention_against_load_models_choice_is_a_note(files: dict[str, Path]) -> None:
    """On where load_model leaves it off, and off where it takes it."""
    assert _found(labkit.lint_settings(flash_attn=True), "flash-attention").severity == "note"
    assert _found(labkit.lint_settings(files["window"], flash_attn=False), "flash-attention").change == {"flash_attn": True}


def test_k_quants_that_fell_back_are_found(files: dict[str, Path]) -> None:
    """Rows of 64 hold no K-quant: the sizes told are those of the files that the quantizer writes."""
    finding = _found(labkit.lint_settings(files["fallback"], n_ctx=256), "fallback-types")
    info, plain = labkit.get_model_info(files["fallback"]), labkit.get_model_info(files["plain"])
    assert info.quantization == "Q4_K_M"
    assert "Q4_K" not in info.tensor_types
    assert finding.severity == "warning"
    assert "rows of 64" in finding.trap
    assert uniform_bytes(read_model_header(files["fallback"]), "Q4_0") == plain.weights_bytes < info.weights_bytes
    assert "fallback-types" not in labkit.lint_settings(files["plain"], n_ctx=256).codes


def test_few_odd_rows_are_a_note(files: dict[str, Path], tmp_path: Path) -> None:
    """A few small matrices in other types are no reason for another file."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture="deepseek2", shape={})
    finding = _found(labkit.lint_settings(path, n_ctx=256), "fallback-types")
    assert finding.severity == "note"
    tensors = [tensor for tensor in read_model_header(path).tensors if tensor.type.name in ("Q5_0", "Q8_0")]
    meant = {"Q5_0": tensor_type("Q4_K"), "Q8_0": tensor_type("Q6_K")}
    bits = sum(tensor.n_elements * meant[tensor.type.name].bits_per_weight for tensor in tensors)
    assert finding.cost_bytes == sum(tensor.n_bytes for tensor in tensors) - bits / 8


@pytest.mark.parametrize("name", ["plain", "q8_0"])
def test_sizes_of_other_types_are_the_quantizers(files: dict[str, Path], name: str) -> None:
    """What a file would have in another type is what llama.cpp's quantizer makes of it."""
    kind = {"plain": "Q4_0", "q8_0": "Q8_0"}[name]
    assert uniform_bytes(read_model_header(files["tiny"]), kind) == read_model_header(files[name]).weights_bytes


def test_a_file_larger_than_a_better_one_is_found(files: dict[str, Path]) -> None:
    """Layers in Q4_0 with an embedding in F16 take more than a file with more bits in every layer."""
    finding = _found(labkit.lint_settings(files["wide"], n_ctx=256), "larger-than-better")
    assert finding.cost_bytes is not None
    assert finding.cost_bytes > 0
    assert "Q8_0" in finding.mend
    assert "larger-than-better" not in labkit.lint_settings(n_ctx=256).codes


def test_llamas_own_defaults_are_looked_at(files: dict[str, Path]) -> None:
    """as_llama has the settings that llama_cpp.Llama really takes, and finds what load_model does otherwise."""
    import llama_cpp

    report = labkit.lint_settings(files["window"], as_llama=True)
    real = llama_cpp.Llama(str(files["window"]), verbose=False)
    native, settings = real.context_params, report.settings
    for name in ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "swa_full", "type_k", "type_v"):
        assert settings[name] == getattr(native, name), name
    assert settings.n_outputs_max == native.n_outputs_max
    assert settings.flash_attn == (native.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED)
    assert settings.use_mmap == (real.model_params.load_mode == llama_cpp.LLAMA_LOAD_MODE_MMAP)
    real.close()
    assert "flash-attention" in report.codes
    rows = _found(labkit.lint_settings(as_llama=True), "logits-reserved")
    all_rows, one = (
        labkit.estimate_memory_usage(n_ctx=512, n_outputs_max=n, flash_attn=False, method="formula").compute_buffer_bytes
        for n in (0, 1)
    )
    assert rows.cost_bytes == all_rows - one > 64 * 2**20
    assert "full-window-cache" in labkit.lint_settings(files["window"], n_ctx=8192, as_llama=True).codes
    few = multiprocessing.cpu_count() // 2 < physical_cores_available()
    assert ("few-threads" in report.codes) == few


def test_what_tune_found_is_looked_at(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of tune count as load_model counts them: what is given beside them wins, and what was measured is no trap."""
    _machine(monkeypatch, physical=2, performance=2, logical=2, quota=None, unused=())
    tuned = {"n_threads": 2, "flash_attn": True, "type_k": "q8_0", "type_v": "q8_0", "n_ubatch": 128}
    report = labkit.lint_settings(settings=tuned)
    assert (report.findings, report.settings.n_ubatch, report.settings.type_k) == ((), 128, 8)
    assert labkit.lint_settings(settings=tuned, n_threads=1).codes == ("few-threads",)
    with pytest.raises(LabkitError, match="tune"):
        labkit.lint_settings(files["plain"], settings="latency")


def test_mutated_headers_end_in_a_report_or_one_line(tmp_path: Path) -> None:
    """A broken header never ends in anything but a report or a labkit error."""
    models, rng, path = (
        [llama(), llama(architecture="gemma2"), llama(matrix=Q4_0)],
        random.Random(0),
        tmp_path / "mutant.gguf",
    )
    for index in range(150):
        path.write_bytes(mutate(rng.choice(models), rng)[1])
        with contextlib.suppress(LabkitError):
            report = labkit.lint_settings(path, n_ctx=8192, as_llama=index % 2 == 0, use_mmap=True, logits_all=True)
            assert "logits-all" in report.codes


def test_findings_come_the_worst_first(files: dict[str, Path]) -> None:
    """Errors, then warnings, then notes."""
    report = labkit.lint_settings(files["rearranged"], n_ctx=4096, type_v="q4_0", flash_attn=False, use_mmap=True)
    order = ["error", "warning", "note"]
    ranks = [order.index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 1


@pytest.mark.parametrize(
    "given",
    [
        {"n_ctx": -1}, {"n_ctx": "many"}, {"n_threads": 0}, {"n_gpu_layers": -2}, {"type_k": "q3_k"}, {"n_btach": 5},
        {"model_path": "no-such-model.gguf"}, {"as_llama": 2}, {"kv_overrides": {"llama.block_count": 3}}, {"n_ubatch": 0},
    ],
)  # fmt: skip
def test_bad_arguments_end_in_one_line(given: dict[str, Any]) -> None:
    """What load_model would refuse for its arguments is refused here too."""
    with pytest.raises(LabkitError) as error:
        labkit.lint_settings(**given)
    assert "\n" not in str(error.value)


def test_every_setting_of_the_cache_can_be_looked_at(files: dict[str, Path]) -> None:
    """No type of the cache, with or without flash attention, ends in anything but a report."""
    for kind in CACHE_TYPES:
        for flash in (True, False, None):
            assert labkit.lint_settings(files["rearranged"], type_k=kind, type_v=kind, flash_attn=flash).settings.type_k >= 0


def test_command_tells_traps_and_exits_with_1(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table with what mends each; 0 where there is nothing worse than a note; JSON on request."""
    _machine(monkeypatch, unused=())
    assert main(["lint"]) == 0
    assert "No trap." in capsys.readouterr().out
    assert main(["lint", "--cache-v", "q8_0", "--no-flash", "--n-ctx", "512"]) == 1
    printed = capsys.readouterr().out
    assert "v-cache-without-flash" in printed
    assert "flash_attn=True" in printed
    assert main(["lint", "--flash", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["is_clean"]
    assert [finding["code"] for finding in document["findings"]] == ["flash-attention"]
    assert main(["lint", str(files["rearranged"]), "--as-llama", "--n-ctx", "65536", "--json"]) == 1
    assert "beyond-training" in {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_command_names_a_missing_model_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path is one line on stderr and exit code 1."""
    assert main(["lint", "no-such-model.gguf"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_doctor_notes_the_traps(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's own model is looked at too, its traps are notes, and one that is missing is left to another check."""
    _machine(monkeypatch, unused=())
    monkeypatch.setenv("LABKIT_MODEL", str(files["fallback"]))
    found = list(check_settings())
    assert [(finding.state, finding.what) for finding in found] == [("note", "fallback-types, fallback.gguf")]
    monkeypatch.setenv("LABKIT_MODEL", "missing.gguf")
    assert list(check_settings()) == []


def test_doctor_lives_without_an_engine(tmp_path: Path) -> None:
    """Where llama_cpp cannot be imported the doctor says so, and looks at the rest."""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise OSError('libllama.so: no such file')", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "labkit", "doctor", "--json"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    found = {finding["what"]: finding["state"] for finding in json.loads(result.stdout)["findings"]}
    assert found["llama.cpp"] == "missing"
    assert found["free RAM"] in ("ok", "note")
