"""Serving explorer: the schedule of several users on some slots, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from labkit.engine import Model
from labkit.plots import plot_schedule
from labkit.serve import serve_model
from labkit.serve.load import measure_cost, measure_users
from labkit.serve.schedule import Served, StepCost, User, first_token_s, plan, tokens_per_second
from labkit.tables import Table
from labkit.widgets.explorer import Values
from labkit.widgets.model_explorer import ModelExplorer
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.controls import button, dropdown, slider
from labkit.widgets.parts.view import View

TYPICAL = StepCost(step_s=0.010, prompt_s=0.003, answer_s=0.003)  # of the bundled model on two cores
_JOINS = "at the next step (continuous)"


def users_of(values: Values) -> list[User]:
    """Return the users: each arrives some time after the one before; every second one wants a quarter of the answer.

    >>> [(user.arrives_s, user.n_answer) for user in users_of({"users": 3, "gap": 0.5, "n_prompt": 64, "n_answer": 32})]
    [(0.0, 32), (0.5, 8), (1.0, 32)]
    """
    short = max(1, values["n_answer"] // 4)
    return [
        User(number * values["gap"], values["n_prompt"], short if number % 2 else values["n_answer"])
        for number in range(values["users"])
    ]


def describe(served: Sequence[Served]) -> str:
    """Describe a schedule in one sentence.

    >>> describe([Served(0, 0, 0.5, 1.0, 10), Served(0, 0.5, 1.5, 2.0, 10)])
    '10.0 tokens/s together; first token after 1.00 s in the median, 1.45 s for 95 % of the users.'
    """
    return (
        f"{tokens_per_second(served):.1f} tokens/s together; first token after {first_token_s(served, 0.5):.2f} s in the "
        f"median, {first_token_s(served, 0.95):.2f} s for 95 % of the users."
    )


class ServingExplorer(ModelExplorer):
    """Users, prompts and slots: when each user waits, is read and gets tokens, predicted and measured."""

    title: ClassVar[str] = "Serving explorer"

    def __init__(self, model: Model | Path | str | None = None) -> None:
        self.use_model(model, n_ctx=1024)
        self._measured: tuple[Values, list[Served]] | None = None
        self.cost = TYPICAL
        super().__init__(
            {
                "users": slider("Users", 6, 1, 16, 1),
                "gap": slider("Seconds between arrivals", 0.0, 0.0, 1.0, 0.05),
                "n_prompt": slider("Prompt (tokens)", 96, 16, 512, 16),
                "n_answer": slider("Longest answer (tokens)", 32, 4, 128, 4),
                "slots": slider("Slots", 4, 1, 16, 1),
                "starts": dropdown("A waiting user starts", [_JOINS, "when all slots are free (groups)"], _JOINS),
            },
            actions=[button("Measure with this many slots", self.measure), button("Stop", self.stop)],
        )

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the predicted schedule, and below it the measured one, if these values were measured."""
        schedules = {"predicted": self.predict(values)}
        if self._measured is not None and self._measured[0] == values:
            schedules["measured"] = self._measured[1]
        times = "typical times of two cores" if self.cost is TYPICAL else "this machine's times"
        sentence = " ".join(f"{name.capitalize()}: {describe(served)}" for name, served in schedules.items())
        cost = self.cost
        step = f"A step takes {1e3 * cost.step_s:.1f} ms, and {1e3 * cost.prompt_s:.1f} ms per token of a prompt, "
        sentence += f" {step}{1e3 * cost.answer_s:.1f} ms per token of an answer ({times})."
        picture = plot_schedule(schedules)
        return View(sentence, picture, [_table(name, served) for name, served in schedules.items()])

    def predict(self, values: Values) -> list[Served]:
        """Return the predicted schedule."""
        return plan(users_of(values), values["slots"], self.cost, joins=values["starts"] == _JOINS)

    def measure(self) -> None:
        """Serve the model with this many slots, measure a step's times and then these users, in the background."""
        values = self.values
        self.start(lambda ticket: self._measure(values, ticket))

    def _measure(self, values: Values, ticket: Ticket) -> None:
        self.report("loading the model", 0, 3)
        model = self.model()
        n_ctx = max(512, values["n_prompt"] + values["n_answer"] + 64)
        with serve_model(model, n_parallel=values["slots"], n_ctx=n_ctx, cache_mib=0) as server:
            ticket.on_cancel(lambda: server.stop(0.0))
            self.report("measuring the time of a step", 1, 3)
            self.cost = measure_cost(server.url, values["slots"])
            self.show(self.compute(values, ticket))
            self.report("serving the users", 2, 3)
            found = measure_users(server.url, users_of(values))
        self._measured = ({**values, "starts": _JOINS}, found)
        if not ticket.cancelled:
            self.show(self.compute(self.values, ticket))
            self.report("done", 3, 3)


def _table(name: str, served: Sequence[Served]) -> Table:
    rows = [
        (
            str(number),
            f"{one.started_s - one.arrived_s:.2f}",
            f"{one.first_token_s:.2f}",
            f"{one.total_s:.2f}",
            str(one.n_tokens),
        )
        for number, one in enumerate(served, start=1)
    ]
    return Table(f"Users, {name}", ("user", "waits (s)", "first token (s)", "in the server (s)", "tokens"), rows)
