"""Rows of text as HTML, Markdown, CSV and plain text."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a title, each as long as ``columns``; its first cell names the row.

    Title and columns may be empty.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_html(self) -> str:
        """Return an HTML table with a caption, and headers that a screen reader says with each cell."""
        caption = f"<caption{_LEFT}>{html.escape(self.title)}</caption>" if self.title else ""
        head = "".join(f'<th scope="col"{_LEFT}>{html.escape(name)}</th>' for name in self.columns)
        head = f"<thead><tr>{head}</tr></thead>" if head else ""
        body = "".join(
            f'<tr><th scope="row"{_LEFT}>{html.escape(row[0])}</th>'
            + "".join(f"<td{_LEFT}>{html.escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"

    def to_markdown(self, right: Iterable[int] = ()) -> str:
        """Return a Markdown table; the columns with the numbers in ``right`` are aligned to the right."""
        columns = self.columns or [""] * len(self.rows[0])
        numbers = set(right)
        rule = ["---:" if index in numbers else "---" for index in range(len(columns))]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (columns, rule, *self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_text(self, *, align: str = "<") -> str:
        """Return lines of aligned columns: ``"<"`` to the left, ``">"`` to the right."""
        lines = [line for line in (self.columns, *self.rows) if line]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:{align}{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )


_LEFT = ' style="padding:.25em;text-align:left"'  # eight columns fit a notebook of 620 pixels


def notes_html(notes: Iterable[str]) -> str:
    """Return a paragraph for each note."""
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def to_csv(rows: Sequence[Mapping[str, Any]], without: Sequence[str] = ()) -> str:
    """Return CSV with a header line; ``without`` names keys to leave out."""
    text = io.StringIO()
    names = [name for name in rows[0] if name not in without]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
