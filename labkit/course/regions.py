"""Regions of a cell that students do not get: solutions, hidden tests, mark schemes, and details with a solution."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from labkit.errors import GradingError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOLUTION = "SOLUTION"
_EXACT = re.compile(
    r"(?P<indent>[ \t]*)(?:###|===) (?P<side>BEGIN|END) (?P<kind>SOLUTION|HIDDEN TESTS|MARK SCHEME)(?: ===)?[ \t]*"
)
# whatever looks like a delimiter: with other words, marks or case, or behind code
_LOOSE = re.compile(
    r"(?:^\W*|#\s*|==\s*)(?:BEGIN|END)[\s_-]*(?:SOLUTION|HIDDEN[\s_-]*TEST|MARK[\s_-]*SCHEME)", re.IGNORECASE
)
_TAG = re.compile(r"<(?P<end>/?)details\b[^>]*>|<summary\b[^>]*>(?P<summary>.*?)</summary>", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(
    r"\b(?:solutions?|answers?|\w*l(?:ö|oe)sung\w*|antwort(?:en)?|réponses?|corrigés?|soluci[oó]n(?:es)?|respuestas?|soluzion[ei]"
    r"|oplossing(?:en)?)\b",
    re.IGNORECASE,
)
_TRIVIAL = re.compile(r"(?:import|from)\b.*|(?:return|for|if|elif|else|while|with|try|except)\b[\s\w:]*|\w+ = [\w.]*|\W*")
_SHORTEST = 10


@dataclasses.dataclass(frozen=True)
class Region:
    """Consecutive lines of a cell."""

    kind: str  # SOLUTION, HIDDEN TESTS or MARK SCHEME; empty for what students get
    indent: str
    lines: tuple[str, ...]


def split_regions(text: str, where: str) -> list[Region]:
    """Split a cell's text at its delimiters; raise `GradingError`, with cell and line, for one that is not understood."""
    found: list[Region] = []
    kind, indent, begun, lines = "", "", 0, list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        exact = _EXACT.fullmatch(line)
        if exact is None:
            if _LOOSE.search(line):
                advice = f"write {BEGIN!r} alone on its line"
                raise GradingError(f"{where}, line {number}: unclear delimiter {line.strip()[:60]!r}: {advice}")
            lines.append(line)
            continue
        if (exact["side"] == "BEGIN") == bool(kind) or (kind and exact["kind"] != kind):
            raise GradingError(f"{where}, line {number}: {exact['side']} {exact['kind']} is out of order")
        found.append(Region(kind, indent, tuple(lines)))
        kind, indent, begun, lines = (exact["kind"], exact["indent"], number, []) if not kind else ("", "", 0, [])
    if kind == SOLUTION:
        raise GradingError(f"{where}, line {begun}: it needs one region between {BEGIN!r} and {END!r}: this one has no end")
    if kind:
        raise GradingError(f"{where}, line {begun}: the {kind.lower()} have no end")
    return [*found, Region("", "", tuple(lines))]


def without_regions(text: str, where: str) -> tuple[str, list[str]]:
    """Return a cell's text without regions and without details that hold a solution, and the removed lines."""
    regions = split_regions(text, where)
    kept = "\n".join(line for region in regions if not region.kind for line in region.lines)
    removed = [line for region in regions if region.kind not in ("", "HIDDEN TESTS") for line in region.lines]
    for begin, end in reversed([*_solution_details(kept, where)]):
        removed += kept[begin:end].split("\n")
        kept = kept[:begin] + kept[end:].lstrip()
    return kept, removed


def _solution_details(text: str, where: str) -> Iterator[tuple[int, int]]:
    """Yield where the outermost ``<details>`` with a summary about a solution begin and end."""
    open_at: list[int] = []
    solution = 0  # depth of the solution that is open, if one is
    for tag in _TAG.finditer(text):
        if tag["summary"] is not None:
            if open_at and not solution and _ANSWER.search(tag["summary"]):
                solution = len(open_at)
        elif not tag["end"]:
            open_at.append(tag.start())
        elif open_at:
            begin = open_at.pop()
            if solution > len(open_at):
                solution = 0
                yield begin, tag.end()
    if solution:
        line = text.count("\n", 0, open_at[solution - 1]) + 1
        raise GradingError(f"{where}, line {line}: the <details> with a solution have no end")


def telling_lines(lines: list[str]) -> set[str]:
    """Return the removed lines that would give a solution away, with single spaces."""
    plain = {" ".join(line.split()) for line in lines}
    return {line for line in plain if len(line) >= _SHORTEST and not _TRIVIAL.fullmatch(line)}
