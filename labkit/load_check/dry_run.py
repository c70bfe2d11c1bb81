"""llama.cpp's layout of a file in a child process that allocates no weights; a crash stays there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.children import ChildEndedError, ask_child
from labkit.errors import ModelLoadError
from labkit.gguf_file.source import gguf_error

_CHILD = Path(__file__).with_name("dry_run_child.py")
_LIMIT_S = 60.0
_TRIALS = ({"flash_attn_type": 0}, {"flash_attn_type": 1}, {"flash_attn_type": 0, "embeddings": True})
_STOPPED = ("signal 9", "signal 15", "exit status 1")  # killed from outside, or the script itself failed


def lay_out(model: Path, settings: Mapping[str, Any], limit_s: float, *, measures: bool) -> dict[str, Any]:
    """Ask the child; its errors are those of `labkit.children.ask_child`. ``measures`` if its memory matters."""
    # Absolute, but never resolved: the parts of a split model find each other by their names.
    request = {**settings, "model": os.path.abspath(model), "measures": measures}  # noqa: PTH100
    return ask_child(_CHILD, request, limit_s)


def check_by_trial(model: Path) -> bool:
    """Refuse a file that ends a process that loads it; return False where no child process can try it.

    A file that the engine refuses itself, with a reason, passes.

    Notes
    -----
    llama.cpp builds the graphs of every computation when it creates a context, so a missing or misshapen tensor that its
    loader did not notice is dereferenced here, and not in this process.
    """
    contexts = [{"n_ctx": 512, "n_batch": 64, "n_ubatch": 64, **trial} for trial in _TRIALS]
    try:
        lay_out(model, {"n_gpu_layers": 0, "contexts": contexts}, _LIMIT_S, measures=False)
    except subprocess.TimeoutExpired as expired:
        problem = f"llama.cpp did not load {model.name} within {expired.timeout:g} s in a trial"
        raise ModelLoadError(f"{problem}: try again when the machine is less busy") from None
    except OSError:
        return False
    except ChildEndedError as ended:
        if str(ended) in _STOPPED:
            return False
        problem = f"llama.cpp ended its process in a trial ({ended}): it reads tensors that are missing or do not fit"
        raise gguf_error(str(model), problem, None, "fetch or convert the model again, or update llama-cpp-python") from None
    return True
