"""Statements in bold are compared with outputs: ranges with all values, single numbers with one of them."""

import pytest

from tests.stated_values import NOT_COMPARED, contradictions, statements

OUTPUTS = ["read_bytes_per_second  31.32 GiB/s\n49,152 tokens x 4 bytes\n", "measured 0.184 times the speed (no guess yet)"]


@pytest.mark.parametrize(
    "text",
    [
        "**10 to 100 GiB/s**",
        "**above 10 GiB/s** and **below 32 GiB/s**",
        "**31 GiB/s**",
        "**31.3 GiB/s**",
        "**about 30 GiB/s**",
        "**49,152 tokens**",
        "**0.1 to 0.2 times**",
        "**below 1**",
        "nothing to compare: **cancelled**, 12 to 14 tokens",
    ],
)
def test_what_agrees_is_accepted(text: str) -> None:
    """Ranges, limits, rounded and grouped numbers, with a unit or of a measured figure."""
    assert contradictions(text, OUTPUTS) == []


@pytest.mark.parametrize(
    "text", ["**40 to 100 GiB/s**", "**above 1**", "**32 GiB/s**", "**31.4 GiB/s**", "**1 to 2 MiB**", "**3 to 9 tokens**"]
)
def test_a_contradiction_is_found(text: str) -> None:
    """A value outside of the range or limit, or a unit that no output has."""
    assert len(contradictions(text, OUTPUTS)) == 1


def test_a_range_holds_for_all_values() -> None:
    """Two values with the unit: both have to be in a range, one has to be the single number."""
    assert contradictions("**1 to 10 s**, **5 s**", ["5 s, 20 s"]) == ["1 to 10 s: the outputs have [5.0, 20.0]"]


@pytest.mark.parametrize("text", ["30 to 300 tokens", "at least 2 times", "At most 0.5 GiB"])
def test_ranges_without_bold_are_found(text: str) -> None:
    """A range that nothing compares is found; in bold it is not."""
    assert NOT_COMPARED.search(f"expect {text}.")
    assert not NOT_COMPARED.search(f"expect **{text}**.")


def test_units_in_words_are_those_of_the_outputs() -> None:
    """“tokens per second” is the text's form of “tokens/s”."""
    assert statements("**30 to 300 tokens per second**")[0].unit == "tokens/s"
