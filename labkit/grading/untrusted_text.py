"""Text of strangers: shown, it steers no page and no terminal; run, it is text that can be sent."""

from __future__ import annotations

from labkit import checks

__all__ = ["sendable", "visible"]


def visible(text: object) -> str:
    """Return text whose control and direction characters are seen, not obeyed; lines and tabs stay."""
    return checks.visible(text, None, keep="\n\t")


def sendable(text: str) -> str:
    """Return text that UTF-8 can hold: halves of characters, as JSON can name them, become question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
