"""Facts about a file are cached at loading, and dropped when the file changes."""

import os
import shutil
from pathlib import Path

import pytest

from labkit.errors import GGUFError
from labkit.gguf_file import read_header
from labkit.load_check import facts as known_files
from labkit.load_check.facts import learn, sound_file
from labkit.models import bundled_model_path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    known_files._sound_file.cache_clear()


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record each read of a header."""
    seen: list[Path] = []
    monkeypatch.setattr("labkit.gguf_file.read_header", lambda path: (seen.append(path), read_header(path))[1])
    return seen


def test_facts_are_read_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process finds the facts of the first one without reading the header again."""
    seen = _reads(monkeypatch)
    path = bundled_model_path()
    first = sound_file(path)
    known_files._sound_file.cache_clear()  # as in a new process
    assert sound_file(path) == first == learn(read_header(path))
    assert len(seen) == 1


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid file that is damaged later is refused."""
    seen = _reads(monkeypatch)
    copy = tmp_path / "copy.gguf"
    shutil.copy(bundled_model_path(), copy)
    sound_file(copy)
    os.truncate(copy, 50_000_000)
    with pytest.raises(GGUFError):
        sound_file(copy)
    assert len(seen) == 2


def test_refusal_is_not_cached(tmp_path: Path) -> None:
    """An invalid file is refused each time."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(60))
    for _ in range(2):
        with pytest.raises(GGUFError):
            sound_file(bad)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"architecture": "llama"}', "\x00\x01"])
def test_damaged_cache_entry_is_rebuilt(content: str, tmp_path: Path) -> None:
    """A foreign or truncated cache entry only costs another read."""
    path = bundled_model_path()
    first = sound_file(path)
    (note,) = (tmp_path / "cache" / "sound").glob("*.json")
    note.write_text(content, encoding="utf-8")
    known_files._sound_file.cache_clear()
    assert sound_file(path) == first


def test_unwritable_cache_folder_is_not_an_error(tmp_path: Path) -> None:
    """If the cache folder is not writable, loading works anyway."""
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    assert sound_file(bundled_model_path()).architecture == "llama"
