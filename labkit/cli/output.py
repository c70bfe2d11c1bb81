"""Output of the command line: tables or one JSON document on stdout; errors and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import visible
from labkit.records import to_plain

if TYPE_CHECKING:
    from rich.console import Console


def plain(text: object) -> str:
    """Escape control characters, so that a text cannot control the terminal."""
    return visible(text, None, keep="\n")


class Output:
    """Print results as text, or (``--json``) print only one JSON document at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.warned: list[str] = []
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # also on a Windows console or in the C locale: models write any character
                stream.reconfigure(encoding="utf-8", errors="replace")

    @property
    def console(self) -> Console:
        """Rich's console on stdout."""
        from rich.console import Console

        return Console(highlight=False, soft_wrap=True)

    def say(self, text: str = "", *, style: str | None = None, end: str = "\n") -> None:
        """Print a line for people."""
        if not self.as_json:
            self.console.print(plain(text), style=style, end=end, markup=False)

    def stream(self, text: str) -> None:
        """Print a piece of generated text immediately."""
        if not self.as_json:
            sys.stdout.write(plain(text))
            sys.stdout.flush()

    def title(self, text: str) -> None:
        """Print a heading."""
        self.say()
        self.say(text, style="bold")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
        """Print a table; cells are plain text, not Rich markup."""
        if self.as_json:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=any(headings))
        for index, heading in enumerate(headings):
            table.add_column(heading, overflow="fold", no_wrap=index == 0, ratio=1 if index == len(headings) - 1 else None)
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self.console.print(table)

    def result(self, value: Any) -> None:
        """Print the JSON document, with ``--json``."""
        if self.as_json:
            print(json.dumps(to_plain(value), indent=2, ensure_ascii=False))

    def warn(self, message: str) -> None:
        """Print a warning, in one line on stderr."""
        self.warned.append(message)
        print(f"labkit: warning: {plain(' '.join(message.split()))}", file=sys.stderr)

    def fail(self, message: str) -> None:
        """Print an error, in one line on stderr."""
        if self.as_json:
            print(json.dumps({"error": message}, ensure_ascii=False))
        print(f"labkit: {plain(' '.join(message.split()))}", file=sys.stderr)
