"""The chat page of `labkit serve`: by keyboard and for screen readers, in light and dark, with nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import labkit
from tests.browser.jupyter import violations
from tests.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_chat_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    """Type, Enter, read, stop with Escape, start again; no serious violation in light and dark, also on a narrow screen."""
    path = write_tiny_model(tmp_path / "tiny.gguf", endless=True)
    with labkit.load_model(path, n_ctx=4096, n_threads=1) as model, labkit.serve_model(model, api_key="key") as server:
        page = browser.new_page(viewport={"width": 320, "height": 700})
        outside: list[str] = []
        errors: list[Any] = []
        page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(server.url) else None)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(server.url)
        page.get_by_text("The API key is missing or wrong", exact=False).wait_for()
        page.get_by_text("Settings").press("Enter")
        page.get_by_label("API key", exact=False).fill("key")
        page.get_by_label("Max tokens", exact=False).fill("12")
        page.get_by_label("Max tokens", exact=False).press("Tab")
        page.get_by_text(re.compile("tokens per conversation")).wait_for()
        text = page.get_by_label("Your message")
        text.fill("the end")
        text.press("Enter")
        status = page.locator("#status")
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('complete: 12 tokens')")
        assert page.locator("article").count() == 2
        assert len(page.locator("article.assistant div").first.inner_text()) > 0
        page.get_by_label("Max tokens", exact=False).fill("")
        text.fill("more")
        text.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('article.assistant').length === 2")
        text.press("Escape")
        page.wait_for_function("() => document.querySelector('#status').textContent === 'Stopped.'")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert violations(page, "body") == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= 320")
        page.get_by_role("button", name="New chat").press("Enter")
        assert page.locator("article").count() == 0
        assert status.inner_text() == "New chat."
        assert (outside, errors) == ([], [])
        page.close()
