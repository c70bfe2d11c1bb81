"""Use all of labkit where llama_cpp cannot be imported: prints a line of JSON per step, (name, result or error)."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_GIVEN = sys.argv[1:] if __name__ == "__main__" else ("", "")  # a test imports the names of the steps
MODEL, FOLDER = map(Path, _GIVEN)


def main() -> None:
    commands = {f"labkit {name}": _command(*words) for name, words in COMMANDS.items()}
    for name, step in {**FUNCTIONS, **commands}.items():
        try:
            found = step()
        except Exception as error:
            kind = type(error).__name__
            found = f"{kind}: {error}" if kind == "EngineError" else traceback.format_exc()
        print(json.dumps([name, str(found)]), flush=True)


def _shown(name: str) -> Callable[[], Any]:
    """Return a step that opens an explorer and computes its first view."""

    def step() -> Any:
        import labkit

        explorer = labkit.explore(name, MODEL)
        explorer.wait(30)
        return explorer.message or explorer.view.to_static_html("")

    return step


def _command(*arguments: str) -> Callable[[], str]:
    """Return a step that runs a command; its result is the exit code and what it printed."""

    def step() -> str:
        from labkit.cli import main as labkit_main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = labkit_main(arguments)
            except SystemExit as ended:  # --help, --version
                code = int(ended.code or 0)
        return f"{code}|{err.getvalue()}|{out.getvalue()}"

    return step


def _estimate(**options: Any) -> str:
    import labkit

    found = labkit.estimate_memory_usage(MODEL, 512, **options)
    return f"{found.method} {found.total_bytes} {' '.join(found.assumptions)}"


def _labkit(name: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    def step() -> Any:
        import labkit

        return getattr(labkit, name)(*arguments, **options)

    return step


def _codecs() -> Any:
    import numpy as np

    from labkit.quantize import CODECS, Q4_0

    return len(CODECS), Q4_0.decode(Q4_0.encode(np.ones(32, np.float32))).sum().item()


def _profile() -> Any:
    return pickle.loads((FOLDER / "profile").read_bytes())  # noqa: S301 - written by the test


def _labkit_record(name: str) -> str:
    import labkit

    return str(getattr(labkit, name).__name__)


def _sampling() -> Any:
    import numpy as np

    from labkit import sampling

    return sampling.keep_top_k(np.arange(8.0), 3)


def _header() -> Any:
    from labkit.gguf_file import read_header
    from labkit.gguf_file.formats import tensor_type

    return read_header(MODEL).architecture, tensor_type("Q4_K").bits_per_weight


def _settings() -> Any:
    from labkit.engine import ModelSettings

    return ModelSettings.__name__


NOTEBOOK = FOLDER / "source"
FUNCTIONS: dict[str, Callable[[], Any]] = {
    "get_model_info": lambda: _labkit("get_model_info", MODEL)().architecture,
    "gguf_file": _header,
    "codecs": _codecs,
    "sampling": _sampling,
    "settings": _settings,
    "estimate by formula": lambda: _estimate(method="formula"),
    "estimate by auto": _estimate,
    "estimate on a GPU": lambda: _estimate(n_gpu_layers=-1),
    "recommend_settings": lambda: _labkit("recommend_settings", MODEL, ram="2 GiB")().as_arguments(),
    "predict_speed": lambda: " ".join(_labkit("predict_speed", MODEL, system=_profile())().assumptions),
    "list_models": lambda: len(_labkit("list_models")()),
    "records": lambda: [_labkit_record(name) for name in ("BatchResult", "BenchmarkResult", "Tried", "MilestoneResult")],
    "ghost_shapes": lambda: len(_labkit("ghost_shapes")()),
    "memory explorer": _shown("memory"),
    "GGUF explorer": _shown("gguf"),
    "quantization explorer": _shown("quantization"),
    **{
        f"needs: {name}": _labkit(name, *arguments, **options)
        for name, arguments, options in [
            ("load_model", (MODEL,), {}),
            ("engine_build", (), {}),
            ("measure_system", (), {"bandwidth": False}),
            ("estimate_memory_usage", (MODEL,), {"method": "simulate"}),
            ("quantize_model", (MODEL, FOLDER / "out.gguf"), {}),
            ("build_ghost_model", (FOLDER / "ghost.gguf",), {"shape": "tiny"}),
            ("measure_memory", (MODEL,), {}),
            ("start_device", (), {}),
            ("serve_device", (), {}),
            ("run_milestone", (MODEL,), {}),
            ("tune", (MODEL,), {}),
            ("compare_quantizations", (MODEL, ["Q8_0"], "text"), {}),
            ("measure_perplexity", (None, "text"), {}),
            ("generate_text", (None, "text"), {}),
            ("benchmark_inference", (None, ["text"]), {}),
            ("measure_threads", (None,), {}),
            ("explore", ("sampling", MODEL), {}),
            ("explore", ("playground", MODEL), {}),
            ("explore", ("threads", MODEL), {}),
        ]
    },
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "--version": ("--version",),
    "--help": ("--help",),
    "info": ("info", str(MODEL)),
    "memory": ("memory", str(MODEL)),
    "memory by formula": ("memory", str(MODEL), "--method=formula"),
    "models": ("models",),
    "doctor": ("doctor", "--json"),
    "release": ("release", str(NOTEBOOK), "--out", str(FOLDER / "released")),
    "grade": ("grade", str(FOLDER / "submissions"), "--source", str(NOTEBOOK), "--out", str(FOLDER / "grades"), "--json"),
    "check --skeleton": ("check", "--skeleton", str(FOLDER / "mine.py")),
    "check": ("check", str(FOLDER / "info.py"), "--only", "get_model_info", "--json"),
    "quantize --list": ("quantize", "--list"),
    "needs: memory by simulation": ("memory", str(MODEL), "--method=simulate"),
    "needs: quantize": ("quantize", str(MODEL), str(FOLDER / "small.gguf")),
    "needs: tour": ("tour", "--model", str(MODEL)),
    "needs: bench": ("bench", str(MODEL)),
    "needs: tune": ("tune", str(MODEL)),
    "needs: perplexity": ("perplexity", str(MODEL)),
    "needs: milestone": ("milestone",),
    "needs: explore": ("explore", "sampling", "--model", str(MODEL), "--port", "0", "--no-browser"),
    "needs: device": ("device", "serve"),
}

if __name__ == "__main__":
    main()
