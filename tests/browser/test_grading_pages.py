"""The feedback page and the class report in a browser: accessible, responsive, dark, and safe with untrusted text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labkit.grading.adjustments import Adjustment
from labkit.grading.class_report import write_report
from labkit.grading.feedback import write_feedback
from labkit.grading.gradebook import Grade
from labkit.grading.score import ExerciseGrade
from tests.browser.jupyter import violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "</pre><script>document.title = 'hijacked'</script><img src=x onerror=alert(1)>\x1b[31m\u202e" + "long" * 60


def _exercise(name: str, points: float, message: str, text: str) -> ExerciseGrade:
    wrong = "" if points == 2 else f"gave {text}"[:80]
    return ExerciseGrade(name, points, 2, round(5 * points), 10, text, message, f"{name}: {message} {text}", wrong)


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    """Write the pages of a class of 12, one of them hostile."""
    grades = []
    for number in range(12):
        name, text = ("eve", EVIL) if number == 3 else (f"s{number:02}", "def softmax_at(x):\n    return x")
        exercises = (
            _exercise("softmax_at", number % 3, "Correct for 4 of 11 inputs.", text),
            _exercise("count_min_p", 2, "Correct for all 12 inputs.", text),
        )
        points = sum(item.points for item in exercises)
        problems = ("The check cell of softmax_at is missing: the instructor's was run.",) if number == 3 else ()
        grades.append(
            Grade(
                name,
                text if number == 3 else name,
                "hw",
                "0" * 64,
                "0" * 64,
                1,
                {"labkit": "1"},
                points,
                4,
                exercises,
                problems,
            )
        )
    grades.sort(key=lambda grade: grade.student)
    adjustments = [Adjustment("eve", "hw", 0.5, 1, EVIL)]
    (tmp_path / "times" / "eve").mkdir(parents=True)
    (tmp_path / "times" / "eve" / "hw.json").write_text("1.5")
    write_feedback(tmp_path, grades, adjustments)
    notes = ["<img src=x onerror=alert(1)> of eve: the newest of 2 files, by the time in the archive"]
    write_report(tmp_path, grades, adjustments, notes)
    return [tmp_path / "feedback" / "eve.html", tmp_path / "feedback" / "s01.html", tmp_path / "report.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_pages_are_accessible_and_safe(browser: Browser, pages: list[Path], width: int, scheme: str) -> None:
    """No serious axe-core violation, no horizontal scrolling, no script runs, and nothing is fetched."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light")
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    for path in pages:
        page.goto(path.as_uri())
        assert page.title() != "hijacked"
        assert page.locator("script, img").count() == 0
        assert page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
        assert violations(page) == []
    assert requested == [path.as_uri() for path in pages]
    page.close()
