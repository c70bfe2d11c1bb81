"""Names and paths as people paste them: in quotes, as file:// or hub addresses, with ~ and variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from labkit.errors import ModelNotFoundError

_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“", "«": "»", "<": ">"}
# re compiles these when they are first used: the bundled model needs none.
_COMMANDS = r"(?i)(ollama\s+(run|pull)|(hf|huggingface-cli)\s+download|(\S*llama\S*\s+(\w+\s+)?)?(-hf|--hf-repo))\s+"
_DOWNLOADED = r"(?i)([\w.-]+/[\w.-]+)\s+(\S+\.gguf)"  # hf download REPOSITORY FILE
_ON_HUB = r"(?s)/?(?P<repository>[^/:@]+/[^/:@]+)(@(?P<revision>[^/]+))?(?P<rest>[/:].*)?"
_PAGES = r"(?s)/(blob|resolve|raw|tree)/(refs/[^/]+/)?(?P<revision>[^/]+)(/(?P<file>.*))?"
_NEWEST = ("main", "master", "latest")


def unwrap(text: str) -> str:
    r"""Return a text without the blanks, quotes and command that were pasted with it; a file:// address as its path.

    Examples
    --------
    >>> unwrap(' "models/My Model.gguf"\n'), unwrap("<hf.co/org/repo:Q8_0>"), unwrap("ollama run hf.co/org/repo")
    ('models/My Model.gguf', 'hf.co/org/repo:Q8_0', 'hf.co/org/repo')
    """
    text = text.strip().strip(_INVISIBLE).strip()
    if command := re.match(_COMMANDS, text):
        text = text[command.end() :]
        if download := re.fullmatch(_DOWNLOADED, text):
            text = f"{download[1]}:{download[2]}"
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if text[:5].lower() == "file:":
        from urllib.request import url2pathname  # it imports ssl and http: 20 ms of every start

        try:
            return url2pathname(urlsplit(text).path)
        except ValueError:
            return text
    return text


def possible_paths(text: str) -> Iterator[Path]:
    """Yield what a text can mean as a path: itself, unwrapped, with variables, with a shell's or Windows' backslashes."""
    bare = unwrap(text)
    full = os.path.expandvars(bare)
    seen = set()
    for form in (text, bare, full, re.sub(r"\\(.)", r"\1", full), full.replace("\\", "/")):
        if form and form not in seen:
            seen.add(form)
            yield Path(os.path.expanduser(form))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def hub_reference(text: str) -> str | None:
    """Return the "org/repo", "org/repo:FILE" or "org/repo:TAG" of a hub address; None if it is not one.

    Examples
    --------
    >>> hub_reference("https://huggingface.co/org/repo/blob/main/sub/a%20b.gguf?download=true")
    'org/repo:sub/a b.gguf'
    >>> hub_reference("hf.co/org/repo:Q8_0"), hub_reference("hf://org/repo/a.gguf"), hub_reference("org/repo")
    ('org/repo:Q8_0', 'org/repo:a.gguf', None)
    """
    from labkit.models.hub import endpoint  # the bundled model does not need it

    bare = unwrap(text)
    below, _, query = bare.partition("#")[0].partition("?")
    hosts = {"huggingface.co", "www.huggingface.co", "hf.co", urlsplit(endpoint()).netloc.lower()}
    scheme, _, address = below.rpartition("://")
    if scheme.lower() != "hf":
        host, _, address = address.partition("/")
        if host.lower() not in hosts or scheme.lower() not in ("", "http", "https"):
            return None
    match = re.fullmatch(_ON_HUB, unquote(address).removeprefix("models/").rstrip("/"))
    if match is None:
        return None
    repository, rest = match["repository"], match["rest"] or ""
    page = re.fullmatch(_PAGES, rest)
    revision = match["revision"] or (page["revision"] if page else None)
    if revision is not None and revision not in _NEWEST:
        raise ModelNotFoundError(
            f"{bare!r} names the revision {revision!r}, and only the newest of a repository is fetched: "
            f"use fetch_model({repository!r}), or download the file and give its path"
        )
    if page:
        rest = f":{page['file']}" if page["file"] and not rest.startswith("/tree/") else ""
    elif rest.startswith("/"):
        rest = f":{rest[1:]}" if rest.lower().endswith(".gguf") else ""  # its discussions, commits
    shown = parse_qs(query).get("show_file_info", [""])[0]
    return f"{repository}{rest or (f':{shown}' if shown else '')}"
