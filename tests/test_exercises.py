"""check() reports at once whether an answer is correct, or what may be wrong; it never reveals the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

import labkit
from labkit.course import Exercise, Mistake, check, checks
from labkit.course.checks import judge, known_exercises
from labkit.course.exercise import equal, plain

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
REGION = re.compile(r"^(?P<indent> *)### BEGIN SOLUTION\n.*?### END SOLUTION$", re.DOTALL | re.MULTILINE)


def _solution_cells() -> dict[str, str]:
    """Return the solution cell of each exercise, by its name."""
    cells = [cell for path in sorted(FOLDER.glob("*.ipynb")) for cell in nbformat.read(path, as_version=4).cells]
    solutions = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")]
    return {cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in solutions}


SOLUTIONS = _solution_cells()
# Of the lab's seven functions, which the suite checks with a model, one by default and the others with --thorough.
NAMES = [
    pytest.param(name, marks=pytest.mark.thorough if exercise.by_suite and name != "count_tokens" else ())
    for name, exercise in sorted(known_exercises().items())
]


def _answer(name: str, source: str) -> Any:
    """Run a solution cell by itself and return what it defines."""
    names: dict[str, Any] = {}
    exec(compile(source, name, "exec"), names)  # noqa: S102  # the course's own cells
    return names.get(name)


def test_every_exercise_is_in_a_notebook() -> None:
    """The exercises and the notebooks' solution cells have the same names."""
    assert set(SOLUTIONS) == set(known_exercises())


@pytest.mark.parametrize("name", NAMES)
def test_solution_passes_and_placeholder_does_not(name: str) -> None:
    """The notebook's solution passes and is deterministic on drawn inputs; a placeholder is reported as no answer."""
    exercise = known_exercises()[name]
    source = SOLUTIONS[name]
    assert REGION.search(source), source
    if exercise.accepts is not None:  # measured: the notebook's check cell tests it
        return
    answer = _answer(name, source)
    passed, message = judge(exercise, answer)
    assert passed, message
    if not exercise.by_suite:
        for inputs in exercise.draw_inputs(1):
            assert exercise.same(answer(*inputs), answer(*inputs))
    stub = None if not exercise.is_function else _stub
    assert judge(exercise, stub) == (False, "No answer: replace the placeholder with your answer.")


def _stub(*_: Any, **__: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize("name", NAMES)
def test_known_mistakes_get_their_hint(name: str) -> None:
    """Each of at least three known mistakes fails with its own hint, which does not contain the answer."""
    exercise = known_exercises()[name]
    assert len(exercise.mistakes) >= 3
    assert 1 <= exercise.points <= 5
    for mistake in exercise.mistakes:
        assert judge(exercise, mistake.answer) == (False, mistake.hint)
        assert len(mistake.hint) < 200
    assert len({mistake.hint for mistake in exercise.mistakes}) == len(exercise.mistakes)
    for _, expected in exercise.examples:
        if not exercise.is_function and not isinstance(expected, bool):
            assert str(expected) not in " ".join(mistake.hint for mistake in exercise.mistakes)


@pytest.mark.parametrize("name", sorted(known_exercises()))
def test_hints_do_not_reveal_the_answer(name: str) -> None:
    """An exercise has 2 or 3 short hints, none a mistake's hint, an expected value or a line of the solution."""
    exercise = known_exercises()[name]
    region = REGION.search(SOLUTIONS[name])
    assert region
    lines = {line.strip() for line in region.group().splitlines()[1:-1]} - {""}
    expected = list(_leaves([output for _, output in exercise.examples]))
    numbers = {abs(value) for value in expected if isinstance(value, (int, float)) and _has_two_digits(value)}
    texts = {value.strip() for value in expected if isinstance(value, str) and len(value.strip()) >= 4}
    assert 2 <= len(exercise.hints) <= 3
    assert len(set(exercise.hints) | {mistake.hint for mistake in exercise.mistakes}) == len(exercise.hints) + len(
        exercise.mistakes
    )
    for hint in exercise.hints:
        assert len(hint) <= 160
        assert hint.endswith((".", "?"))
        assert not numbers & {float(text.replace(",", "")) for text in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", hint)}, hint
        assert not [part for part in lines | texts if part in hint], hint


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _has_two_digits(number: float) -> bool:
    return len(re.sub(r"\D", "", f"{number:g}")) >= 2


def test_each_further_wrong_attempt_gets_one_more_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt gets none, the last hint repeats, a correct answer resets the count; placeholders do not count."""
    monkeypatch.setattr(checks, "_WRONG_ATTEMPTS", Counter())
    hints = known_exercises()["count_min_p"].hints

    def wrong() -> str:
        return check("count_min_p", lambda shares, p: -1).message

    def correct() -> str:
        return check("count_min_p", lambda shares, p: sum(share >= p * max(shares) for share in shares)).message

    assert "Hint" not in wrong()
    assert wrong().endswith(f" Hint 1 of {len(hints)}: {hints[0]}")
    assert "Hint" not in check("count_min_p", _stub).message
    assert "Hint" not in check("count_top_p", lambda shares, p: -1).message  # counted separately per exercise
    assert wrong().endswith(f" Hint 2 of {len(hints)}: {hints[1]}")
    for _ in hints:
        last = wrong()
    assert last.endswith(f" Hint {len(hints)} of {len(hints)}: {hints[-1]}")
    assert "Hint" not in correct()
    assert "Hint" not in wrong()
    assert wrong().endswith(f" Hint 1 of {len(hints)}: {hints[0]}")


def test_inputs_for_grading_are_the_same_with_the_same_seed() -> None:
    """The same seed gives the same inputs, a different seed gives different ones."""
    for exercise in known_exercises().values():
        if exercise.is_function:
            assert exercise.draw_inputs(3) == exercise.draw_inputs(3)
            assert exercise.draw_inputs(3) != exercise.draw_inputs(4)


DOUBLE = Exercise(
    name="double",
    points=1,
    question="twice a number.",
    examples=(((2,), 4), ((3,), 6)),
    inputs=lambda generator: (generator.randint(0, 9),),
    mistakes=(Mistake("That is its square.", lambda x: x * x),),
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, "should be a function"),
        (lambda x: None, "returns None"),
        (lambda x: x**2, "That is its square."),
        (lambda x: x + 1, "double(2) returned 3."),
        (lambda x: str(2 * x), "of type str"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda: 1, "TypeError"),
        (None, "No answer"),
        (..., "No answer"),
    ],
)
def test_messages_name_what_is_wrong(answer: object, words: str) -> None:
    """The message for any wrong answer is one line that names the problem."""
    passed, message = judge(DOUBLE, answer)
    assert not passed
    assert words in message
    assert "\n" not in message


def test_check_uses_the_callers_names() -> None:
    """Without an answer, check uses the variable named like the exercise; an unknown exercise is an error listing them."""
    assert "'softmax_at' is not defined" in check("softmax_at").message
    assert check("count_min_p", lambda shares, p: sum(share >= p * max(shares) for share in shares)).passed
    with pytest.raises(labkit.ArgumentError, match="softmax_at"):
        check("nothing")


def test_an_object_cannot_claim_to_be_equal() -> None:
    """An object whose == is always true does not pass, alone, in a list or as a subclass of int."""

    class Liar:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    class Four(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert not equal(Liar(), 4, relative=0, absolute=0)
    assert not equal([Liar()], [4], relative=0, absolute=0)
    assert not equal(Four(5), 4, relative=0, absolute=0)
    assert judge(DOUBLE, lambda x: Liar())[0] is False
    assert equal(np.float32(2.0), 2, relative=1e-6, absolute=0)
    assert equal(np.arange(3), [0, 1, 2], relative=0, absolute=0)
    assert not equal(float("nan"), 1.0, relative=1e-6, absolute=0)
    assert plain({"a": (1, np.int64(2))}) == {"a": [1, 2]}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_hints_name_existing_steps(path: Path) -> None:
    """Every step that a hint refers to is a heading of the chapter."""
    cells = nbformat.read(path, as_version=4).cells
    steps = set(
        re.findall(r"^## (\d+)", "\n".join(cell.source for cell in cells if cell.cell_type == "markdown"), re.MULTILINE)
    )
    names = {cell.metadata["nbgrader"]["grade_id"] for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")}
    hints = [hint for name in names for hint in known_exercises()[name].hints]
    named = {
        step
        for hint in hints
        for words in re.findall(r"[Ss]teps? (\d+(?: and \d+)?)", hint)
        for step in words.split(" and ")
    }
    assert named
    assert named <= steps
