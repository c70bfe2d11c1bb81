"""labkit's cache between sessions: small JSON files in the user's cache folder, keyed by what they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_MAX_REMEMBERED = 200


def file_identity(path: Path) -> tuple[str, ...]:
    """Return strings that change when a file changes: its path, size, time and inode."""
    stat = path.stat()
    return (str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ino))


def recall(kind: str, *words: str) -> Any:
    """Return a cached value, or None if there is none or it cannot be read."""
    try:
        return json.loads(_note(kind, words).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(kind: str, value: Any, *words: str) -> None:
    """Cache a value, atomically; errors are ignored, because a missing cache only costs time."""
    note = _note(kind, words)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        notes = sorted(note.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in notes[: len(notes) - _MAX_REMEMBERED]:
            old.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, suffix=".part", delete=False, encoding="utf-8") as part:
            json.dump(value, part)
        Path(part.name).replace(note)


def cache_folder() -> Path:
    """Return labkit's cache folder; the environment variable LABKIT_CACHE overrides it."""
    from platformdirs import user_cache_path

    given = os.environ.get("LABKIT_CACHE")
    return Path(given).expanduser() if given else user_cache_path("labkit", appauthor=False)


def _note(kind: str, words: tuple[str, ...]) -> Path:
    """Return the file of a cached value."""
    return cache_folder() / kind / record_name(*words)


def record_name(*words: str) -> str:
    """Return the name of a cached value's file."""
    return f"{sha256(chr(0).join(words))[:32]}.json"


def sha256(content: bytes | str | Path) -> str:
    """Return the SHA-256 of bytes, of a text in UTF-8, or of a file, in hexadecimal."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
