"""What the engine itself says of a file's keys: it prints its hyperparameters before it asks for the first tensor.

A script: it reads names of architectures, one a line, and writes for each a JSON line with the keys that it made up for it
and what the engine printed, or the engine's error.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.gguf_models import Parts, byte_pairs
from tests.gguf_zoo import ARRAY, BOOL, F32, STRING, U32

N_LAYERS = 8
_KEYS: dict[str, Any] = {
    "context_length": 4096, "embedding_length": 256, "block_count": N_LAYERS, "feed_forward_length": 512,
    "attention.head_count": 8, "attention.head_count_kv": 4, "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5, "rope.freq_base": 1e4, "attention.key_length": 48, "attention.value_length": 48,
    "rope.dimension_count": 48, "attention.sliding_window": 1000, "expert_count": 8, "expert_used_count": 2,
}  # fmt: skip
_DEFAULTS: tuple[tuple[str, Any], ...] = (  # for keys that an architecture requires besides, by the end of the name
    (r"pattern|recurrent_layers", [True, False] * (N_LAYERS // 2)), (r"sections|dimension_sections", [2, 2, 2, 0]),
    (r"epsilon|scale|_factor|clamp\w*|softcapping|eps|freq_base\w*|beta\w*|theta|strength|alpha\w*", 1.0),
    (r"(key|value)_length_\w*", 48), (r"kv_lora_rank\w*", 32), (r"weights_norm|parallel_residual", True), (r"", 2),
)  # fmt: skip


def header(architecture: str, keys: dict[str, Any]) -> Parts:
    """Return a file of keys and a vocabulary, without tensors."""
    own = {f"{architecture}.{name}": _typed(value) for name, value in keys.items()}
    return Parts({"general.architecture": (STRING, architecture, None), **byte_pairs(320), **own}, {})


def _typed(value: Any) -> tuple[int, Any, int | None]:
    if isinstance(value, list):
        return ARRAY, value, _typed(value[0])[0]
    return (BOOL if isinstance(value, bool) else U32 if isinstance(value, int) else F32), value, None


def main() -> None:
    """Answer each line."""
    import llama_cpp

    lines: list[str] = []
    log = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    path = Path(tempfile.mkdtemp()) / "keys.gguf"

    def ask(architecture: str, keys: dict[str, Any]) -> str:
        header(architecture, keys).write(path)
        lines.clear()
        llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        return "".join(lines)

    for line in sys.stdin:
        architecture = line.strip()
        keys, text = dict(_KEYS), ""
        for _ in range(60):
            text = ask(architecture, keys)
            missing = re.search(rf"key not found in model: {re.escape(architecture)}\.(\S+)", text)
            if missing is None:
                break
            keys[missing[1]] = next(value for end, value in _DEFAULTS if re.search(rf"({end})$", missing[1]))
        said = dict(re.findall(r"print_info: (\w+)\s+= (.*)", text))
        error = "" if "n_swa" in said else next((row for row in text.splitlines() if "error" in row.lower()), text[-200:])
        print(json.dumps({"architecture": architecture, "keys": keys, "said": said, "error": error}), flush=True)


if __name__ == "__main__":
    main()
