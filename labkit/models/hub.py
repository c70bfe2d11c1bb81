"""Requests to the hub through huggingface_hub, with one-line errors.

huggingface_hub is imported inside the functions: its import is slower than labkit's. It reads HF_ENDPOINT and
HF_HUB_OFFLINE once, at import; here their values at the time of the call count.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from labkit.checks import one_line
from labkit.errors import DownloadError, LabkitError

TIMEOUT_S = 15.0
_YES = ("1", "ON", "YES", "TRUE")
_WITHOUT_NETWORK = "without a network the bundled model works: load_model() or fetch_model('smollm2-135m')"


class HubFile(NamedTuple):
    """The hub's metadata of one file: address, ETag (for a large file the SHA-256), and size in bytes."""

    url: str
    etag: str
    size_bytes: int | None

    @property
    def sha256(self) -> str | None:
        """The checksum, if the ETag is one: true for every file stored with LFS or Xet."""
        is_checksum = len(self.etag) == 64 and set(self.etag) <= set("0123456789abcdef")
        return self.etag if is_checksum else None


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline() -> str | None:
    """Return the environment variable that forbids the network, or None."""
    variables = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in variables if os.environ.get(name, "").upper() in _YES), None)


def refuse_offline(wanted: str) -> None:
    """Raise a DownloadError when the environment forbids the network."""
    if variable := is_offline():
        raise DownloadError(
            f"{wanted} is not on this machine and {variable} forbids downloads: unset {variable}; {_WITHOUT_NETWORK}"
        )


def ask_file(repository: str, filename: str) -> HubFile:
    """Ask the hub for a file's size and checksum (a HEAD request)."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with explain(repository, filename):
        url = hf_hub_url(repository, filename, endpoint=endpoint())
        found = get_hf_file_metadata(url, timeout=TIMEOUT_S)
    if found.etag is None or found.commit_hash is None:
        raise DownloadError(f"{endpoint()} does not answer like a model hub: check HF_ENDPOINT and the proxy settings")
    return HubFile(url, found.etag, found.size)


def list_files(repository: str) -> list[str]:
    """Ask the hub for the names of a repository's files."""
    from huggingface_hub import HfApi

    with explain(repository):
        # Not list_repo_files, which retries for half a minute, with messages on standard error.
        found = HfApi(endpoint=endpoint()).model_info(repository, timeout=TIMEOUT_S)
    return [file.rfilename for file in found.siblings or ()]


def http_library() -> Any:
    """Return the HTTP library that huggingface_hub uses: httpx in versions 1.x, httpx2 since 2.x."""
    return sys.modules[type(hub_utils().get_session()).__module__.partition(".")[0]]


def hub_utils() -> Any:
    """Return huggingface_hub.utils, untyped, because its documented names are not exported to type checkers."""
    import huggingface_hub.utils

    return huggingface_hub.utils


@contextlib.contextmanager
def explain(repository: str, filename: str | None = None) -> Iterator[None]:
    """Convert errors of huggingface_hub and its HTTP library to a one-line DownloadError."""
    try:
        yield
    except LabkitError:
        raise
    except (OSError, ValueError, http_library().HTTPError) as error:
        raise DownloadError(_reason(error, repository, filename)) from error


def _reason(error: Exception, repository: str, filename: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is gated: accept its licence at {endpoint()}/{repository}, then log in with 'hf auth login' "
            "or set HF_TOKEN, and call fetch_model again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{endpoint()} has no repository {repository} (or it is private: set HF_TOKEN): check the spelling of org/repo"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repository} has no file {filename!r}: {_what_it_has(repository)}"
    if isinstance(error, errors.HfHubHTTPError):
        return _http_reason(error.response.status_code, repository)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"huggingface_hub was imported with HF_HUB_OFFLINE set: unset it and start Python again; {_WITHOUT_NETWORK}"
    if isinstance(error, http_library().HTTPError):
        return (
            f"no connection to {endpoint()} ({one_line(error)}): check the network and call again to resume; "
            f"{_WITHOUT_NETWORK}"
        )
    if isinstance(error, OSError):
        return f"{filename or repository} cannot be stored ({one_line(error)}): check the folder, or set HF_HOME to another"
    return f"{repository} cannot be fetched: {one_line(error)}"


def _http_reason(status: int, repository: str) -> str:
    if status in (401, 403):
        return f"the hub refuses {repository} (HTTP {status}): check HF_TOKEN, and that its account may read the repository"
    if status == 429:
        return f"the hub refuses {repository} for now (HTTP 429, too many requests): wait a few minutes and call again"
    return f"the hub answers HTTP {status} for {repository}: try again later; {_WITHOUT_NETWORK}"


def _what_it_has(repository: str) -> str:
    try:
        names = sorted(name for name in list_files(repository) if name.lower().endswith(".gguf"))
    except DownloadError:
        names = []
    return f"its .gguf files are {', '.join(names)}" if names else "see its page for the file's name"
