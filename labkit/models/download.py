"""Fetch a model from the hub into huggingface_hub's cache: resumable and verified.

huggingface_hub provides the address, size and checksum, and links the finished file into its cache. The transfer itself
is done here, for two reasons: since version 2, an interrupted ``hf_hub_download`` discards the received part, and its Xet
transfer leaves no file to resume from. A plain request with a ``Range`` header, appended to ``blobs/ETAG.incomplete``,
can resume after a lost connection, Ctrl-C or a dead kernel.

References
----------
RFC 9110, section 14 (range requests); huggingface_hub, guide "Understand caching".
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from labkit.cache import sha256 as digest_of
from labkit.checks import shown
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
    is_offline,
    list_files,
    refuse_offline,
)
from labkit.models.pasted import unwrap
from labkit.models.reference import Reference, choose, parse_reference, split_parts
from labkit.models.resolve import cached_model
from labkit.units import format_bytes

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 2**20
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # waits between attempts without progress; any progress restarts the sequence
_PASSING = (408, 416, 429, 500, 502, 503, 504)  # HTTP statuses worth a retry


def fetch_model(name_or_repo: str, *, progress: bool = True, filename: str | None = None) -> Path:
    """Fetch a model, unless it is already on this machine, and return its path.

    An interrupted download is resumed, within this call and in a later one. Disk space is checked before the download, the
    checksum after it.

    Parameters
    ----------
    name_or_repo : str
        A name from `list_models`; "org/repo", for its only model or the Q4_K_M one; "org/repo:Q8_0"; "org/repo:FILE.gguf";
        or the address of one of these on the hub. For a split model, all parts are fetched and the first is returned.
    progress : bool
        Show which file was chosen and why, and a progress bar, on standard error.
    filename : str, optional
        The file in the repository, instead of the part after the colon.

    Raises
    ------
    ModelNotFoundError
        When the text is neither a known name nor a repository.
    DownloadError
        Without network, file, disk space or permission, or when the received file has the wrong size or checksum.
    ArgumentError, ArgumentTypeError
        When an argument is invalid.

    Notes
    -----
    HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE work as in huggingface_hub.
    """
    _check_arguments(name_or_repo, filename)
    entry = find_entry(unwrap(name_or_repo))
    if entry is not None and entry.path is not None and filename is None:
        return entry.path
    reference = parse_reference(name_or_repo)
    if filename is not None:
        reference = Reference(reference.repository, filename)
    if reference.filename is None:
        if is_offline() and (cached := cached_model(reference)) is not None:
            return cached
        refuse_offline(reference.repository)
        name, why = choose(reference, list_files(reference.repository))
        _LOG.info("%s: %s, %s", reference.repository, name, why)
        if progress:
            print(f"{reference.repository}: {name} ({why})", file=sys.stderr, flush=True)
        reference = reference._replace(filename=name)
    paths = [_fetch_file(reference, part, progress) for part in split_parts(reference.filename or "")]
    return paths[0]


def _check_arguments(name_or_repo: str, filename: str | None) -> None:
    for name, value in (("name_or_repo", name_or_repo), ("filename", filename)):
        if not isinstance(value, str) and not (name == "filename" and value is None):
            raise ArgumentTypeError(f"{name} must be text, not {type(value).__name__}: for example 'qwen2.5-0.5b'")
    if filename is None:
        return
    possible = 0 < len(filename.strip()) < 1000 and filename.isprintable()
    if not possible or ".." in filename.split("/") or filename.startswith("/"):
        raise ArgumentError(f"filename={shown(filename)} is not a file in a repository: give for example 'a-Q4_K_M.gguf'")


def _fetch_file(reference: Reference, filename: str, progress: bool) -> Path:
    """Return one file of a repository from the cache; download it if it is missing."""
    repository = reference.repository
    cached = cached_file(repository, filename)
    if cached is not None:
        return cached
    refuse_offline(f"{repository}:{filename}")
    found = ask_file(repository, filename)
    if reference.sha256 and found.sha256 and reference.sha256 != found.sha256:
        raise DownloadError(
            f"{repository}:{filename} has changed on the hub (checksum {found.sha256[:12]}…, expected "
            f"{reference.sha256[:12]}…): if you trust it, fetch it with fetch_model('{repository}:{filename}')"
        )
    with explain(repository, filename):
        _fill_blob(found, repository_folder(repository), filename, reference.sha256 or found.sha256, progress)
        return _link(repository, filename, found)


def _fill_blob(found: HubFile, folder: Path, filename: str, sha256: str | None, progress: bool) -> None:
    """Create ``blobs/ETAG``. huggingface_hub's own lock keeps two processes from downloading at once."""
    blob = folder / "blobs" / found.etag
    part = blob.with_name(f"{found.etag}.incomplete")
    lock = hub_cache() / ".locks" / folder.name / f"{found.etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with hub_utils().WeakFileLock(lock):
        if not blob.exists():
            _check_disk_space(found, part, filename)
            with _progress_bar(found, part, filename, progress) as bar:
                _transfer(found, part, bar)
            _verify(part, found, sha256, filename)
            part.replace(blob)


def _check_disk_space(found: HubFile, part: Path, filename: str) -> None:
    needed = (found.size_bytes or 0) - _size(part)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(
            f"{filename} needs {format_bytes(needed)} more, but {part.parent} has {format_bytes(free)} free: "
            "free disk space, or set HF_HOME to a folder on a larger disk"
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
    """Append to ``part`` until it is complete; resume after a lost connection."""
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
            _LOG.info("download of %s broke at %d bytes (%s): retry in %g s", part.name, _size(part), error, wait)
            time.sleep(wait)


def _request(found: HubFile, part: Path, bar: Any) -> None:
    """Request the rest of the file and append it.

    Each request goes to the hub's address, not to the redirect target: signed addresses expire during a long download.
    """
    utils = hub_utils()
    have = _size(part)
    if have == found.size_bytes:
        return
    if found.size_bytes is not None and have > found.size_bytes:
        part.unlink()  # not the beginning of this file
        have = 0
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    options = {"headers": headers, "follow_redirects": True, "timeout": TIMEOUT_S}
    with utils.get_session().stream("GET", found.url, **options) as response:
        if response.status_code == 416:  # no such range: the part belongs to another file
            part.unlink(missing_ok=True)
        utils.hf_raise_for_status(response)
        # A server that ignores Range sends the whole file again.
        with part.open("ab" if response.status_code == 206 else "wb") as file:
            bar.update(file.tell() - bar.n)
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))


def _verify(part: Path, found: HubFile, sha256: str | None, filename: str) -> None:
    """Check size and checksum; delete a file that does not match, because a later call could not fix it."""
    size, actual = _size(part), digest_of(part) if sha256 else None
    if found.size_bytes is not None and size != found.size_bytes:
        part.unlink()
        raise DownloadError(
            f"{filename} has {size:,} bytes instead of {found.size_bytes:,} and was deleted: call fetch_model again"
        )
    if actual != sha256:
        part.unlink()
        raise DownloadError(
            f"{filename} has a wrong checksum (SHA-256 {str(actual)[:12]}… instead of {str(sha256)[:12]}…) and was "
            "deleted: call fetch_model again; if it happens twice, a proxy or the mirror in HF_ENDPOINT changes the file"
        )


def _link(repository: str, filename: str, found: HubFile) -> Path:
    """Have huggingface_hub link the blob into its cache; it finds the blob and downloads nothing."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repository, filename, endpoint=endpoint(), cache_dir=hub_cache()))
    blob = repository_folder(repository) / "blobs" / found.etag
    if not path.is_symlink() and path.is_file() and blob.is_file() and not path.samefile(blob):
        blob.unlink()  # Windows without developer mode: the link is a second copy
    return path


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
