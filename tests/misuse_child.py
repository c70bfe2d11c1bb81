"""Run cases of misuse in order; print a line before and after each.

Started by test_misuse.py: ``python misuse_child.py FOLDER``; reads one JSON list [index, code] per line from stdin. Each
case has a fresh tiny model in ``model``, its file in ``path``, the folder in ``tmp``, and all public names.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import math
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import labkit
from labkit import count_chat_tokens, count_tokens, generate_chat, generate_text, load_model, stream_chat, stream_text
from labkit.errors import LabkitError

USER = [{"role": "user", "content": "Hello"}]


def interrupt_after(seconds: float) -> None:
    """Send this process a real Ctrl-C."""
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def run(code: str, tmp: Path) -> dict[str, Any]:
    path = tmp / "tiny.gguf"
    names = {
        "labkit": labkit, "load_model": load_model, "generate_text": generate_text, "generate_chat": generate_chat,
        "stream_text": stream_text, "stream_chat": stream_chat, "count_tokens": count_tokens,
        "count_chat_tokens": count_chat_tokens, "np": np, "math": math, "os": os, "threading": threading, "time": time,
        "pickle": pickle, "copy": copy, "gc": gc, "ctypes": ctypes, "Path": Path, "USER": USER, "path": path, "tmp": tmp,
        "window": tmp / "window.gguf",
        "interrupt_after": interrupt_after, "LabkitError": LabkitError,
    }  # fmt: skip
    model = None
    try:
        if "model" in code:
            model = names["model"] = load_model(path, n_ctx=512, n_threads=1)
        exec(compile(code, "<case>", "exec"), names)  # noqa: S102  # the cases are part of this test
        return {"ended": "worked"}
    except LabkitError as error:
        return {"ended": "LabkitError", "type": type(error).__name__, "message": str(error)}
    except KeyboardInterrupt:
        return {"ended": "KeyboardInterrupt"}
    except BaseException:
        return {"ended": "other", "message": traceback.format_exc()}
    finally:
        if model is not None:
            model.close()


def main() -> None:
    warnings.simplefilter("ignore")
    tmp = Path(sys.argv[1])
    for line in sys.stdin:
        index, code = json.loads(line)
        print(json.dumps({"begin": index}), flush=True)
        print(json.dumps({"end": index, **run(code, tmp)}), flush=True)


if __name__ == "__main__":
    main()
