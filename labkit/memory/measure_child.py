"""Load a model and fill its context: the script that `measure_memory` starts. One line of JSON in, one out."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the measurement requested in the first line of the input."""
    request = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = request["path"]
    import labkit.engine
    from labkit.errors import LabkitError
    from labkit.system import peak_resident_bytes, resident_bytes

    warnings.simplefilter("ignore")
    base = resident_bytes()
    try:
        model = labkit.engine.load_model(request["model"], request["n_ctx"], **request["options"])
        loaded = resident_bytes()
        n_tokens = _fill(model, request["seed"])
    except LabkitError as error:
        answer: dict[str, Any] = {"error": str(error)}
    else:
        anonymous, files = _kinds()
        answer = {
            "base_bytes": base,
            "loaded_bytes": loaded,
            "peak_bytes": max(peak_resident_bytes(), resident_bytes()),
            "anonymous_bytes": anonymous,
            "file_bytes": files,
            "n_tokens": n_tokens,
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _fill(model: Any, seed: int) -> int:
    """Fill the context with random tokens and generate one more; return the number of filled cells."""
    import numpy as np

    from labkit.engine.sampling_settings import check_sampling

    with model.vocabulary() as vocabulary:
        tokens = np.random.default_rng(seed).integers(vocabulary.n_vocab, size=model.settings.n_ctx - 1).tolist()
    model.run_generation(tokens, 1, check_sampling(0, {}), emit=lambda _: None)
    return len(tokens) + 1


def _kinds() -> tuple[int | None, int | None]:
    """Return resident bytes of anonymous memory and of files, where Linux reports them."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            name, _, rest = line.partition(":")
            if name in ("RssAnon", "RssFile"):
                found[name] = int(rest.split()[0]) * 1024
    return found.get("RssAnon"), found.get("RssFile")


if __name__ == "__main__":
    main()
