"""A position in a GGUF file: reads numbers and strings, and names the current section in errors."""

from __future__ import annotations

import struct
from typing import Any, NoReturn

from labkit.gguf_file.source import INCOMPLETE, Source, gguf_error
from labkit.gguf_file.values import Window

U32, U64, I64 = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<q")
_AGAIN = "fetch or convert the file again"


class Cursor:
    """Read a file from its beginning; check every length against the remaining bytes before allocating."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.window = Window(source)
        self.position = 0
        self.section = "the header"  # what is being read, for messages: for example "key 'general.name'"
        self.warnings: list[str] = []  # one sentence each

    def fail(self, problem: str, offset: int | None = None, advice: str = _AGAIN) -> NoReturn:
        """Raise the error for the current section."""
        where = self.position if offset is None else offset
        raise gguf_error(self.source.name, problem, where, advice)

    def remain(self) -> int:
        """Return the number of bytes up to the end of the file."""
        return self.source.size - self.position

    def take(self, n_bytes: int) -> bytes:
        """Return the next bytes; the caller has bounded ``n_bytes``."""
        if n_bytes > self.remain():
            self.fail(f"the file ends inside {self.section}", self.source.size, INCOMPLETE)
        begin = self.position - self.window.start
        if not 0 <= begin <= len(self.window.data) - n_bytes:
            self.window.move(self.position, n_bytes)
            begin = 0
        self.position += n_bytes
        return self.window.data[begin : begin + n_bytes]

    def number(self, kind: struct.Struct) -> Any:
        """Return the next number."""
        return kind.unpack(self.take(kind.size))[0]

    def raw_string(self, limit: int, what: str) -> bytes:
        """Return the bytes of the next string: an 8-byte length, then that many bytes."""
        start = self.position
        length: int = self.number(U64)
        if length > self.remain():
            self.fail(f"{self.section}: {what} claims {length:,} bytes, {self.remain():,} bytes remain", start)
        if length > limit:
            self.fail(f"{self.section}: {what} claims {length:,} bytes, {limit:,} at most are read", start)
        return self.take(length)

    def text(self, raw: bytes, what: str) -> str:
        """Decode UTF-8 text; replace invalid bytes, with a warning."""
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.warnings.append(f"{what} is not valid UTF-8; invalid bytes are shown as U+FFFD")
            return raw.decode("utf-8", "replace")
