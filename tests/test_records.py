"""Records work as objects, mappings and tables."""

import dataclasses
import json
from pathlib import Path

import pytest

from labkit.errors import LabkitError, UnknownKeyError
from labkit.records import Record


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Sample(Record):
    name: str
    size_bytes: int
    elapsed_s: float
    tokens_per_second: float
    parts: tuple[int, ...] = (1, 2)
    path: Path = Path("a.gguf")


SAMPLE = Sample("demo\x1b[31m", 3 * 1024**2, 0.25, 104.9)


def test_record_reads_as_object_and_mapping() -> None:
    """Attribute, key and unpacking give the same value."""
    assert SAMPLE.size_bytes == SAMPLE["size_bytes"] == dict(SAMPLE)["size_bytes"] == {**SAMPLE}["size_bytes"]
    assert len(SAMPLE) == 6
    assert "name" in SAMPLE
    assert "nothing" not in SAMPLE


def test_wrong_key_lists_the_existing_keys() -> None:
    """The error for a misspelled key suggests the likely key and lists all; it is a KeyError and a LabkitError."""
    with pytest.raises(UnknownKeyError, match=r"did you mean 'size_bytes'.*elapsed_s") as caught:
        SAMPLE["size_byte"]
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, LabkitError)


def test_record_is_frozen_and_compares_by_value() -> None:
    """A record cannot be changed, and records with equal values are equal."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAMPLE.name = "other"  # type: ignore[misc]
    assert SAMPLE.replace() == SAMPLE
    assert SAMPLE.replace(name="other") != SAMPLE


def test_repr_writes_units_and_escapes_control_characters() -> None:
    """The printed form has units, and a hostile name cannot change terminal colours."""
    text = repr(SAMPLE)
    assert "3.0 MiB" in text
    assert "250 ms" in text
    assert "105 tokens/s" in text
    assert "\x1b" not in text


def test_html_escapes_markup() -> None:
    """A name with markup is shown as text in a notebook."""
    assert "<script>" not in SAMPLE.replace(name="<script>")._repr_html_()


def test_to_dict_is_json_ready() -> None:
    """json.dumps accepts the plain form."""
    assert json.loads(json.dumps(SAMPLE.to_dict()))["parts"] == [1, 2]
