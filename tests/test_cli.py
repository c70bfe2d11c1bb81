"""The command line, for people and for scripts."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

import labkit
from labkit.cli import COMMANDS, main
from labkit.cli.about import SHELLS
from labkit.course.folder import find_notebooks
from labkit.errors import LabkitError
from labkit.model_info import get_model_info
from labkit.models import bundled_model_path
from tests.test_gguf_remote import Server
from tests.tiny_models import write_tiny_model

LABKIT = [sys.executable, "-m", "labkit"]


def _labkit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LABKIT, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "COLUMNS": "100", **environment},
        check=False,
    )


def test_tour_shows_a_real_model_at_work() -> None:
    """The tour shows a summary, tokens, a completion, a chat, speed and memory of the bundled model."""
    result = _labkit("tour")
    assert result.returncode == 0, result.stderr
    for part in ("SmolLM2", "5.74", "is 5 tokens", "primary colours are[", "you:", "model:", "tokens/s", "MiB peak RSS"):
        assert part in result.stdout
    assert "Traceback" not in result.stderr


def test_tour_as_json_is_one_document() -> None:
    """--json prints exactly one document on stdout."""
    document = json.loads(_labkit("tour", "--json", "--question", "Say hello.").stdout)
    assert document["tokens"]["count"] == 5
    assert document["chat"]["answer"].strip()
    assert document["chat"]["question"] == "Say hello."
    assert document["memory"]["settings"]["n_ctx"] == 2048


def test_tour_names_a_missing_model_in_one_line() -> None:
    """A wrong path prints one line on stderr and exits with code 1."""
    result = _labkit("tour", "--model", "no-such-model.gguf")
    assert result.returncode == 1
    assert result.stdout.strip() == ""
    assert result.stderr.count("\n") == 1
    assert "no-such-model.gguf" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_ends_with_130_and_one_line() -> None:
    """Ctrl-C ends the tour before it has told everything, without a traceback."""
    process = subprocess.Popen([*LABKIT, "tour"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    while "model: " not in process.stdout.readline():  # the chat is being written
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("labkit: interrupted")
    assert "Traceback" not in errors


def test_doctor_finds_a_sound_installation() -> None:
    """In the test environment everything is installed; the doctor reports it and exits with code 0."""
    result = _labkit("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 0
    assert document["healthy"]
    found = {finding["what"]: finding for finding in document["findings"]}
    assert found["bundled model"]["state"] == "ok"
    assert found["RPC backend"]["state"] == ("ok" if labkit.engine_build().has_rpc else "note")


def test_doctor_says_whether_grading_can_be_isolated(tmp_path: Path) -> None:
    """A missing bubblewrap is only a note, with what to install: the course does not need it."""
    result = _labkit("doctor", "--json", PATH=str(tmp_path))
    found = {finding["what"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert found["grading sandbox"]["state"] == "note"
    assert "apt install bubblewrap" in found["grading sandbox"]["fix"]
    assert result.returncode == 0


def test_doctor_names_what_is_missing() -> None:
    """A missing model in LABKIT_MODEL is reported, with exit code 1."""
    result = _labkit("doctor", LABKIT_MODEL="missing.gguf")
    assert result.returncode == 1
    assert "MISSING" in result.stdout
    assert "missing.gguf" in result.stdout


def test_models_lists_the_bundled_one_as_local() -> None:
    """The list shows which models are on this machine."""
    entries = {entry["name"]: entry for entry in json.loads(_labkit("models", "--json").stdout)}
    assert entries["smollm2-135m"]["path"].endswith(".gguf")
    assert len(entries) >= 8


def test_models_fetch_without_a_network_names_the_bundled_model() -> None:
    """Without a network, one line names the model that needs none."""
    result = _labkit("models", "--fetch", "qwen2.5-0.5b", HF_HUB_OFFLINE="1", HF_HOME=str(Path("no-such-cache").absolute()))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "smollm2-135m" in result.stderr.lower()


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command is wrong usage; no command at all prints the help."""
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])
    assert main([]) == 2
    assert "labkit tour" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["tour", "lab", "models", "info", "quantize", "doctor"])
def test_help_explains_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help prints more than the usage line."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_lab_makes_a_working_copy_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--work opens a copy without solutions, and never overwrites work in it."""
    opened: list[list[str]] = []

    def serve(command: list[str], *_: object) -> int:
        opened.append(command)
        return 0

    monkeypatch.setattr("labkit.cli.lab._serve", serve)
    mine = tmp_path / "mine"
    assert main(["lab", "--work", str(mine)]) == 0
    assert "notebooks, without solutions, to" in capsys.readouterr().out
    assert opened[0][3] == str(mine)
    chapter = mine / "06_memory.ipynb"
    assert "YOUR CODE HERE" in chapter.read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in chapter.read_text(encoding="utf-8")
    chapter.write_text("my work")
    assert main(["lab", "--work", str(mine)]) == 0
    assert chapter.read_text() == "my work"
    assert "without solutions" not in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_lab_prints_its_address_and_takes_jupyters_options(tmp_path: Path, more: list[str]) -> None:
    """JupyterLab runs for root as well, with options after --; its address is the last line, and Ctrl-C ends it."""
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "labkit", "lab", "--work", str(tmp_path / "mine"), "--no-browser", *more, "--"]
    command.append("--ServerApp.base_url=/course/")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **folders}) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in iter(process.stdout.readline, "") if "lab?token=" in line)
            address = re.search(r"http://\S+/course/lab\?token=\w+(?=; stop it with Ctrl-C|\",)", line)
            assert address, line
            with urllib.request.urlopen(address[0]) as answer:
                assert answer.status == 200
            shell = psutil.Process(process.pid)
            for one in (*shell.children(), shell):  # as a terminal does
                one.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_lab_finds_the_notebooks_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course is found from any folder inside it; an error names a folder without notebooks."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_start_here.ipynb").touch()
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "deeper")
    assert find_notebooks(None) == tmp_path / "notebooks"
    with pytest.raises(LabkitError, match="deep"):
        find_notebooks(tmp_path / "deep")


def test_output_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a name or a text are printed as text."""
    from labkit.cli.output import Output

    out = Output(as_json=False)
    out.stream("\x1b[31mred")
    out.table(("name",), [("[bold]\x1b]0;title\x07",)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]" in printed


def test_info_summarizes_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an argument, the summary is of the bundled model."""
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for part in ("llama", "Q4_1, 5.74 bits per weight", "134,515,008", "8,192 tokens", "apache-2.0", "68.7%"):
        assert part in printed


def test_info_lists_tensors_sorted_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    """--sort bytes puts the largest first; --filter matches name or type by text or pattern, ignoring case."""
    assert main(["info", "--tensors", "--sort", "bytes", "--json", "--filter", "BLK.1.*"]) == 0
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    assert len(tensors) == 9
    assert all(tensor["name"].startswith("blk.1.") for tensor in tensors)
    assert [tensor["n_bytes"] for tensor in tensors] == sorted((tensor["n_bytes"] for tensor in tensors), reverse=True)
    assert main(["info", "--tensors", "--filter", "q8_0"]) == 0
    printed = capsys.readouterr().out
    assert "token_embd.weight" in printed
    assert "1 of 272 tensors" in printed


def test_info_lists_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """--keys shows each key's type; a single long text is shown in full."""
    assert main(["info", "--keys"]) == 0
    assert "49,152 elements" in capsys.readouterr().out
    assert main(["info", "--keys", "--filter", "chat_template"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 33 keys" in printed
    assert "add_generation_prompt" in printed


def test_info_as_json_equals_get_model_info(capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the record, without a tensor list unless requested."""
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(get_model_info().to_dict()))


def test_info_reads_a_header_from_a_server_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys and tensors of a URL need the same requests as get_model_info."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    path = bundled_model_path()
    server = Server(path.parent)
    try:
        get_model_info(server.url(path.name))
        n_requests = len(server.requests)
        assert main(["info", server.url(path.name), "--tensors", "--keys"]) == 0
    finally:
        server.stop()
    assert len(server.requests) == 2 * n_requests
    assert "272 of 272 tensors" in capsys.readouterr().out


def test_info_rejects_other_files_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not GGUF and an unknown name exit with code 1 and one line."""
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>", encoding="utf-8")
    for model in (str(tmp_path / "page.gguf"), "no-such-model"):
        assert main(["info", model]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert Path(model).name in captured.err


def test_quantize_writes_a_smaller_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table shows the result; an existing target is an error; requantizing prints a one-line warning."""
    source, target = str(write_tiny_model(tmp_path / "tiny.gguf")), str(tmp_path / "small.gguf")
    assert main(["quantize", source, target, "--type", "q8_0"]) == 0
    assert "Q8_0" in capsys.readouterr().out
    assert get_model_info(target).quantization == "Q8_0"
    assert main(["quantize", source, target]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main(["quantize", target, source, "--type", "Q4_0", "--overwrite", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["quantization"] == "Q4_0"
    assert captured.err.startswith("labkit: warning: ")
    assert captured.err.count("\n") == 1


def test_quantize_lists_types_and_needs_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    """--list needs no files; without it, a missing one is wrong usage."""
    assert main(["quantize", "--list", "--json"]) == 0
    kinds = {kind["name"]: kind for kind in json.loads(capsys.readouterr().out)}
    assert kinds["Q4_0"]["bits_per_weight"] == 4.5
    assert "IQ1_S" not in kinds, "it needs an importance matrix"
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", "only-one.gguf"])


def test_perplexity_is_measured_from_the_command_line(tmp_path: Path) -> None:
    """The command prints the same perplexity as the library, for a text file."""
    text = tmp_path / "text.txt"
    text.write_text(labkit.evaluation_text()[:2600], encoding="utf-8")
    shown = _labkit("perplexity", "--text", str(text), "--n-ctx", "128")
    assert shown.returncode == 0, shown.stderr
    assert "perplexity" in shown.stdout
    assert "4 windows of 128" in shown.stdout
    document = json.loads(_labkit("perplexity", "--text", str(text), "--n-ctx", "128", "--json").stdout)
    with labkit.load_model(n_ctx=256) as model:
        expected = labkit.measure_perplexity(model, text.read_text(encoding="utf-8"), n_ctx=128)
    assert document["perplexity"] == pytest.approx(expected.perplexity, rel=1e-3)
    assert f"{document['perplexity']:.4f}" in shown.stdout


def test_perplexity_against_a_reference(tmp_path: Path) -> None:
    """--reference measures the divergence between two models' predictions: zero between a model and itself."""
    text = tmp_path / "text.txt"
    text.write_text(labkit.evaluation_text()[:1000], encoding="utf-8")
    model = str(labkit.bundled_model_path())
    document = json.loads(
        _labkit("perplexity", model, "--reference", model, "--text", str(text), "--n-ctx", "64", "--json").stdout
    )
    assert abs(document["kl_divergence"]) < 1e-6
    assert document["top_token_agreement"] == 1


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--text", "no-such-file.txt"), "no-such-file.txt"),
        (("--n-ctx", "100000"), "give a longer text"),
        (("--reference", "other.gguf", "--stride", "8"), "--stride"),
        (("no-such-model.gguf",), "no-such-model.gguf"),
    ],
)
def test_perplexity_fails_in_one_line(arguments: tuple[str, ...], needed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on stderr."""
    assert main(["perplexity", *arguments, "--json"]) == 1
    errors = capsys.readouterr().err
    assert needed in errors
    assert errors.count("\n") == 1


def test_perplexity_names_a_text_in_another_encoding(tmp_path: Path) -> None:
    """The error for a Latin-1 file asks for UTF-8."""
    text = tmp_path / "latin.txt"
    text.write_bytes("caf\xe9 ".encode("latin-1") * 100)
    result = _labkit("perplexity", "--text", str(text))
    assert result.returncode == 1
    assert "UTF-8" in result.stderr


def test_version_names_the_engine_too(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints labkit's, llama-cpp-python's and llama.cpp's version, the last as the library reports it."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    package, engine, library = capsys.readouterr().out.splitlines()
    assert package == f"labkit {labkit.__version__}"
    assert engine == f"llama-cpp-python {version('llama-cpp-python')}"
    assert re.fullmatch(r"llama\.cpp \S+ \(ggml \d+\.\d+\.\d+\)", library)


def test_version_works_without_an_engine(tmp_path: Path) -> None:
    """--version says what is missing where llama.cpp's libraries are not found or cannot be loaded."""
    (tmp_path / "libggml-base.so").write_text("not a library", encoding="utf-8")
    result = _labkit("--version", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("llama.cpp not found: labkit doctor says why\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--completion prints a script with every command."""
    with pytest.raises(SystemExit, match="0"):
        main(["--completion", shell])
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932"])
def test_consoles_of_any_encoding(encoding: str, tmp_path: Path) -> None:
    """Help, tables, errors and JSON are printed in the console's own encoding, with "?" or an escape for what it lacks."""
    model = write_tiny_model(tmp_path / "Größe 日本 🦙.gguf", keys={"general.name": "Größe 日本 🦙"})
    for arguments in (["explore", "--help"], ["info", str(model)], ["info", str(model), "--json"], ["info", "🦙 ö"]):
        done = subprocess.run(
            [*LABKIT, *arguments],
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == ("🦙 ö" in arguments)
        out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
        assert "Traceback" not in err
        if "--json" in arguments:
            assert json.loads(out)["name"] == "Größe 日本 🦙"
