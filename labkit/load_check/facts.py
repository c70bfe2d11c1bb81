"""What loading needs to know about a file, cached until the file changes.

Reading a header strictly and checking its vocabulary takes about 30 ms, a third of what the engine needs to load
the bundled model. A valid file stays valid: the result is kept in the user's cache folder, keyed by the
path, size, time and inode of each part, and discarded with every new version of labkit or the engine.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit import __version__
from labkit.cache import file_identity, recall, remember
from labkit.errors import GGUFError
from labkit.models.reference import split_parts
from labkit.system import load_engine

if TYPE_CHECKING:
    from labkit.gguf_file import Header


class LoadFacts(NamedTuple):
    """What `choose_settings` needs to know about a valid file."""

    architecture: str
    hparams: dict[str, Any]  # the architecture's own keys without their prefix: numbers, flags, texts, and tuples of numbers
    matrices: tuple[tuple[str, str, int, int, int], ...]  # (name, type's name, rows, columns, bytes); two or more dimensions
    weights_bytes: int  # all tensors
    warnings: tuple[str, ...] = ()  # what preflight found unusual

    def hparam(self, name: str, default: Any = None) -> Any:
        """Return one of the architecture's numbers."""
        return self.hparams.get(name, default)


def sound_file(path: Path, *, vocab_only: bool = False) -> LoadFacts:
    """Return what loading needs to know about a file; refuse one that is not valid GGUF or would crash the process.

    A file that is not known to be sound is tried in a child process, once; ``vocab_only`` loads no weights and needs none.
    """
    if vocab_only:
        from labkit.gguf_file import read_header  # parsing takes time to import, and a known file needs none
        from labkit.gguf_file.preflight.vocabulary import check_vocabulary

        header = read_header(path)
        return facts_of(header, check_vocabulary(header))
    parts = (path.with_name(name) for name in split_parts(path.name))
    return _sound_file(path, *(word for part in parts if part.exists() for word in file_identity(part)))


@lru_cache(maxsize=16)
def _sound_file(path: Path, *identity: str) -> LoadFacts:
    words = (path.name, *identity, __version__, str(load_engine().__version__))
    note = recall("sound", *words)
    if isinstance(note, str):
        raise GGUFError(note)
    known = _facts(note)
    if known is None:  # these modules are needed once per file
        from labkit.gguf_file import read_header
        from labkit.load_check.dry_run import check_by_trial
        from labkit.load_check.known_layout import has_known_layout

        header = read_header(path)
        known = learn(header)
        try:
            if has_known_layout(header) or check_by_trial(header.paths[0]):
                remember("sound", known._asdict(), *words)
        except GGUFError as error:
            remember("sound", str(error), *words)
            raise
    return known


def learn(header: Header) -> LoadFacts:
    """Check a header, and keep what loading needs."""
    from labkit.gguf_file.preflight import preflight

    return facts_of(header, preflight(header))


def facts_of(header: Header, odd: tuple[str, ...] = ()) -> LoadFacts:
    """Return the facts of a header that matter for loading."""
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


def _facts(note: Any) -> LoadFacts | None:
    try:
        return LoadFacts(
            note["architecture"],
            {key: tuple(value) if isinstance(value, list) else value for key, value in note["hparams"].items()},
            tuple((str(n), str(t), int(r), int(c), int(b)) for n, t, r, c, b in note["matrices"]),
            int(note["weights_bytes"]),
            tuple(note["warnings"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # missing or invalid: read the file again
