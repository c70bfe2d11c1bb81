"""What loading needs to know of a file, remembered until the file changes.

Reading a header strictly and looking through its vocabulary takes some 30 ms, a third of what the engine needs to load
the bundled model. A file that was sound is sound the next time: what was learned is kept in the user's cache folder, by
the file's path, size, time and inode, and thrown away with every new version of labkit or of the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp
from platformdirs import user_cache_path

from labkit import __version__
from labkit.gguf_file import Header, preflight, read_header

__all__ = ["LoadFacts", "sound_file"]

_MAX_REMEMBERED = 200


@dataclasses.dataclass(frozen=True)
class LoadFacts:
    """What `choose_settings` asks of a sound file.

    Attributes
    ----------
    architecture : str
    hparams : dict
        The architecture's own keys without their prefix: numbers, flags, texts, and tuples of numbers.
    matrices : tuple of (name, type's name, rows, columns, bytes)
        Tensors of two or more dimensions.
    weights_bytes : int
        All tensors.
    warnings : tuple of str
        What preflight found odd.
    """

    architecture: str
    hparams: dict[str, Any]
    matrices: tuple[tuple[str, str, int, int, int], ...]
    weights_bytes: int
    warnings: tuple[str, ...] = ()

    def hparam(self, name: str, default: Any = None) -> Any:
        """Return one of the architecture's numbers."""
        return self.hparams.get(name, default)


def sound_file(path: Path) -> LoadFacts:
    """Return what loading needs to know of a file; refuse one that is no sound GGUF or would end the process.

    Raises
    ------
    GGUFError
        As `labkit.gguf_file.read_header` and ``preflight`` raise it.
    """
    stat = path.stat()
    return _sound_file(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=16)
def _sound_file(path: Path, *identity: int) -> LoadFacts:
    words = [str(path.resolve()), *map(str, identity), __version__, str(llama_cpp.__version__)]
    note = _folder() / f"{hashlib.sha256(chr(0).join(words).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    known = _recall(note)
    if known is None:
        known = learn(read_header(path))
        _remember(note, known)
    return known


def learn(header: Header) -> LoadFacts:
    """Look a header through, and keep what loading needs."""
    odd = preflight(header)
    prefix = f"{header.architecture}."
    hparams = {key.removeprefix(prefix): _plain(value) for key, value in header.metadata.items() if key.startswith(prefix)}
    matrices = tuple(
        (tensor.name, tensor.type.name, int(tensor.shape[1]), int(tensor.shape[0]), int(tensor.n_bytes))
        for tensor in header.tensors
        if len(tensor.shape) >= 2
    )
    return LoadFacts(header.architecture, hparams, matrices, sum(int(tensor.n_bytes) for tensor in header.tensors), odd)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) else tuple(value)


def _folder() -> Path:
    """Return where notes are kept; the environment variable LABKIT_CACHE moves them."""
    given = os.environ.get("LABKIT_CACHE")
    return (Path(given).expanduser() if given else user_cache_path("labkit", appauthor=False)) / "sound"


def _recall(note: Path) -> LoadFacts | None:
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        return LoadFacts(
            facts["architecture"],
            {key: tuple(value) if isinstance(value, list) else value for key, value in facts["hparams"].items()},
            tuple((str(n), str(t), int(r), int(c), int(b)) for n, t, r, c, b in facts["matrices"]),
            int(facts["weights_bytes"]),
            tuple(facts["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or not ours: learn anew


def _remember(note: Path, facts: LoadFacts) -> None:
    """Keep a note, whole or not at all; a folder that cannot be written to costs time, nothing else."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        notes = sorted(note.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in notes[: len(notes) - _MAX_REMEMBERED]:
            old.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, suffix=".part", delete=False, encoding="utf-8") as part:
            json.dump(dataclasses.asdict(facts), part)
        Path(part.name).replace(note)
