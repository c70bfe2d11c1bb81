"""The syllabus and the slides are the notebooks' own words."""

from __future__ import annotations

import re

import pytest

from labkit.course.checks import known_exercises
from tools.syllabus import PAGE, SLIDES, read_course, short_minutes, slides, syllabus

CHAPTERS = read_course()


def test_syllabus_is_up_to_date() -> None:
    """docs/syllabus.md is what the notebooks give; `uv run tools/syllabus.py` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == syllabus(CHAPTERS), "run: uv run tools/syllabus.py"


def test_chapters_add_up() -> None:
    """Every exercise and its points are in a chapter, each chapter follows an earlier one, and three hours are enough."""
    assert sum(each.exercises for each in CHAPTERS) == len(known_exercises())
    assert sum(each.points for each in CHAPTERS) == sum(one.points for one in known_exercises().values())
    assert all(each.before < each.number for each in CHAPTERS)
    assert all(3 <= len(each.outcomes) <= 5 for each in CHAPTERS)
    assert 120 <= sum(short_minutes(CHAPTERS).values()) <= 145  # of 180: 10 to open the chapters, and breaks


@pytest.mark.parametrize("path", sorted(SLIDES))
def test_slides_need_no_network(path: str) -> None:
    """At most ten slides name every chapter of the path; pictures are in the page, with alt text, and nothing is fetched."""
    page = slides(CHAPTERS, path)
    assert 8 <= page.count("<section>") <= 10
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "url(" not in page
    assert page.count("<img alt=") >= 4
    numbers = {number for group in SLIDES[path] for number in group}
    assert all(f"{each.number} · {each.title}" in page for each in CHAPTERS if each.number in numbers)
    assert path == "short" or numbers >= {each.number for each in CHAPTERS}
