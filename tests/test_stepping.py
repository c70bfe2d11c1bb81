"""The watchdog ends a step, and only the step that it watches."""

from __future__ import annotations

import threading
import time

from labkit.engine.native import AbortFlag
from labkit.engine.stepping import Watchdog


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
