"""Record: a frozen, typed result with attributes, mapping access and a table view."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.checks import nearest, visible
from labkit.errors import UnknownKeyError
from labkit.units import counted, format_bytes, format_duration, format_rate


class Record(Mapping[str, Any]):
    """Base of labkit's results: subclass it as ``@dataclasses.dataclass(frozen=True, repr=False, eq=False)``.

    A record has attributes *and* mapping access: ``info.quantization``, ``info["quantization"]``,
    ``dict(info)``, ``f(**info)``. It compares by value, prints one field per line, and is shown as a table in Jupyter.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True, repr=False, eq=False)
    ... class Size(Record):
    ...     name: str
    ...     file_bytes: int
    >>> size = Size("tiny", 2048)
    >>> size.name, size["file_bytes"], dict(size)
    ('tiny', 2048, {'name': 'tiny', 'file_bytes': 2048})
    >>> size
    Size
      name        tiny
      file_bytes  2,048 (2.0 KiB)
    """

    def _names(self) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]  # subclasses are dataclasses

    def __getitem__(self, key: str) -> Any:
        """Return one value by its key; the error for a wrong key lists the existing keys."""
        names = self._names()
        if key in names:
            return getattr(self, key)
        near = nearest(str(key), names)
        hint = f" (did you mean {near!r}?)" if near else ""
        raise UnknownKeyError(f"{type(self).__name__} has no key {key!r}{hint}; its keys are {', '.join(names)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return type(self) is type(other) and dict(self) == dict(other)
        return Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._names()))

    def replace(self, **changes: Any) -> Any:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # subclasses are dataclasses

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values: dicts, lists, strings and numbers."""
        return {key: to_plain(value) for key, value in self.items()}

    def __repr__(self) -> str:
        names = [field.name for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]  # as above
        width = max((len(name) for name in names), default=0)
        lines = [f"  {name:<{width}}  {format_value(name, self[name])}" for name in names]
        return "\n".join([type(self).__name__, *lines])

    def _repr_html_(self) -> str:
        from labkit.tables import Table

        rows = [(name, format_value(name, self[name])) for name in self._names()]
        return Table(type(self).__name__, (), rows).to_html()


def format_value(name: str, value: Any, *, limit: int = 200) -> str:
    """Format a field's value: units from the end of its name, long text truncated, control characters escaped."""
    if value is None:
        return "unknown" if name.endswith(("_bytes", "_s", "_per_second")) else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _format_number(name, value)
    if isinstance(value, Record):
        return f"<{type(value).__name__}: {counted(len(value), 'field')}>"
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {format_value(name, item)}" for key, item in value.items())
    elif isinstance(value, (tuple, list)):
        text = ", ".join(format_value(name, item) for item in value)
    else:
        text = str(value)
    return visible(text, limit)


def _format_number(name: str, value: int | float) -> str:
    if name.endswith("_bytes"):
        return f"{value:,} ({format_bytes(value)})" if value >= 1024 else f"{value:,}"
    if name.endswith("_per_second"):
        noun = name.removesuffix("_per_second").rsplit("_", 1)[-1]
        return f"{format_bytes(value)}/s" if noun == "bytes" else format_rate(value, noun)
    if name.endswith("_s"):
        return format_duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def to_plain(value: Any) -> Any:
    """Convert records, paths, tuples and NumPy scalars to values for ``json.dumps``."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "item") and not isinstance(value, (str, int, float, bool)):
        return value.item()
    return value
