"""Read a submitted notebook file: its code cells and kernel, within limits; outputs and pictures are dropped unparsed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from labkit.errors import GradingError
from labkit.grading.archives import MAX_BYTES

_MAX_CELLS = 2000
# Of what remains without outputs. Each part (a text, list or object) becomes a Python object of at least 50 bytes.
_MAX_PARTS = 700_000
_MAX_BYTES_BETWEEN_TEXTS = 800_000  # of brackets, numbers and commas, each of them perhaps an object
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)', re.DOTALL)
_TOKEN = re.compile(_TEXT.pattern + rb"|[\[\]{}]", re.DOTALL)
_VALUE = re.compile(rb"\s*:\s*(?=[\[{])")
_DROPPED = {b'"outputs"', b'"attachments"', b'"widgets"'}
_LONGEST = max(map(len, _DROPPED))
_EMPTY = {ord("["): b"[]", ord("{"): b"{}"}
_DEPTH = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a submitted notebook; all of it is untrusted text."""

    cell_id: str
    grade_id: str  # of nbgrader's metadata
    kind: str
    source: str


def read_notebook(content: bytes) -> tuple[str, list[Cell]]:
    """Return the name of the kernel that a notebook requests (empty if none) and its cells."""
    if len(content) > MAX_BYTES:
        raise GradingError(f"the file is larger than {MAX_BYTES >> 20} MB: clear its outputs and submit it again")
    try:
        notebook = json.loads(without_outputs(content).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise GradingError(f"the file is not a notebook: it is not valid JSON ({type(error).__name__})") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise GradingError("the file is not a notebook of format 4: it has no list of cells")
    if len(notebook["cells"]) > _MAX_CELLS:
        raise GradingError(f"the notebook has more than {_MAX_CELLS:,} cells")
    kernel = str(_dict(_dict(notebook.get("metadata")).get("kernelspec")).get("name") or "")[:60]
    return kernel, [_cell(cell) for cell in notebook["cells"] if isinstance(cell, dict)]


def without_outputs(content: bytes) -> bytes:
    """Return a notebook's JSON without outputs, attachments, widget states; raise `GradingError` if it is too large."""
    kept, begin, parts = [], 0, 0
    tokens = _TOKEN.finditer(content)
    for token in tokens:
        parts += 1
        if parts > _MAX_PARTS:
            break
        is_key = token.end() - token.start() <= _LONGEST and token[0] in _DROPPED
        if is_key and (value := _VALUE.match(content, token.end())):
            kept += [content[begin : value.end()], _EMPTY[content[value.end()]]]
            begin = _end_of_value(tokens, content)
    result = b"".join([*kept, content[begin:]])
    between = len(_TEXT.sub(b"", result).translate(None, b" \t\r\n"))
    if parts > _MAX_PARTS or between > _MAX_BYTES_BETWEEN_TEXTS:
        raise GradingError("the notebook has too many parts: clear its outputs and submit it again")
    return result


def _end_of_value(tokens: Iterator[re.Match[bytes]], content: bytes) -> int:
    """Skip the tokens of a list or object; return the position behind it."""
    depth = 0
    for token in tokens:
        depth += _DEPTH.get(content[token.start()], 0)
        if depth == 0:
            return token.end()
    return len(content)


def _cell(cell: dict[str, Any]) -> Cell:
    marks = _dict(_dict(cell.get("metadata")).get("nbgrader"))
    names = [str(value or "")[:200] for value in (cell.get("id"), marks.get("grade_id"), cell.get("cell_type"))]
    source = cell.get("source")
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str))
    text = text.encode("utf-8", errors="replace").decode()  # JSON allows lone surrogates, which UTF-8 cannot encode
    return Cell(names[0], names[1], names[2], text.replace("\r\n", "\n").replace("\r", "\n"))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
