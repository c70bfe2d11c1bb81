"""Output of the command line: tables or one JSON document on stdout; errors and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from labkit.checks import visible
from labkit.records import to_plain

if TYPE_CHECKING:
    from rich.console import Console


def plain(text: object) -> str:
    """Escape control characters, so that a text cannot control the terminal."""
    return visible(text, None, keep="\n")


def prepare_streams() -> None:
    """Let the output streams print any character: "?" for what the console's encoding does not have.

    On Windows a pipe gets UTF-8 unless PYTHONIOENCODING says otherwise, not the encoding of old programs.
    """
    encoding = "utf-8" if sys.platform == "win32" and not os.environ.get("PYTHONIOENCODING") else None
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=encoding, errors="replace")


def _json(value: Any, indent: int | None = None) -> str:
    """Return JSON; where the encoding does not have every character, with escapes that keep them."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    return json.dumps(value, indent=indent, ensure_ascii=not encoding.startswith("utf"))


class Output:
    """Print results as text, or (``--json``) print only one JSON document at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.warned: list[str] = []

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

    def table(
        self,
        headings: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        title: str | None = None,
        right: Collection[int] = (),
    ) -> None:
        """Print a table; cells are plain text, not Rich markup. ``right`` has the numbers of right-aligned columns."""
        if self.as_json:
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", show_header=any(headings))
        for index, heading in enumerate(headings):
            table.add_column(heading, overflow="fold", no_wrap=index == 0, justify="right" if index in right else "left")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self.console.print(table)

    def result(self, value: Any) -> None:
        """Print the JSON document, with ``--json``."""
        if self.as_json:
            print(_json(to_plain(value), 2))

    def warn(self, message: str) -> None:
        """Print a warning, in one line on stderr."""
        self.warned.append(message)
        print(f"labkit: warning: {plain(' '.join(message.split()))}", file=sys.stderr)

    def fail(self, message: str) -> None:
        """Print an error, in one line on stderr."""
        if self.as_json:
            print(_json({"error": message}))
        print(f"labkit: {plain(' '.join(message.split()))}", file=sys.stderr)
