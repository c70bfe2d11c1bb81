"""An explorer's view: a sentence, a picture and tables, as HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.plots import Picture
from labkit.tables import Table

if TYPE_CHECKING:
    from labkit.plots.picture import Drawn

_LIVE = "Run this cell in JupyterLab to use the controls."


@dataclasses.dataclass(frozen=True)
class View:
    """What an explorer shows, as a pure function of its controls' values."""

    sentence: str
    picture: Drawn | None = None  # its label is the alt text
    tables: Sequence[Table] = ()
    extra_html: str = ""  # already escaped

    def to_html(self) -> str:
        """Return HTML for a live explorer, with the tables collapsed."""
        return self._join(opened="")

    def to_static_html(self, title: str) -> str:
        """Return HTML for a page without a kernel: tables open, and a line that explains how to get the controls."""
        return f"<p><strong>{html.escape(title)}</strong> <em>{_LIVE}</em></p>" + self._join(opened=" open")

    def _join(self, *, opened: str) -> str:
        picture = "" if self.picture is None else _wide(Picture(self.picture, dpi=_DPI)._repr_html_(), "picture")
        tables = "".join(_wide(table.to_html(), table.title) for table in self.tables)
        if tables:
            tables = f"<details{opened}><summary>Numbers</summary>{tables}</details>"
        return f"<p>{html.escape(self.sentence)}</p>{picture}{self.extra_html}{tables}"


def _wide(content: str, name: str) -> str:
    """Wrap wide content in a box that scrolls, also by keyboard."""
    label = html.escape(name, quote=True)
    return f'<div class="labkit-wide" style="overflow-x:auto" tabindex="0" role="group" aria-label="{label}">{content}</div>'


_DPI = 110  # sharp enough for a screen, and drawn in half the time of 144


def message_html(text: str, *, done: int = 0, total: int = 0, is_error: bool = False) -> str:
    """Return a status line that screen readers announce when it changes, with a progress bar if ``total`` is given."""
    bar = f'<progress max="{total}" value="{done}" aria-label="progress"></progress> ' if total else ""
    mark = "<strong>Error:</strong> " if is_error and text else ""
    return f'<div role="status" aria-live="polite" style="min-height:1.5em">{bar}{mark}{html.escape(text)}</div>'
