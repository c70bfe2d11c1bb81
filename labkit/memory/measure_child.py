"""Load a model and fill its context: the script that `measure_memory` starts. One line of JSON in, one out."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any


def main() -> None:
    """Run the measurement requested in the first line of the input."""
    request = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = request["path"]
    import labkit.engine.loading  # before the base is measured
    from labkit.errors import LabkitError
    from labkit.system import peak_resident_bytes, resident_bytes
    from labkit.system.ram import status_bytes

    warnings.simplefilter("ignore")
    base = resident_bytes()
    try:
        model = labkit.engine.load_model(request["model"], request["n_ctx"], **request["options"])
        loaded = resident_bytes()
        n_tokens = _fill(model, request["seed"])
    except LabkitError as error:
        answer: dict[str, Any] = {"error": str(error)}
    else:
        answer = {
            "base_bytes": base,
            "loaded_bytes": loaded,
            "peak_bytes": max(peak_resident_bytes(), resident_bytes()),
            "anonymous_bytes": status_bytes("RssAnon"),
            "file_bytes": status_bytes("RssFile"),
            "n_tokens": n_tokens,
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _fill(model: Any, seed: int) -> int:
    """Fill the context with random tokens and generate one more; return the number of filled cells."""
    import numpy as np

    from labkit.engine.generate import run_request
    from labkit.engine.generation import GenerationRequest
    from labkit.engine.sampling_settings import check_sampling

    with model.vocabulary() as vocabulary:
        tokens = np.random.default_rng(seed).integers(vocabulary.n_vocab, size=model.settings.n_ctx - 1).tolist()
    run_request(model, GenerationRequest(tokens, 1, check_sampling(0, {})))
    return len(tokens) + 1


if __name__ == "__main__":
    main()
