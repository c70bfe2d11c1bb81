"""check() at home and grading agree, on every catalogued wrong answer and on more than 300 further answers."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labkit
from labkit.course.checks import judge, known_exercises, returns
from labkit.course.exercise import call
from labkit.course.source import SourceCell
from labkit.grading.run_notebook import Job, run_notebook
from tests.grading import LIMITS, why_no_sandbox
from tests.test_exercises import SOLUTIONS, _answer

FURTHER = Path(__file__).with_name("further_answers.txt")
FUNCTIONS = sorted(name for name, exercise in known_exercises().items() if exercise.is_function and not exercise.by_suite)
OF_THE_LAB = sorted(name for name, exercise in known_exercises().items() if exercise.by_suite)
N_SEEDS = 5


def _further() -> dict[str, list[tuple[str, bool]]]:
    """Return the further answers by exercise: each a cell, and whether it is right."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for name, kind, bodies in re.findall(
        r"^== (\w+) (\w+)\n(.*?)(?=^== |\Z)", FURTHER.read_text(), re.DOTALL | re.MULTILINE
    ):
        head = re.search(rf"^def {name}\(.*\):$", SOLUTIONS[name], re.MULTILINE)
        assert head, name
        cells = (f"{head[0]}\n{textwrap.indent(body.strip(), '    ')}" for body in bodies.split("\n--\n"))
        found.setdefault(name, []).extend((cell, kind == "right") for cell in cells)
    return found


ANSWERS = _further()


def _is_right_when_graded(name: str, answer: Any, seed: int) -> bool:
    exercise, solution = known_exercises()[name], _answer(name, SOLUTIONS[name])
    given = exercise.inputs_to_try(seed) or []
    return all(returns(exercise, answer, inputs, call(solution, inputs)[0]) for inputs in given)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about an answer that overflows
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_answers_fail_at_home_and_right_ones_pass_everywhere(name: str) -> None:
    """What grading finds wrong fails at home already; a right answer passes there and gets all points, with any seed."""
    further = [(_answer(name, cell), right, cell) for cell, right in ANSWERS.get(name, [])]
    catalogued = [(mistake.answer, False, mistake.hint) for mistake in known_exercises()[name].mistakes]
    for answer, right, text in [*further, *catalogued]:
        assert judge(known_exercises()[name], answer)[0] is right, text
        graded = [_is_right_when_graded(name, answer, seed) for seed in range(N_SEEDS)]
        assert all(graded) if right else not any(graded), text


@pytest.mark.thorough
@pytest.mark.parametrize("name", OF_THE_LAB)
def test_grading_finds_what_the_suite_finds(name: str) -> None:
    """With models, the solution of one of the lab's functions gets all points, a catalogued wrong answer does not."""
    assert _is_right_when_graded(name, _answer(name, SOLUTIONS[name]), 1)
    for mistake in known_exercises()[name].mistakes:
        assert not _is_right_when_graded(name, mistake.answer, 1), mistake.hint


def test_arrays_of_one_number_are_numbers() -> None:
    """An array of one number, as gguf's reader gives, counts as a number in grading as it does at home."""
    inputs = known_exercises()["get_model_info"].draw_inputs(1)[0]

    def arrays(path: str) -> dict[str, Any]:
        found = labkit.get_model_info(path)
        return {key: np.array([value]) if isinstance(value, (int, float)) else value for key, value in found.items()}

    assert call(arrays, inputs) == call(labkit.get_model_info, inputs)


def test_enough_further_answers_are_tried() -> None:
    """The course's exercises have at least 60 further answers, right and wrong ones."""
    answers = [right for cells in ANSWERS.values() for _, right in cells]
    assert min(answers.count(True), answers.count(False)) >= 60


@pytest.mark.thorough
@pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox())
def test_sandbox_agrees_on_further_answers() -> None:
    """The values that a sandboxed kernel sends are right for the right answers and for no other."""
    for number in range(max(map(len, ANSWERS.values()))):
        chosen = {name: cells[number] for name, cells in ANSWERS.items() if number < len(cells)}
        cells = tuple(SourceCell(name, cell, answers=name) for name, (cell, _) in chosen.items())
        exercises = {name: known_exercises()[name] for name in chosen}
        inputs = {name: exercise.inputs_to_try(1) for name, exercise in exercises.items()}
        run = run_notebook(Job(cells, inputs, LIMITS, {}, (), False))
        for name, (cell, right) in chosen.items():
            solution = _answer(name, SOLUTIONS[name])
            pairs = zip(run.answers[name], inputs[name] or [], strict=True)
            same = [not one.error and exercises[name].same(one.value, solution(*given)) for one, given in pairs]
            assert all(same) is right, cell
