"""A real JupyterLab and a real Chromium: open, run and use notebooks by keyboard."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

START_S = 60
RUN_S = 300
# Browser messages caused by JupyterLab itself on a machine without a network; all others are errors.
NOT_OURS = re.compile(
    r"favicon|service ?worker|ResizeObserver|Download the React DevTools|pypi|npmjs|extensionmanager|lsp/status|"
    r"api/(workspaces|news|settings|translations|me)|jupyter-lsp|Failed to fetch|net::ERR_INTERNET_DISCONNECTED",
    re.IGNORECASE,
)


def find_chromium() -> str | None:
    """Return the path of Chromium: the environment variable CHROMIUM, or Debian's."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def open_browser(executable: str) -> Iterator[Browser]:
    """Start a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], address: str, folder: Path, *, stop: int = signal.SIGTERM) -> Iterator[str]:
    """Start a server with separate Jupyter folders, wait until it answers, and end it afterwards."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    log = (folder / "server.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        command, cwd=folder, env={**environment, **own, "HOME": str(folder)}, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        for _ in range(START_S * 10):
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
                break
            assert process.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "server.log").read_text(encoding="utf-8"))
        yield address
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@contextlib.contextmanager
def open_lab(browser: Browser, folder: Path) -> Iterator[Lab]:
    """Start JupyterLab on a free port of this machine, on an empty folder."""
    port = free_port()
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.root_dir": str(folder),
        "IdentityProvider.token": "",
        "ServerApp.disable_check_xsrf": True,
        "LabApp.expose_app_in_browser": True,
        "LabApp.workspaces_dir": str(folder / "workspaces"),
        "LabApp.user_settings_dir": str(folder / "settings"),
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
    }
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension"
    tracker.mkdir(parents=True)
    whole = json.dumps({"windowingMode": "none"})  # all cells are in the page, not only the visible ones
    (tracker / "tracker.jupyterlab-settings").write_text(whole, encoding="utf-8")
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False}), encoding="utf-8"
    )
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    with server(command, f"http://127.0.0.1:{port}/lab", folder):
        yield Lab(browser, f"http://127.0.0.1:{port}", folder)


class Lab:
    """A JupyterLab server that opens notebooks."""

    def __init__(self, browser: Browser, address: str, folder: Path) -> None:
        self.browser, self.address, self.folder = browser, address, folder
        self._count = 0

    @contextlib.contextmanager
    def notebook(self, *cells: str, source: Path | None = None, width: int = 1200) -> Iterator[Notebook]:
        """Open a notebook of these cells, or a copy of a file, run it, and shut its kernel down afterwards."""
        self._count += 1
        name = f"notebook-{self._count}.ipynb" if source is None else source.name
        if source is None:
            document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
            document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(document, self.folder / name)
        else:
            shutil.copy(source, self.folder / name)
        context = self.browser.new_context(viewport={"width": width, "height": 6000})
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        try:
            page.goto(f"{self.address}/lab/tree/{name}?reset", timeout=START_S * 1000)
            opened = Notebook(page, errors)
            opened.run()
            yield opened
        except BaseException:
            page.screenshot(path=str(self.folder / "failed.png"))
            raise
        finally:
            self._end_kernels()
            context.close()

    def _end_kernels(self) -> None:
        with urllib.request.urlopen(f"{self.address}/api/sessions") as answer:
            sessions = json.load(answer)
        for session in sessions:
            request = urllib.request.Request(f"{self.address}/api/sessions/{session['id']}", method="DELETE")
            urllib.request.urlopen(request).close()


class Notebook:
    """A notebook in the browser."""

    def __init__(self, page: Page, errors: list[str]) -> None:
        self.page, self._errors = page, errors

    def run(self) -> None:
        """Run all cells, and wait until the last one has its number."""
        page = self.page
        page.wait_for_selector(".jp-Notebook", timeout=START_S * 1000)
        page.wait_for_function(
            "() => { const text = document.querySelector('#jp-main-statusbar')?.innerText ?? '';"
            " return text.includes('| Idle') && !/Connecting|Initializing|Starting/.test(text); }",
            timeout=START_S * 1000,
        )
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            "() => { const all = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];"
            " return all.length && all.every((one) => !one.innerText.includes('*')) &&"
            " /\\[\\d+\\]/.test(all[all.length - 1].innerText); }",
            timeout=RUN_S * 1000,
        )

    @property
    def errors(self) -> list[str]:
        """Errors in the browser's console, except JupyterLab's own."""
        return [error for error in self._errors if not NOT_OURS.search(error)]

    def explorer(self, title: str) -> ExplorerPage:
        """Wait for the explorer with this title and return it."""
        box = self.page.locator(".labkit-explorer", has=self.page.get_by_text(title, exact=True)).first
        box.wait_for(timeout=START_S * 1000)
        return ExplorerPage(self.page, box)


class ExplorerPage:
    """An explorer in the browser, used by keyboard."""

    def __init__(self, page: Page, box: Locator) -> None:
        self.page, self.box = page, box

    def slider(self, label: str) -> Locator:
        """Return a slider's handle by its accessible name."""
        return self.box.get_by_role("slider", name=label, exact=True)

    def press(self, control: Locator, key: str, times: int = 1) -> None:
        """Focus a control and press a key."""
        control.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def push(self, label: str) -> None:
        """Press a button by keyboard."""
        button = self.box.get_by_role("button", name=label, exact=True)
        button.focus()
        self.page.keyboard.press("Enter")

    def wait_for_text(self, text: str | re.Pattern[str], timeout_s: float = 30) -> None:
        """Wait until the explorer shows this text."""
        self.box.get_by_text(text).first.wait_for(timeout=timeout_s * 1000)

    def wait_for_value(self, label: str, value: str, timeout_s: float = 30) -> None:
        """Wait until the box with this label has this value."""
        ends_s = time.monotonic() + timeout_s
        box = self.box.get_by_label(label, exact=True)
        while (found := box.input_value()) != value:
            assert time.monotonic() < ends_s, f"{label}: {found!r}, not {value!r}"
            self.page.wait_for_timeout(20)

    @property
    def sentence(self) -> str:
        """The sentence over the picture."""
        return str(self.box.locator(".labkit-view p").first.inner_text())

    def wait_for_change(self, before: str, timeout_s: float = 30) -> str:
        """Wait until the sentence changes, and return it."""
        ends_s = time.monotonic() + timeout_s
        while self.sentence == before:
            assert time.monotonic() < ends_s, before
            self.page.wait_for_timeout(20)
        return self.sentence


def violations(page: Page, part: str = "body") -> list[str]:
    """Return the serious and critical violations that axe-core finds in a part of a page."""
    from axe_playwright_python.sync_playwright import Axe

    found: list[dict[str, Any]] = Axe().run(page, context=part).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:200] for node in rule['nodes']]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
