"""Which of the instructor's notebooks a file is: by its name, by marks of a copy in its name, or by its cells."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from labkit.course.source import SourceNotebook

_SUFFIX = re.compile(
    r"(?:[-_ ]*[(\[](?P<a>\d+)[)\]]|[-_ ](?P<b>\d{1,2})|\.ipynb"
    r"|[-–—_ ]+(?:copy|kopie|copie|copia|cópia|kopia|kopi)[-_ ]*(?P<c>\d*))$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(?:copy of|kopie v[ao]n|copie de|copia di|copia de|cópia de|kopia) +", re.IGNORECASE)
_MARKS = re.compile(rb'"(?:grade_id|id)"\s*:\s*"([^"\\]{1,200})"|\bcheck\(\s*(?:\\"|\')(\w{1,100})(?:\\"|\')')


def marks_of(source: SourceNotebook) -> frozenset[str]:
    """Return what identifies a notebook's cells: the ids of its answer and check cells, and the names of its exercises."""
    cells = [cell.cell_id for cell in source.cells if cell.answers or cell.checks]
    return frozenset([*cells, *source.points, *(f"check-{name}" for name in source.points)])


def by_name(stem: str, notebooks: Iterable[str]) -> tuple[str | None, int]:
    """Return the notebook that a file's name (without .ipynb) says, and the number of the copy; 0 if it is none."""
    names = {_plain(name): name for name in notebooks}
    stem, copy = _plain(stem), 0
    while stem not in names:
        if match := _SUFFIX.search(stem):
            stem, number = stem[: match.start()], match["a"] or match["b"] or match["c"]
        elif match := _PREFIX.match(stem):
            stem, number = stem[match.end() :], None
        else:
            return None, copy
        copy = copy or int(number or 1)
    return names[stem], copy


def by_cells(content: bytes, marks: Mapping[str, frozenset[str]]) -> str | None:
    """Return the notebook whose cells a file has; None if there are none, or as many of two notebooks."""
    found = {(first or second).decode("utf-8", errors="replace") for first, second in _MARKS.findall(content)}
    counts = sorted(((len(found & own), name) for name, own in marks.items()), reverse=True)
    if not counts or not counts[0][0] or (len(counts) > 1 and counts[0][0] == counts[1][0]):
        return None
    return counts[0][1]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
