"""The documentation site: no broken link, nothing from other hosts, accessible pages, and explorers that work."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

import labkit
from labkit.ghost.build import ghost_header
from labkit.units import format_bytes
from labkit.widgets.parts.what_fits import estimate_from_header
from tests.browser.jupyter import violations
from tools import build_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).resolve().parents[2]
NEEDS = "needs the group docs: uv run --group docs pytest tests/ --thorough"
# One page of each kind
PAGES = ("index.html", "notebooks/04_quantization.html", "reference/engine.html", "reference/command-line.html",
         "docs/glossary.html", "browser.html", "search.html", "genindex.html")  # fmt: skip


class _Page(HTMLParser):
    """The ids and addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given.get("id", ""), given.get("name", "") if tag == "a" else ""}
        addresses = [given[name] for name in ("href", "src", "data-src", "poster") if given.get(name)]
        (self.links if tag == "a" else self.loaded).extend(addresses)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site."""
    for module in ("sphinx", "myst_nb", "furo", "numpydoc"):
        pytest.importorskip(module, reason=NEEDS)
    try:
        build_site.fetch_pyodide()
    except SystemExit as error:
        if "is not the archive" in str(error):
            raise
        pytest.skip(f"no Pyodide: {error}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "tools.build_site", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine, and return its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def requested() -> list[str]:
    """Return the list of what the page requests."""
    return []


@pytest.fixture
def page(browser: Browser, address: str, requested: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open a page without a network besides the site; an error in its console fails the test."""
    context = browser.new_context(color_scheme=getattr(request, "param", "light"))
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(address) else route.abort())
    opened, errors = context.new_page(), list[str]()
    opened.on("request", lambda request: requested.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield opened
    context.close()
    assert errors == []


def test_no_link_is_broken(site: Path) -> None:
    """Every link inside the site has a page, and every anchor an element; nothing is loaded from another host."""
    pages = {path.resolve(): _Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert link in page.links or parts.scheme == "data", f"{path.name} loads {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_every_public_name_has_a_reference(site: Path) -> None:
    """The reference describes each public name of labkit, and each command."""
    ids = set().union(*(_Page(path).ids for path in (site / "reference").glob("*.html")))
    assert {f"labkit.{name}" for name in labkit.__all__} <= ids
    assert {"labkit-tour", "labkit-memory"} <= ids


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_loads_nothing_from_other_hosts(
    page: Page, address: str, requested: list[str], name: str
) -> None:
    """axe-core finds no serious violation on any kind of page, light and dark, and every request stays on the site."""
    page.goto(f"{address}/{name}")
    if name == "browser.html":
        page.locator("#labkit-contents table").first.wait_for(timeout=60_000)
    assert violations(page) == []
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []


def _wait(page: Page, part: str, text: str) -> str:
    page.locator(f"#labkit-{part}", has_text=text).wait_for(timeout=60_000)
    return page.locator(f"#labkit-{part}").inner_text()


def test_memory_explorer_runs_in_the_browser(page: Page, address: str) -> None:
    """Without an installation, the memory explorer shows the figures of labkit's formula, and follows its controls."""
    from labkit.model_info import read_model_header
    from labkit.system.build import EngineBuild, repacked_types

    features = ("AVX2", "REPACK")
    build = EngineBuild("", features, ("CPU",), False, False, repacked_types(features), ())
    page.goto(f"{address}/browser.html")
    _wait(page, "estimate", "Memory by part")
    page.get_by_label("Processor").select_option("x86-64 with AVX2")
    slider = page.get_by_label("Context (tokens)")
    for key, n_ctx in (("Home", 256), ("ArrowRight", 512), ("End", 8192)):
        slider.press(key)
        shown = _wait(page, "estimate", f"full context of {n_ctx:,} tokens")
        whole = estimate_from_header(read_model_header(None), n_ctx, build=build)
        assert f"needs {format_bytes(whole.ram_bytes)} of RAM" in shown
        assert f"{whole.kv_cache_bytes / 2**20:,.1f}" in shown


def test_a_dropped_file_is_read_by_slices(page: Page, address: str, tmp_path: Path) -> None:
    """A file larger than the browser's memory is described from its header; an invalid one gives one line."""
    _, head, size = ghost_header("llama", "8x7B", "Q4_K_M")
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    assert size > 20 * 2**30
    page.goto(f"{address}/browser.html")
    _wait(page, "contents", "general.architecture")
    page.get_by_label("Or your own GGUF file").set_input_files(path)
    assert "46,703 million weights" in _wait(page, "state", "Q4_K_M")
    page.get_by_label("Show").select_option("tensors")
    assert "blk.0.ffn_gate_exps.weight" in _wait(page, "contents", "4,096 × 14,336 × 8")

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(head[: len(head) // 2])
    page.get_by_label("Or your own GGUF file").set_input_files(broken)
    assert "\n" not in _wait(page, "state", "broken.gguf: ")
    assert "magic" in _wait(page, "contents", "The fields, in order")
