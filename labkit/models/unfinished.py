"""Files in the middle of a download, by the names that download programs give them."""

from __future__ import annotations

import os
from pathlib import Path

# ending -> who gives it to the received part
_PARTS = {
    ".incomplete": "huggingface_hub", ".part": "Firefox, curl or another program", ".crdownload": "Chrome or Edge",
    ".download": "Safari", ".opdownload": "Opera", ".partial": "a download program", ".!qb": "qBittorrent",
}  # fmt: skip
_NOTES = (".aria2", ".st")  # aria2 and axel write these next to a file of the full size, until it is complete


def is_file(path: Path) -> bool:
    """Return whether this is a file; unlike Path's, it is False for an impossible name."""
    return os.path.isfile(path)  # noqa: PTH113


def unfinished_download(path: Path) -> str | None:
    """Return a sentence if a path is an unfinished download, or one is next to it."""
    if not path.name:
        return None
    who = _PARTS.get(path.suffix.lower())
    if who is not None and is_file(path):
        return f"this is an unfinished download of {who}: let it finish, or fetch the file again"
    note = running_download(path)
    if note is not None:
        return note
    for ending in _PARTS:
        part = path.with_name(path.name + ending)
        if is_file(part):
            return f"its download is not finished ({part.name!r} is there): let it finish, or fetch the file again"
    return None


def running_download(path: Path) -> str | None:
    """Return a sentence if a file has its full size before all of it has arrived."""
    notes = (path.with_name(path.name + ending) for ending in _NOTES) if path.name else ()
    note = next((note for note in notes if is_file(note)), None)
    if note is None:
        return None
    return f"its download is not finished ({note.name!r} is there): let it finish, or fetch the file again"
