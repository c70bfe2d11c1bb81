"""The watchdog ends a step, and only the step that it watches."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator

import pytest

from labkit.engine.native import AbortFlag
from labkit.engine.stepping import LOOK_S, Watchdog, held_up
from labkit.thread_control import Phase


def _is_set(flag: AbortFlag) -> bool:
    return flag._buffer[0] == b"\x01"


def test_watchdog_ends_a_step_at_its_limit() -> None:
    """The flag is set after the limit, and cleared when the step is over."""
    flag = AbortFlag()
    watchdog = Watchdog(flag)
    watchdog.arm(0.01)
    while not _is_set(flag):
        time.sleep(0.001)
    assert watchdog.disarm()
    assert not _is_set(flag)
    watchdog.arm(600)
    assert not watchdog.disarm()
    watchdog.stop()


def test_watchdog_that_looks_when_the_step_ends_leaves_no_flag() -> None:
    """A step that ends while the machine is looked at takes the flag with it: the next step is not ended."""
    flag, looking, go_on = AbortFlag(), threading.Event(), threading.Event()

    def is_held_up() -> bool:
        looking.set()
        return go_on.wait(60)

    watchdog = Watchdog(flag)
    watchdog.arm(600, is_held_up)
    assert looking.wait(60)
    threading.Timer(0.05, go_on.set).start()
    watchdog.disarm()
    watchdog.stop()
    assert go_on.is_set()
    assert not _is_set(flag)


def test_long_step_is_ended_by_a_program_that_stays_and_not_by_bursts() -> None:
    """Cores may be missing for 0.4 s while nothing is known, for twice the step's usual time, and for 1.5 s at most."""
    phase = Phase(2, 2)

    def seconds_until_held_up(limit_s: float, free: Iterator[float]) -> float:
        is_held_up = held_up(phase, limit_s, lambda: next(free))
        return next(n * LOOK_S for n in itertools.count(1) if n * LOOK_S > 60 or is_held_up())

    assert seconds_until_held_up(math.inf, itertools.repeat(1.0)) == pytest.approx(0.4)
    assert seconds_until_held_up(3 * 0.5, itertools.repeat(1.0)) == pytest.approx(1.0)
    assert seconds_until_held_up(3 * 20, itertools.repeat(1.0)) == pytest.approx(1.6)
    assert seconds_until_held_up(3 * 0.5, itertools.cycle([2.0, 1.5, 1.0, 1.0, 1.5])) > 60
