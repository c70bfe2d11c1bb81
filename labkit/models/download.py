"""Fetch a model from the hub: resumable, checked, into huggingface_hub's own cache.

huggingface_hub says where the file is, what it must weigh and what its checksum is, and links the finished file into
its cache. The transfer itself is done here, for two reasons. From version 2 on, ``hf_hub_download`` throws away what
has arrived when it is interrupted; and its Xet transfer keeps no file that a later call could go on with. A plain
request with a ``Range`` header, appended to ``blobs/ETAG.incomplete``, survives a cut line, Ctrl-C and a lost kernel.

References
----------
RFC 9110, section 14 (range requests); huggingface_hub, guide "Understand caching".
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from labkit.errors import ArgumentError, ArgumentTypeError, DownloadError
from labkit.models.cache import cached_file, hub_cache, repository_folder
from labkit.models.catalog import find_entry
from labkit.models.hub import (
    TIMEOUT_S,
    HubFile,
    ask_file,
    endpoint,
    explain,
    http_library,
    hub_utils,
    list_files,
    refuse_offline,
)
from labkit.models.reference import Reference, choose_file, parse_reference, split_parts
from labkit.units import format_bytes

__all__ = ["fetch_model"]

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 2**20
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries that bring nothing; any progress starts the row anew
_PASSING = (408, 416, 429, 500, 502, 503, 504)  # HTTP states that may be gone at the next try


def fetch_model(name_or_repo: str, *, progress: bool = True, filename: str | None = None) -> Path:
    """Fetch a model, unless it is on this machine already, and return its path.

    A cut connection is taken up where it broke, here and in a later call. The size of the disk is checked before,
    the checksum after.

    Parameters
    ----------
    name_or_repo : str
        A name of `list_models`; "org/repo", which takes its only GGUF file or the Q4_K_M one; "org/repo:Q8_0";
        or "org/repo:FILE.gguf". Of a split model all parts are fetched and the first is returned.
    progress : bool
        Show a progress bar, on standard error or in the notebook.
    filename : str, optional
        The file in the repository, instead of the part after the colon.

    Raises
    ------
    ModelNotFoundError
        When the text is no known name and no repository.
    DownloadError
        When there is no network, no such file, no room, no permission, or when what arrived is not what was promised.
    ArgumentError, ArgumentTypeError
        When an argument cannot be meant.

    Notes
    -----
    HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
    """
    _check_arguments(name_or_repo, filename)
    entry = find_entry(name_or_repo)
    if entry is not None and entry.path is not None and filename is None:
        return entry.path
    reference = parse_reference(name_or_repo)
    if filename is not None:
        reference = Reference(reference.repository, filename)
    if reference.filename is None:
        refuse_offline(reference.repository)
        reference = reference._replace(filename=choose_file(reference, list_files(reference.repository)))
    paths = [_fetch_file(reference, part, progress) for part in split_parts(reference.filename or "")]
    return paths[0]


def _check_arguments(name_or_repo: str, filename: str | None) -> None:
    for name, value in (("name_or_repo", name_or_repo), ("filename", filename)):
        if not isinstance(value, str) and not (name == "filename" and value is None):
            raise ArgumentTypeError(f"{name} must be text, not {type(value).__name__}: for example 'qwen2.5-0.5b'")
    if filename is not None and (not filename.strip() or ".." in filename.split("/") or filename.startswith("/")):
        raise ArgumentError(f"filename={filename!r} is no file of a repository: give for example 'model-Q4_K_M.gguf'")


def _fetch_file(reference: Reference, filename: str, progress: bool) -> Path:
    """Return one file of a repository from the cache, or put it there."""
    repository = reference.repository
    cached = cached_file(repository, filename)
    if cached is not None:
        return cached
    refuse_offline(f"{repository}:{filename}")
    found = ask_file(repository, filename)
    if reference.sha256 and found.sha256 and reference.sha256 != found.sha256:
        raise DownloadError(
            f"{repository}:{filename} has changed on the hub (checksum {found.sha256[:12]}…, known is "
            f"{reference.sha256[:12]}…): if you trust it, fetch it with fetch_model('{repository}:{filename}')"
        )
    with explain(repository, filename):
        _fill_blob(found, repository_folder(repository), filename, reference.sha256 or found.sha256, progress)
        return _link(repository, filename, found)


def _fill_blob(found: HubFile, folder: Path, filename: str, sha256: str | None, progress: bool) -> None:
    """Make ``blobs/ETAG`` exist. The lock is huggingface_hub's own, so that two processes do not fetch at once."""
    blob = folder / "blobs" / found.etag
    part = blob.with_name(f"{found.etag}.incomplete")
    lock = hub_cache() / ".locks" / folder.name / f"{found.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with hub_utils().WeakFileLock(lock):
        if not blob.exists():
            _check_room(found, part, filename)
            with _progress_bar(found, part, filename, progress) as bar:
                _transfer(found, part, bar)
            _verify(part, found, sha256, filename)
            part.replace(blob)


def _check_room(found: HubFile, part: Path, filename: str) -> None:
    needed = (found.size_bytes or 0) - _size(part)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(
            f"{filename} needs {format_bytes(needed)} more and {part.parent} has {format_bytes(free)} free: "
            "make room, or set HF_HOME to a folder on a larger disk"
        )


def _progress_bar(found: HubFile, part: Path, filename: str, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=found.size_bytes,
        initial=_size(part),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=filename.rsplit("/", 1)[-1],
        disable=not progress,
        file=sys.stderr,
    )


def _transfer(found: HubFile, part: Path, bar: Any) -> None:
    """Append to ``part`` until it is whole; a broken connection is taken up again."""
    from huggingface_hub.errors import HfHubHTTPError

    waits = iter(_WAITS_S)
    while True:
        before = _size(part)
        try:
            _request(found, part, bar)
            return
        except (http_library().TransportError, HfHubHTTPError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _PASSING:
                raise
            waits = iter(_WAITS_S) if _size(part) > before else waits
            wait = next(waits, None)
            if wait is None:
                raise
            _LOG.info("download of %s broke at %d bytes (%s): going on in %g s", part.name, _size(part), error, wait)
            time.sleep(wait)


def _request(found: HubFile, part: Path, bar: Any) -> None:
    """Ask for the rest of the file and append what comes.

    The hub's own address is asked each time, not where it redirects to: signed addresses run out during a long download.
    """
    utils = hub_utils()
    have = _size(part)
    if have == found.size_bytes:
        return
    if found.size_bytes is not None and have > found.size_bytes:
        part.unlink()  # not a beginning of this file
        have = 0
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    options = {"headers": headers, "follow_redirects": True, "timeout": TIMEOUT_S}
    with utils.get_session().stream("GET", found.url, **options) as response:
        if response.status_code == 416:  # there is no such rest: the beginning is not this file's
            part.unlink(missing_ok=True)
        utils.hf_raise_for_status(response)
        # A server that ignores Range sends the whole file again.
        with part.open("ab" if response.status_code == 206 else "wb") as file:
            bar.update(file.tell() - bar.n)
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))


def _verify(part: Path, found: HubFile, sha256: str | None, filename: str) -> None:
    """Compare size and checksum; what does not fit is deleted, for no later call could mend it."""
    size, actual = _size(part), _sha256(part) if sha256 else None
    if found.size_bytes is not None and size != found.size_bytes:
        part.unlink()
        raise DownloadError(
            f"{filename} arrived with {size:,} bytes instead of {found.size_bytes:,} and was deleted: call fetch_model again"
        )
    if actual != sha256:
        part.unlink()
        raise DownloadError(
            f"{filename} arrived with a wrong checksum (SHA-256 {str(actual)[:12]}… instead of {str(sha256)[:12]}…) and was "
            "deleted: call fetch_model again; if it happens twice, a proxy or the mirror in HF_ENDPOINT changes the file"
        )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _link(repository: str, filename: str, found: HubFile) -> Path:
    """Let huggingface_hub link the blob into its cache: it finds it there and transfers nothing."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repository, filename, endpoint=endpoint(), cache_dir=hub_cache()))
    blob = repository_folder(repository) / "blobs" / found.etag
    if not path.is_symlink() and path.is_file() and blob.is_file() and not path.samefile(blob):
        blob.unlink()  # Windows without developer mode: the link is a second copy, and one is enough
    return path


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
