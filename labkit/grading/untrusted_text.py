"""Escape untrusted text for HTML and terminals."""

from __future__ import annotations

from labkit import checks


def visible(text: object) -> str:
    """Escape control and direction characters so that they have no effect; keep newlines and tabs."""
    return checks.visible(text, None, keep="\n\t")
