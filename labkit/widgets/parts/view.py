"""What an explorer shows of one state of its controls: a sentence, a picture, a table; and the three as HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.plots import Picture
from labkit.tables import Table

if TYPE_CHECKING:
    from labkit.plots.picture import Drawn

__all__ = ["View", "message_html"]

_LIVE = "Run this cell in JupyterLab for its controls."


@dataclasses.dataclass(frozen=True)
class View:
    """What an explorer shows, made by a pure function of its controls' values.

    Parameters
    ----------
    sentence : str
        What is to be seen, in words.
    picture : Axes or Figure, optional
        Its label is its alternative text.
    tables : sequence of Table
        The same in numbers.
    extra_html : str
        What is neither; already escaped.
    """

    sentence: str
    picture: Drawn | None = None
    tables: Sequence[Table] = ()
    extra_html: str = ""

    def to_html(self) -> str:
        """Return it for a live explorer: the numbers are a click or a key away."""
        return self._join(opened="")

    def to_static_html(self, title: str) -> str:
        """Return it for a page without a kernel: everything open, and a line that says where the controls are."""
        return f"<p><strong>{html.escape(title)}</strong> <em>{_LIVE}</em></p>" + self._join(opened=" open")

    def _join(self, *, opened: str) -> str:
        picture = "" if self.picture is None else _wide(Picture(self.picture, dpi=_DPI)._repr_html_(), "picture")
        tables = "".join(_wide(table.to_html(), table.title) for table in self.tables)
        if tables:
            tables = f"<details{opened}><summary>The numbers</summary>{tables}</details>"
        return f"<p>{html.escape(self.sentence)}</p>{picture}{self.extra_html}{tables}"


def _wide(content: str, name: str) -> str:
    """Wrap what may be wider than its room, so that it scrolls by itself, by keyboard too."""
    label = html.escape(name, quote=True)
    return f'<div class="labkit-wide" style="overflow-x:auto" tabindex="0" role="group" aria-label="{label}">{content}</div>'


_DPI = 110  # sharp enough on a screen, and drawn in half the time of a printed page's


def message_html(text: str, *, done: int = 0, total: int = 0, is_error: bool = False) -> str:
    """Return a line that screen readers say when it changes, with a bar where something is counted."""
    bar = f'<progress max="{total}" value="{done}" aria-label="progress"></progress> ' if total else ""
    mark = "<strong>Not done:</strong> " if is_error and text else ""
    return f'<div role="status" aria-live="polite" style="min-height:1.5em">{bar}{mark}{html.escape(text)}</div>'
