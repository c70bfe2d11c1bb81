"""labkit doctor reports what is wrong with a file or a machine, what it costs and what to do, without loading the model."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import psutil
import pytest

import labkit
from labkit.cli import doctor, main
from labkit.cli.doctor_checks import (
    Finding,
    bytes_in_type,
    check_amx,
    check_huge_pages,
    check_instructions,
    check_load,
    check_model_file,
    check_openmp,
    check_quota,
    check_slow_cores,
)
from labkit.errors import LabkitError
from labkit.gguf_file.formats import tensor_type
from labkit.gguf_file.preflight import preflight
from labkit.model_info import read_model_header
from labkit.system import cpu_quota, unused_instructions
from labkit.system.build import cpu_flags
from tests.gguf_models import llama
from tests.gguf_mutants import mutate
from tests.test_system import linux_only, version_2, write_files
from tests.tiny_models import write_tiny_model

Q4_0, F16 = tensor_type("Q4_0").id, tensor_type("F16").id
AVX2 = ("AVX2", "REPACK")  # repacks Q4_0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write small models, one for each finding."""
    folder = tmp_path_factory.mktemp("doctor")
    paths = {name: folder / f"{name}.gguf" for name in ("tiny", "repacked", "fallback", "plain", "q8_0", "wide")}
    write_tiny_model(paths["tiny"])
    llama(n_embd=256, n_head=4, n_ff=2048, n_layer=12, tokenizer="gpt2", matrix=Q4_0).write(paths["repacked"])
    labkit.quantize_model(paths["tiny"], paths["fallback"], "Q4_K_M")
    labkit.quantize_model(paths["tiny"], paths["plain"], "Q4_0")
    labkit.quantize_model(paths["tiny"], paths["q8_0"], "Q8_0")
    parts = llama(n_embd=64, n_ff=64, n_vocab=2048, tokenizer="gpt2", matrix=Q4_0)
    shape = parts.tensors["token_embd.weight"][0]
    parts.tensors["token_embd.weight"] = (shape, F16, bytes(2 * shape[0] * shape[1]))
    parts.write(paths["wide"])
    return paths


def _findings(path: Path | None, n_ctx: int = 256, features: Collection[str] | None = ()) -> dict[str, Finding]:
    return {finding.what: finding for finding in check_model_file(read_model_header(path), n_ctx, features)}


def test_bundled_model_has_no_findings() -> None:
    """On a CPU that repacks nothing of it, the bundled model has nothing to report."""
    assert _findings(None, 2048, ("AVX2", "AVX512")) == {}


def test_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine does not open the model."""
    import llama_cpp

    def refuse(*_: object) -> None:
        raise AssertionError("the engine was asked to load")

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", refuse)
    assert main(["doctor"]) == 0
    assert "bundled model" in capsys.readouterr().out


def test_repacked_weights_are_counted_to_the_byte(files: dict[str, Path]) -> None:
    """A mapped file costs the second copy, except what follows the last tensor that is used as it is: that is unmapped."""
    finding = _findings(files["repacked"], features=AVX2)["weights held twice"]
    feed_forward = 3 * 256 * 2048
    attention = 2 * 256 * 256 + 2 * 256 * 128  # two heads of keys and values for four of queries
    layers = 12 * (feed_forward + attention) - feed_forward  # the last layer's feed-forward matrices end the file
    assert finding.cost_bytes == layers * 18 // 32  # blocks of 32 weights and 18 bytes
    assert finding.state == "note"
    assert "use_mmap=False" in finding.fix
    assert "weights held twice" not in _findings(files["repacked"], features=("AVX2",))
    assert "weights held twice" not in _findings(files["repacked"], features=None)


def test_cost_of_repacked_weights_is_the_estimates(files: dict[str, Path]) -> None:
    """With this machine's engine the cost is what estimate_memory_usage says of a mapped file, less that of a file read."""
    features = labkit.engine_build().features
    finding = _findings(files["repacked"], features=features).get("weights held twice")
    mapped, read = (
        labkit.estimate_memory_usage(files["repacked"], use_mmap=use_mmap, method="formula").total_bytes
        for use_mmap in (True, False)
    )
    assert mapped - read == (0 if finding is None else finding.cost_bytes)


def test_context_beyond_training_costs_its_cache(files: dict[str, Path]) -> None:
    """12 layers cache keys and values of 128 F16 numbers for each token beyond the 512 of training."""
    finding = _findings(files["repacked"], 8192)["context length"]
    assert finding.cost_bytes == (8192 - 512) * 12 * 2 * 128 * 2
    assert finding.cost_ratio == 16
    assert (finding.state, finding.fix) == ("note", "n_ctx=512")
    for n_ctx in (0, 1, 512):
        assert "context length" not in _findings(files["repacked"], n_ctx)


def test_k_quants_that_fell_back_are_found(files: dict[str, Path]) -> None:
    """Rows of 64 do not fit K-quants: the reported sizes are those of the files that the quantizer writes."""
    finding = _findings(files["fallback"])["fallback types"]
    info, plain = labkit.get_model_info(files["fallback"]), labkit.get_model_info(files["plain"])
    assert info.quantization == "Q4_K_M"
    assert "Q4_K" not in info.tensor_types
    assert finding.state == "note"
    assert "such as 64 weights, are not a multiple of 256" in finding.found
    assert bytes_in_type(read_model_header(files["fallback"]), "Q4_0") == plain.weights_bytes < info.weights_bytes
    assert "quantize the original to Q4_0" in finding.fix
    assert "fallback types" not in _findings(files["plain"])


def test_few_odd_rows_are_no_reason_to_act(tmp_path: Path) -> None:
    """A few small matrices in other types are reported, not as a note; the cost is that of these tensors alone."""
    path = labkit.build_ghost_model(tmp_path / "ghost.gguf", architecture="deepseek2", shape={})
    finding = _findings(path)["fallback types"]
    assert finding.state == "ok"
    tensors = [tensor for tensor in read_model_header(path).tensors if tensor.type.name in ("Q5_0", "Q8_0")]
    meant = {"Q5_0": tensor_type("Q4_K"), "Q8_0": tensor_type("Q6_K")}
    bits = sum(tensor.n_elements * meant[tensor.type.name].bits_per_weight for tensor in tensors)
    assert finding.cost_bytes == sum(tensor.n_bytes for tensor in tensors) - bits / 8


@pytest.mark.parametrize(("name", "kind"), [("plain", "Q4_0"), ("q8_0", "Q8_0")])
def test_sizes_in_other_types_are_the_quantizers(files: dict[str, Path], name: str, kind: str) -> None:
    """A file's size in another type is that of the file that llama.cpp's quantizer writes."""
    assert bytes_in_type(read_model_header(files["tiny"]), kind) == read_model_header(files[name]).weights_bytes


def test_a_file_larger_than_a_better_one_is_found(files: dict[str, Path]) -> None:
    """Layers in Q4_0 with an embedding in F16 are larger than Q8_0, which has more bits in every layer."""
    finding = _findings(files["wide"])["larger than better"]
    embedding = 64 * 2048
    layer = 4 * 64 * 64 - 2 * 64 * 32 + 3 * 64 * 64  # attention (two of four heads cached) and feed-forward
    assert finding.cost_bytes == embedding * (2 * 32 - 34) // 32 - 2 * layer * (34 - 18) // 32  # 2 layers; blocks of 32
    assert "Q8_0" in finding.fix


def test_mutated_headers_end_in_findings_or_one_line(tmp_path: Path) -> None:
    """A broken header ends in findings or in a labkit error, never in anything else."""
    models, rng, path = (
        [llama(), llama(architecture="gemma2"), llama(matrix=Q4_0)],
        random.Random(0),
        tmp_path / "mutant.gguf",
    )
    n_checked = 0
    for _ in range(150):
        path.write_bytes(mutate(rng.choice(models), rng)[1])
        with contextlib.suppress(LabkitError):
            header = read_model_header(path)
            preflight(header, vocabulary=False)
            assert all(finding.cost for finding in check_model_file(header, 8192, AVX2))
            n_checked += 1
    assert n_checked > 10


@linux_only
def test_a_quota_below_the_cores_is_found(tmp_path: Path) -> None:
    """1.5 CPUs for two cores: 1.33 times as long, and one thread."""
    root = version_2(tmp_path, "/", {"cpu.max": "150000 100000"})
    (finding,) = check_quota(cpu_quota(root), 2)
    assert finding.cost_ratio == pytest.approx(4 / 3)
    assert "1.5 of 2 physical cores" in finding.found
    assert "1 thread," in finding.fix
    assert not list(check_quota(2.0, 2))
    assert not list(check_quota(None, 2))


def test_slow_cores_are_found() -> None:
    """With four fast and four slow cores, the number of threads to compare is that of the fast ones."""
    (finding,) = check_slow_cores(4, 8)
    assert finding.found.startswith("4 of 8 physical cores")
    assert "n_threads=4" in finding.fix
    assert not list(check_slow_cores(8, 8))


def test_huge_pages_that_are_switched_off_are_found() -> None:
    """``never`` is a note with a fix; ``always`` and ``madvise`` are in order; a system without them has no line."""
    (finding,) = check_huge_pages("never")
    assert (finding.state, "madvise" in finding.fix) == ("note", True)
    assert [finding.state for setting in ("always", "madvise") for finding in check_huge_pages(setting)] == ["ok", "ok"]
    assert not list(check_huge_pages(None))


def test_other_programs_on_the_cores_are_named() -> None:
    """Half a core or more used by others is a note that names them; less is not, and nothing is said without figures."""
    (finding,) = check_load(0.4, 2, [("pytest", 1.2), ("cc1plus", 0.4)])
    assert (finding.state, finding.found) == ("note", "use 1.6 of 2 CPUs now: pytest 1.2, cc1plus 0.4")
    assert [finding.state for finding in check_load(1.8, 2, [])] == ["ok"]
    assert not list(check_load(None, 2, []))


@pytest.mark.skipif(sys.platform == "win32", reason="a busy process ends with a signal")
def test_a_program_that_computes_is_seen() -> None:
    """A process that keeps a core busy is among the programs, with at most all CPUs of the machine."""
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        free, programs = doctor._watch_programs(limit=1000)
        process.kill()
    assert free is None or free < (os.cpu_count() or 1)
    assert any("python" in name.lower() and 0.1 <= cpus <= (os.cpu_count() or 1) + 0.5 for name, cpus in programs)


@linux_only
def test_an_engine_built_for_an_older_cpu_is_found(tmp_path: Path) -> None:
    """What the CPU has and the build does not use is named; a kernel that says nothing is not a finding."""
    write_files(tmp_path, {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu avx2 avx512f fma\n"})
    assert unused_instructions(("AVX2", "FMA"), tmp_path) == ("AVX512",)
    assert unused_instructions((), tmp_path / "nowhere") == ()
    (finding,) = check_instructions(("AVX512",))
    assert "AVX512" in finding.found
    assert not list(check_instructions(()))


@linux_only
def test_amx_kernels_are_found_where_the_cpu_runs_them(tmp_path: Path) -> None:
    """Built with AMX on a CPU with AMX: a known crash, with the build flag that avoids it."""
    write_files(tmp_path, {"proc/cpuinfo": "flags\t\t: avx512f amx_tile amx_int8\n"})
    (finding,) = check_amx(("AVX512", "AMX_INT8"), cpu_flags(tmp_path))
    assert finding.state == "note"
    assert "20824" in finding.cost
    assert "-U__AMX_INT8__" in finding.fix or "uv sync --reinstall" in finding.fix  # uv knows a clone's flags
    assert not list(check_amx(("AVX512",), cpu_flags(tmp_path)))
    assert not list(check_amx(("AVX512", "AMX_INT8"), cpu_flags(tmp_path / "nowhere")))


def test_openmp_is_reported() -> None:
    """A build with OpenMP is a note with the build flag; ggml's own threads are fine."""
    (finding,) = check_openmp(("AVX2", "OPENMP"))
    assert finding.state == "note"
    assert "GGML_OPENMP=OFF" in finding.fix or "uv sync --reinstall" in finding.fix
    assert [finding.state for finding in check_openmp(("AVX2",))] == ["ok"]


@linux_only
def test_openmp_in_the_features_is_what_the_library_calls() -> None:
    """llama.cpp reports OPENMP exactly if its loaded CPU backend calls GNU's or LLVM's OpenMP."""
    features = labkit.engine_build().features
    mapped = {Path(part.path) for part in psutil.Process().memory_maps()}
    (loaded,) = (path for path in mapped if path.name.startswith("libggml-cpu"))
    assert any(name in loaded.read_bytes() for name in (b"GOMP_parallel", b"__kmpc_fork_call")) == ("OPENMP" in features)


def test_findings_are_printed_with_cost_and_fix(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A named model's findings are notes with what to do, on the screen and in JSON; the exit code stays 0."""
    arguments = ["doctor", str(files["repacked"]), "--n-ctx", "8192"]
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "context length n_ctx=8,192, but the model was trained on 512 tokens" in printed
    assert "fix n_ctx=512" in printed
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {finding["what"]: finding for finding in document["findings"]}
    assert document["healthy"]
    assert found["model"]["found"].startswith(str(files["repacked"]))
    assert found["context length"]["cost_bytes"] == (8192 - 512) * 12 * 2 * 128 * 2


def test_a_missing_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path or a negative context is one line on stderr and exit code 1."""
    for arguments in (["no-such-model.gguf"], ["--n-ctx", "-1"]):
        assert main(["doctor", *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1


def test_the_students_own_model_is_checked(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name the model in LABKIT_MODEL is checked; one that is missing is reported by another check."""
    monkeypatch.setenv("LABKIT_MODEL", str(files["fallback"]))
    assert "fallback types" in {finding.what for finding in doctor.check_file(None, 256)}
    monkeypatch.setenv("LABKIT_MODEL", "missing.gguf")
    assert list(doctor.check_file(None, 256)) == []
    assert [finding.state for finding in doctor.check_models()] == ["ok", "missing"]


def test_doctor_works_without_an_engine(tmp_path: Path) -> None:
    """If llama_cpp cannot be imported the doctor says so, and checks the rest."""
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
