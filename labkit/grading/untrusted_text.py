"""Escape untrusted text for HTML and terminals, and make it encodable."""

from __future__ import annotations

from labkit import checks

__all__ = ["encodable", "visible"]


def visible(text: object) -> str:
    """Escape control and direction characters so that they have no effect; keep newlines and tabs."""
    return checks.visible(text, None, keep="\n\t")


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode: lone surrogates, which JSON allows, become question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
