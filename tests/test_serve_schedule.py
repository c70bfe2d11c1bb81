"""The predicted schedule of a server: what must hold for any users, and that the server computes in the same steps."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit.errors import ArgumentError
from labkit.plots import plot_schedule
from labkit.serve.load import measure_cost, measure_users
from labkit.serve.schedule import PROMPT_STEP, Served, StepCost, User, first_token_s, plan, tokens_per_second
from labkit.widgets.serving import TYPICAL, ServingExplorer, users_of
from tests.tiny_models import write_tiny_model

STEPS = StepCost(1.0, 0.0, 0.0)  # times are numbers of steps
users = st.builds(User, st.floats(0, 5), st.integers(1, 300), st.integers(1, 40))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labkit.Model]:
    """Load a model that never ends a text by itself."""
    path: Path = write_tiny_model(tmp_path_factory.mktemp("schedule") / "tiny.gguf", endless=True)
    with labkit.load_model(path, n_ctx=1024, n_threads=1) as loaded:
        yield loaded


@settings(max_examples=100)
@given(st.lists(users, min_size=1, max_size=12), st.integers(1, 5), st.booleans())
def test_every_user_is_served_in_a_possible_schedule(crowd: list[User], n_slots: int, joins: bool) -> None:
    """No one is served before arriving, no slot has two users, and all work is done."""
    served = plan(crowd, n_slots, StepCost(0.01, 0.001, 0.002), joins=joins)
    for user, one in zip(crowd, served, strict=True):
        assert user.arrives_s == one.arrived_s <= one.started_s < one.first_s <= one.ended_s
        work_s = 0.01 * (user.n_answer - 1) + 0.002 * (user.n_answer - 1)
        assert one.ended_s - one.first_s >= work_s - 1e-9
        assert one.first_s - one.started_s >= 0.01 + 0.001 * user.n_prompt - 1e-9
        running = [o for o in served if o.started_s <= one.started_s < o.ended_s]
        assert len(running) <= n_slots


def test_joining_is_never_later_than_waiting_for_a_group() -> None:
    """Equal users gain nothing from joining; with short and long answers, the short ones' successors start earlier."""
    mixed = [User(0.0, 10, n) for n in (40, 5, 40, 5, 40, 5)]
    joined, grouped = plan(mixed, 2, STEPS), plan(mixed, 2, STEPS, joins=False)
    assert [one.ended_s for one in grouped] == [40, 5, 80, 45, 120, 85]
    assert [one.ended_s for one in joined] == [40, 5, 45, 45, 85, 50]
    assert tokens_per_second(joined) > tokens_per_second(grouped)


def test_prompts_share_the_tokens_of_a_step() -> None:
    """Three prompts of 100 tokens at 128 per step: their first tokens come after 1, 2 and 3 steps."""
    served = plan([User(0.0, 100, 2)] * 3, 3, STEPS, prompt_step=128)
    assert [one.first_s for one in served] == [1, 2, 3]
    assert first_token_s(served, 0.5) == 2
    with pytest.raises(ArgumentError, match="at least 1"):
        plan([], 0, STEPS)


def test_the_server_computes_in_the_planned_steps(tiny: labkit.Model) -> None:
    """Seven requests that wait together are computed in exactly the number of steps that `plan` says."""
    crowd = [User(0.0, 90, n_answer) for n_answer in (6, 11, 17, 7, 12, 18, 6)]  # no two end in the same step
    prompts = [[5 + (7 * number + position) % 40 for position in range(90)] for number in range(7)]
    assert tiny.prompt_step <= PROMPT_STEP
    release = threading.Event()
    with labkit.serve_model(tiny, n_parallel=3, cache_mib=0) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        blocked = pool.submit(tiny.compute, lambda _: release.wait(30))
        scheduler = server._app.scheduler
        assert scheduler is not None

        def ask(number: int) -> int:
            body = {"prompt": prompts[number], "max_tokens": crowd[number].n_answer}
            return int(post(server.url, body)["usage"]["completion_tokens"])

        asked = []
        for number in range(7):  # in order
            asked.append(pool.submit(ask, number))
            wait_for(lambda n=number: len(scheduler._incoming) + len(scheduler.waiting) + scheduler.n_running > n)
        release.set()
        assert [one.result(60) for one in asked] == [user.n_answer for user in crowd]
        assert blocked.result()
        assert scheduler.n_decodes == max(one.ended_s for one in plan(crowd, 3, STEPS))


def post(url: str, body: dict[str, object]) -> dict[str, dict[str, int]]:
    import json
    import urllib.request

    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, dict[str, int]] = json.load(answer)
    return found


def wait_for(condition: object) -> None:
    ends_s = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def test_a_step_is_fitted_from_one_user_and_several() -> None:
    """From exact times, the fit returns the cost that they were made with; noise never makes a time negative."""
    cost = StepCost(0.01, 0.003, 0.002)
    (alone,) = plan([User(0.0, 256, 11)], 1, cost)
    assert StepCost.fit(alone, 256, plan([User(0.0, 8, 11)] * 4, 4, cost)) == cost
    slow = Served(0.0, 0.0, 0.001, 1.001, 11)
    fitted = StepCost.fit(slow, 256, plan([User(0.0, 8, 11)] * 4, 4, cost))
    assert min(fitted.step_s, fitted.prompt_s, fitted.answer_s) >= 0


def test_users_are_measured(tiny: labkit.Model) -> None:
    """Each gets the requested tokens, in the order of the times, not before it arrives; a step's cost is positive."""
    with labkit.serve_model(tiny, n_parallel=2, n_ctx=1024) as server:
        cost = measure_cost(server.url, 2, n_prompt=16, n_answer=8)
        served = measure_users(server.url, [User(0.0, 4, 9), User(0.2, 4, 5), User(0.0, 4, 7)])
    assert cost.step_s + cost.answer_s > 0
    assert [one.n_tokens for one in served] == [9, 5, 7]
    assert served[1].arrived_s >= 0.2
    for one in served:
        assert one.arrived_s <= one.started_s <= one.first_s <= one.ended_s


def test_the_picture_has_a_bar_per_user_and_says_what_it_shows() -> None:
    """Panels share the time axis; hatches and lines distinguish the parts without colour; the text has every user."""
    served = plan([User(0.0, 100, 20)] * 3, 2, TYPICAL)
    figure = plot_schedule({"one slot": plan([User(0.0, 100, 20)] * 3, 1, TYPICAL), "two slots": served})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one slot", "two slots"]
    for axes in figure.axes:
        assert len(axes.patches) == 9
        assert len({patch.get_hatch() for patch in axes.patches}) == 3
    assert figure.axes[1].get_xlabel() == "time (s)"
    assert figure.axes[1].get_xlim()[1] > max(patch.get_x() + patch.get_width() for patch in figure.axes[0].patches)
    text = str(figure.get_label())
    assert "one slot: user 1 waits 0.00 s, first token after 0.31 s" in text
    assert text.count("user 3 waits") == 2
    assert len(figure.legends[0].get_texts()) == 4


def test_the_explorer_predicts_at_once() -> None:
    """Sliders change the prediction, without a model."""
    made = ServingExplorer()
    assert "typical times of two cores" in made.view.sentence
    assert made.view.sentence.startswith("Predicted: ")
    assert made.predict(made.values) == plan(users_of(made.values), 4, TYPICAL)
    before = made.view.sentence
    made.controls["slots"].value = 1
    assert made.wait()
    assert made.view.sentence != before
    assert [table.title for table in made.view.tables] == ["Users, predicted"]
    made.close()


@pytest.mark.thorough
def test_the_explorer_measures() -> None:
    """Measure replaces the typical times by this machine's, and shows the real users."""
    made = ServingExplorer()
    for name, value in {"users": 3, "n_prompt": 16, "n_answer": 8, "slots": 2}.items():
        made.controls[name].value = value
    assert made.wait()
    made.measure()
    assert made.wait(120)
    assert made.message == "done"
    assert "Measured: " in made.view.sentence
    assert "this machine's times" in made.view.sentence
    assert [len(table.rows) for table in made.view.tables] == [3, 3]
    made.controls["starts"].value = "when all slots are free (groups)"
    assert made.wait()
    assert len(made.view.tables) == 1  # a server does not do that, so there is nothing to compare with
    made.close()
