"""The command line: what a newcomer types, and what a script reads."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.cli.lab import find_notebooks
from labkit.errors import LabkitError

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
    """The main job: a card, tokens, a completion, a chat, speed and memory, from the bundled model."""
    result = _labkit("tour")
    assert result.returncode == 0, result.stderr
    for part in ("SmolLM2", "5.74", "is 5 tokens", "primary colours are[", "you:", "model:", "tokens/s", "MiB of RAM"):
        assert part in result.stdout
    assert "Traceback" not in result.stderr


def test_tour_as_json_is_one_document() -> None:
    """--json prints one document and nothing else on stdout."""
    document = json.loads(_labkit("tour", "--json", "--question", "Say hello.").stdout)
    assert document["tokens"]["count"] == 5
    assert document["chat"]["answer"].strip()
    assert document["chat"]["question"] == "Say hello."
    assert document["memory"]["settings"]["n_ctx"] == 2048


def test_tour_names_a_missing_model_in_one_line() -> None:
    """A wrong path is answered with one line on stderr and exit code 1."""
    result = _labkit("tour", "--model", "no-such-model.gguf")
    assert result.returncode == 1
    assert result.stdout.strip() == ""
    assert result.stderr.count("\n") == 1
    assert "no-such-model.gguf" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_ends_with_130_and_one_line() -> None:
    """Ctrl-C at any moment of the tour ends it within two seconds, without a traceback."""
    process = subprocess.Popen([*LABKIT, "tour"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    while "model: " not in process.stdout.readline():  # the chat is being written
        pass
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert time.monotonic() - begun < 2
    assert errors.rstrip().endswith("labkit: interrupted")
    assert "Traceback" not in errors


def test_doctor_finds_a_sound_installation() -> None:
    """Where the tests run everything is installed, and the doctor says so in words and in its exit code."""
    result = _labkit("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 0
    assert document["healthy"]
    found = {finding["what"]: finding for finding in document["findings"]}
    assert found["bundled model"]["state"] == "ok"
    assert found["RPC backend"]["state"] == "ok", "llama-cpp-python is built with GGML_RPC=ON"


def test_doctor_names_what_is_missing() -> None:
    """A model of the student's own that is not there is reported, with exit code 1."""
    result = _labkit("doctor", LABKIT_MODEL="missing.gguf")
    assert result.returncode == 1
    assert "MISSING" in result.stdout
    assert "missing.gguf" in result.stdout


def test_models_lists_the_bundled_one_as_here() -> None:
    """The list says which models lie on this machine."""
    entries = {entry["name"]: entry for entry in json.loads(_labkit("models", "--json").stdout)}
    assert entries["smollm2-135m"]["path"].endswith(".gguf")
    assert len(entries) >= 8


def test_models_fetch_without_a_network_names_the_bundled_model() -> None:
    """No network is one line that says what works without."""
    result = _labkit("models", "--fetch", "qwen2.5-0.5b", HF_HUB_OFFLINE="1", HF_HOME=str(Path("no-such-cache").absolute()))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "smollm2-135m" in result.stderr.lower()


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command or option is wrong usage; no command at all prints the help."""
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])
    assert main([]) == 2
    assert "labkit tour" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["tour", "lab", "models", "doctor"])
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_lab_finds_the_notebooks_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course is found from any folder inside it; a folder without one is named."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_start_here.ipynb").touch()
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "deeper")
    assert find_notebooks(None) == tmp_path / "notebooks"
    with pytest.raises(LabkitError, match="deep"):
        find_notebooks(tmp_path / "deep")


def test_output_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a name or a text are printed as text."""
    from labkit.cli.output import Output

    out = Output(as_json=False)
    out.stream("\x1b[31mred")
    out.table(("name",), [("[bold]\x1b]0;title\x07",)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[bold]" in printed
