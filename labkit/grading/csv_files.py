"""CSV files as spreadsheets and learning systems write them: any usual encoding and delimiter, kept byte for byte."""

from __future__ import annotations

import codecs
import dataclasses
import re
from pathlib import Path

from labkit.errors import GradingError

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclasses.dataclass
class CsvFile:
    """A CSV file whose cells can be changed; all others keep their bytes."""

    path: Path
    delimiter: str
    rows: list[list[str]]  # values, without quotes
    lines: list[int]  # of the file, where each row begins
    _raw: list[list[str]]  # as in the file
    _ends: list[str]
    _codec: str
    _bom: bytes

    def set(self, row: int, column: int, value: str) -> None:
        """Change a cell to a value without quotes and delimiters; a short row is filled up."""
        for cells in (self.rows[row], self._raw[row]):
            cells += [""] * (column + 1 - len(cells))
            cells[column] = f'"{value}"' if cells is self._raw[row] and self.delimiter in value else value

    def content(self) -> bytes:
        """Return the file's bytes."""
        text = "".join(self.delimiter.join(row) + end for row, end in zip(self._raw, self._ends, strict=True))
        return self._bom + text.encode(self._codec)


def read_csv(path: Path) -> CsvFile:
    """Read a CSV file: UTF-8, UTF-16 or cp1252, separated by commas, semicolons or tabs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradingError(f"{path} cannot be read: {error.strerror or error}") from None
    text, codec, bom = _decode(path, content)
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=lambda one: len(_pattern(one).findall(first)))
    pattern, position = _pattern(delimiter), 0
    file = CsvFile(path, delimiter, [], [], [], [], codec, bom)
    row: list[str] = []
    begun = 0
    while position < len(text) or row:
        found = pattern.match(text, position)
        if found is None:
            line = text.count("\n", 0, position) + 1
            raise GradingError(f"{path}, line {line}: a quoted cell does not end before the next delimiter: fix its quotes")
        row.append(found[1])
        position = found.end()
        if found[2] != delimiter:
            file.rows.append([_value(cell) for cell in row])
            file.lines.append(text.count("\n", 0, begun) + 1)
            file._raw.append(row)
            file._ends.append(found[2])
            row, begun = [], position
    return file


def _pattern(delimiter: str) -> re.Pattern[str]:
    """Return a pattern for a cell and what follows it."""
    return re.compile(rf'("(?:[^"]|"")*"|(?!")[^{delimiter}\r\n]*)({delimiter}|\r\n|\n|\r|\Z)')


def _value(raw: str) -> str:
    return raw[1:-1].replace('""', '"') if raw.startswith('"') else raw


def _decode(path: Path, content: bytes) -> tuple[str, str, bytes]:
    """Return the text, its encoding and its byte order mark."""
    bom, codec = next((known for known in _BOMS if content.startswith(known[0])), (b"", "utf-8"))
    if not bom and b"\0" in content[:200]:
        codec = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    for attempt in (codec, "cp1252"):
        try:
            return content[len(bom) :].decode(attempt), attempt, bom
        except UnicodeDecodeError:
            if bom:
                break
    raise GradingError(f"{path} is not text in UTF-8, UTF-16 or cp1252: save it as CSV UTF-8")
