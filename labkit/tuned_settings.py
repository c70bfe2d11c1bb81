"""Settings found by `labkit.tune`: store them, and read them for load_model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.cache import file_identity, recall, remember
from labkit.checks import shown
from labkit.errors import ArgumentError, ArgumentTypeError
from labkit.system import load_engine, physical_cores_available

GOALS = ("latency", "throughput", "memory")
TUNED = ("n_threads", "n_threads_batch", "n_batch", "n_ubatch", "flash_attn", "type_k", "type_v")


def remember_settings(path: Path, goal: str, settings: Mapping[str, Any]) -> None:
    """Store settings for a file, this engine and the current number of cores."""
    remember("tuned", dict(settings), *_words(path, goal))


def tuned_settings(given: Any, path: Path) -> dict[str, Any]:
    """Return arguments of load_model from its ``settings``: a result of `labkit.tune`, its JSON file, or a goal."""
    if isinstance(given, str) and given in GOALS:
        found = recall("tuned", *_words(path, given))
        if not isinstance(found, dict):
            raise ArgumentError(
                f"settings={given!r}: {path.name} is not tuned on this machine yet: "
                f"run labkit.tune({str(path)!r}, goal={given!r}) once"
            )
    elif isinstance(given, (str, Path)):
        found = _read(Path(given))
    else:
        found = given
    if not isinstance(found, Mapping) or not any(name in found for name in TUNED):
        raise ArgumentTypeError(
            f"settings={shown(given)} is not a result of labkit.tune: give one, its JSON file, or one of {', '.join(GOALS)}"
        )
    return {name: found[name] for name in TUNED if found.get(name) is not None}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise ArgumentError(
            f"settings={str(path)!r} cannot be read ({reason}): give a file of labkit.tune, or one of {', '.join(GOALS)}"
        ) from error
    except ValueError as error:
        raise ArgumentError(f"settings={str(path)!r} is not JSON: write it with labkit.tune(…).to_json(path)") from error


def _words(path: Path, goal: str) -> tuple[str, ...]:
    return (*file_identity(path), goal, str(load_engine().__version__), str(physical_cores_available()))
