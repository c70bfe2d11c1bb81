"""The number of threads for the next step: a controller that adapts to the machine.

Every node of llama.cpp's graph ends at a barrier where all threads wait for the slowest one, and they wait by spinning. When
another program takes one of their cores, a barrier can last a whole time slice of the scheduler, and a token takes ten or a
hundred times longer than with one thread fewer. The controller sees this in the time of a step, uses fewer threads at once,
and returns when cores are free again.

Nothing here measures or computes: the seconds of a step go in, a number of threads comes out. So the same code runs on
simulated machines (``tests/test_thread_control.py``) and on real ones (`labkit.engine.stepping`).

Notes
-----
A step is one ``llama_decode``: one token (decode), one token of each sequence (batch), or a piece of a prompt (prefill).

1. A step that needs `SLOW` times the usual: fewer threads, from the next step on. With `Phase.limit_s` the caller can end
   such a step early and compute it again.
2. A trial computes one to four steps with another count, and is kept if they are at least 5 % faster. More threads are tried
   soon after cores become free, fewer when steps get slower or cores are missing, and both now and then. A count that was
   slower than the current one is now has to wait.
3. Each failed trial of a count doubles the time until its next one, and trials that fail use at most `TRIAL_SHARE` of all
   steps.
4. A step with all threads that takes as long as usual is only counted (`Phase.pass_over`): nothing is to be decided, and
   Python code that runs once in ten milliseconds is slow. Other programs are looked for every 0.15 s.
5. Steps of `_SLOW_STEP_S` and more, such as pieces of a prompt, are too long to follow programs that come and go. For these,
   the time of a step with all of its cores, the time without one of them, and the mean number of free cores give the time to
   expect of each count (`Phase.outlook`).
"""

from __future__ import annotations

import math

from labkit.system.load import whole_cores

SLOW = 3.0  # times the usual step: other programs, not noise
SLOW_FLOOR_S = 0.015  # and at least this much longer: a few time slices of Linux
WORSE = 1.25  # times the usual step: reason enough to try fewer threads
GAIN = 0.95  # a trial has to need less than this share of the current step
LOST = 1.5  # times the current step: the trial has failed
TRIAL_SHARE = 0.02
_MAX_CREDIT = 4.0  # trial steps that can be saved up
_RESERVE = 2.0  # trial steps kept for when there is a reason
_PATIENCE = 64.0  # steps before a count is tried again; doubles with each failure
_FIRST = 8.0  # steps before the first trial of a count
_MAX_PATIENCE = 8192.0
_PROMPTED = 16.0  # with a reason to try, a step counts this many times: 4 steps instead of 64
_AGAINST = 1 / 16  # with a reason not to
_SETTLED, _PAID = 16, 4  # steps with a count after which it was not a mistake: at all, and if cores were lost since then
_SHORT_S, _LONG_S = 0.002, 0.1  # steps that are tried four at a time, and one at a time
_STEP_S, _MOST = 0.03, 8.0  # a longer step counts as several, up to this many: what other programs do has its own pace
_BURST_S = 0.6  # a long step waits for a burst of another program rather than lose what it has computed
_SLOW_STEP_S = 0.15  # as long as other programs may compute or pause
_PASS_S = 0.15  # for this long, steps that are as usual are only counted
_SURE = 0.8  # times the time to expect of such a step: reason enough to change the count
_MEMORY_S, _MOST_WEIGHT = 2.0, 0.25  # the mean number of free cores: its time, and the most that one step changes it
_WORTH = 0.4  # of a core more: perhaps worth a thread, if another program needs it only now and then


class Phase:
    """Steps of one kind: their usual seconds per unit of work (a token, a step of a batch) with each number of threads.

    Parameters
    ----------
    n_max : int
        Most threads.
    n_threads : int
        Threads to begin with.
    first_s : float
        Seconds per unit that even a slow machine would not need: the limit of a step while nothing is known.
    """

    def __init__(self, n_max: int, n_threads: int, first_s: float = math.inf) -> None:
        self.n_max, self.n_threads, self.first_s = n_max, n_threads, first_s
        self.usual = [0.0] * (n_max + 1)  # seconds per unit with each count; 0 is unknown
        self.n_steps = self.n_failed_steps = 0
        self._alone = [0.0] * (n_max + 1)  # the same, where no core was missing
        self._short = [0.0] * (n_max + 1)  # and while one was
        self._mean_free: float | None = None  # cores, over some seconds
        self._recent = 0.0  # seconds per unit lately, with the current count
        self._step_s = 0.0  # seconds of the last step
        self._n_passed, self._passed_s = 0, 0.0  # steps that were only counted since then
        self._since_change = 0
        self._patience = [_PATIENCE] * (n_max + 1)
        self._left = [_FIRST] * (n_max + 1)
        self._credit = _MAX_CREDIT
        self._tested: set[int] = set()
        self._is_prompted = False
        self._trial = 0  # the count that is being tried
        self._tried: list[float] = []
        self.lowered_from = 0  # the count before other programs needed the cores; 0 when it is back

    def choose(self) -> int:
        """Return the threads for the next step."""
        return self._trial or self.n_threads

    def is_short_of_cores(self, free: float | None) -> bool:
        """Return whether other programs have a core that the current threads need."""
        return free is not None and whole_cores(free) < self.n_threads

    def limit_s(self, units: float) -> float:
        """Return the seconds after which a step is better ended and computed again with fewer threads; may be infinite."""
        n = self.choose()
        if n == 1:
            return math.inf
        if self._trial:
            return LOST * self._recent * units + SLOW_FLOOR_S / 5
        return self._slow_s(n, units)

    def _slow_s(self, n: int, units: float) -> float:
        usual = (self.usual[n] or self._at_most(n)) * units
        floor_s = SLOW_FLOOR_S if usual < _LONG_S else _BURST_S
        return max(SLOW * usual, usual + floor_s) if usual else self.first_s * units

    def _at_most(self, n: int) -> float:
        """Return the usual seconds per unit of a count that was not used yet, judged by the other counts; 0 is unknown."""
        return min((usual * max(1.0, k / n) for k, usual in enumerate(self.usual) if usual), default=0.0)

    def pass_over(self, units: float, seconds: float) -> bool:
        """Return whether the chosen step needs no decision, and is only counted; if not, it is one to `record`."""
        if (
            self._trial
            or self._mean_free is None
            or self.n_threads < self.n_max
            or seconds > WORSE * self.usual[self.n_threads] * units
            or self._passed_s + seconds > _PASS_S
            or self._since_change < _SETTLED
        ):
            return False
        self._n_passed += 1
        self._passed_s += seconds
        return True

    def record(self, units: float, seconds: float, *, free: float | None = None, ended: bool = False) -> int:
        """Record the seconds of the chosen step, and its work in units; return the change of the number of threads.

        ``free`` are the cores that are idle or used by this process, if known; ``ended``: the step was ended at its limit.
        The change is less than 0 after contention, and more after a successful trial.
        """
        n_steps = 1 + self._n_passed
        self.n_steps += n_steps
        self._credit = min(self._credit + TRIAL_SHARE * n_steps, _MAX_CREDIT)
        before = self.n_threads
        self._step_s, unit_s = seconds, seconds / units
        if free is not None:
            self._observe(unit_s, free)
        if self._trial:
            self._judge(unit_s, ended)
        elif before > 1 and (ended or seconds > self._slow_s(before, units)):
            self._drop(free)
        else:
            self._note(unit_s)
            self._consider(free)
        self._n_passed, self._passed_s = 0, 0.0
        return self.n_threads - before

    def move(self, n_threads: int, *, because_of_others: bool = False) -> None:
        """Continue with another number of threads."""
        if because_of_others:
            self.lowered_from = max(self.lowered_from, self.n_threads)
        elif n_threads >= self.lowered_from:
            self.lowered_from = 0
        self.n_threads, self._trial = n_threads, 0
        self._recent, self._since_change = 0.0, 0
        self._n_passed, self._passed_s = 0, 0.0

    def expect(self, n_threads: int) -> None:
        """Try a number of threads at the next opportunity."""
        self._left[n_threads] = 0.0

    def _observe(self, unit_s: float, free: float) -> None:
        """Update the mean number of free cores, and the times with and without all of the cores."""
        n = self.choose()
        if free < n:  # from a program that needs one of n cores, n threads take 1 / (n + 1) of it
            free = n - (n - free) * (n + 1) / n
        missing = min(max(n - free, 0.0), 1.0)
        alone, short = self._alone[n], self._short[n]
        if missing < 0.1:
            self._alone[n] += (unit_s - alone) * (1.0 if not alone else 1 / 2 if unit_s < alone else 1 / 16)
        elif alone and missing > 0.25:
            done = 1 / unit_s - (1 - missing) / alone  # units per second in the time with a core missing, times its share
            short_s = min(max(alone, missing / done if done > 0 else math.inf), 2 * SLOW * alone)
            self._short[n] += (short_s - short) * (missing / 2 if short else 1.0)
        self.expect_free(free, min(_MOST_WEIGHT, (self._step_s + self._passed_s) / _MEMORY_S))

    def expect_free(self, free: float, weight: float = 1 / 3) -> None:
        """Update the mean number of free cores."""
        self._mean_free = free if self._mean_free is None else self._mean_free + (free - self._mean_free) * weight

    def outlook(self, m: int) -> float:
        """Return the time to expect of slow steps with ``m`` threads, over that with the current count; 0 is unknown."""
        now, then = self._expected_s(self.n_threads), self._expected_s(m)
        return then / now if now and self._step_s >= _SLOW_STEP_S else 0.0

    def weigh(self, m: int) -> float:
        """Change to ``m`` threads if they are to be expected much faster for slow steps; return the outlook that decided."""
        outlook = self.outlook(m)
        if 0 < outlook < _SURE:
            self.move(m, because_of_others=m < self.n_threads)
        return outlook

    def _expected_s(self, n: int) -> float:
        """Return the seconds per unit of a count while as many cores are free as on average; 0 is unknown."""
        missing = 0.0 if self._mean_free is None else min(max(n - self._mean_free, 0.0), 1.0)
        alone, short = self._alone[n], self._short[n]
        if not alone or (missing and not short):
            return 0.0
        return 1 / ((1 - missing) / alone + (missing / short if missing else 0.0))

    def _note(self, unit_s: float) -> None:
        n = self.n_threads
        self._since_change += 1 + self._n_passed
        self._recent = unit_s if not self._recent else self._recent + (unit_s - self._recent) / 4
        usual = self.usual[n]
        self.usual[n] = self._recent if not usual or self._recent < usual else usual + (self._recent - usual) / 128
        if self._since_change == _SETTLED:
            self._patience[n] = self._left[n] = _PATIENCE

    def _drop(self, free: float | None) -> None:
        n = self.n_threads
        if self._since_change < (_PAID if self.is_short_of_cores(free) else _SETTLED):  # it was a mistake to come here
            self._fail(n)
        else:
            self._patience[n] = max(_PATIENCE, self._patience[n] / 2)
            self._left[n] = self._patience[n]
        fewer = _fewer(n, free) if free is not None else n - 1 if n <= 4 else n * 3 // 4
        self.move(fewer, because_of_others=True)

    def _consider(self, free: float | None) -> None:
        """Begin a trial if one is due."""
        length = min(max(1.0, self._step_s / _STEP_S), _MOST)
        for m, pace in self._candidates(free).items():
            outlook = self.weigh(m)
            if self.n_threads == m:
                return
            if outlook > 1:
                continue
            pace = min(pace, 1.0) if outlook else pace
            counted = length if pace == _PROMPTED or (pace == 1.0 and m > self.n_threads) else 1.0
            self._left[m] -= pace * counted + min(pace, 1.0) * self._n_passed
            needed = self._trial_steps() + (0 if pace == _PROMPTED or m not in self._tested else _RESERVE)
            if self._left[m] <= 0 and self._credit >= needed and (self._since_change > 2 or self._step_s > _LONG_S):
                self._tested.add(m)
                self._is_prompted = pace == _PROMPTED
                self._trial, self._tried = m, []
                return

    def _candidates(self, free: float | None) -> dict[int, float]:
        """Return the counts worth a trial, and how fast the wait for each counts down."""
        n = self.n_threads
        slower = self._recent > WORSE * self.usual[n]
        pace = {m: _PROMPTED if slower else 1.0 for m in (n - 1, n * 3 // 4, n // 2) if m >= 1}
        if free is not None and self.is_short_of_cores(free):
            pace[_fewer(n, free)] = _PROMPTED
        pace.update({m: 1.0 for m in pace if self._recent < self.usual[m]})  # it would not be faster
        if n < self.n_max:
            was_faster = 0 < self.usual[n + 1] < GAIN * self._recent
            is_free = free is not None and free >= n + _WORTH
            pace[n + 1] = _PROMPTED if is_free and was_faster else 1.0 if is_free or free is None else _AGAINST
        if free is not None and n < min(self.n_max, whole_cores(free)):
            pace[min(self.n_max, whole_cores(free))] = _PROMPTED
        return pace

    def _trial_steps(self) -> int:
        return 4 if self._step_s < _SHORT_S else 2 if self._step_s < _LONG_S else 1

    def _judge(self, unit_s: float, ended: bool) -> None:
        """Keep the tried count, drop it, or continue the trial."""
        n, m = self.n_threads, self._trial
        self._tried.append(unit_s)
        mean = sum(self._tried) / len(self._tried)
        wanted = self._trial_steps()
        if ended or mean > self._recent or (len(self._tried) >= wanted and mean > GAIN * self._recent):
            self.n_failed_steps += len(self._tried)
            self._credit -= len(self._tried)
            if m < n:
                self.usual[n] = self._recent  # the slower time is usual now: a longer context, a slower clock
            self._fail(m)
            self._trial = 0
        elif len(self._tried) >= wanted:
            self._left[n] = self._patience[n]
            self.move(m, because_of_others=m < n and self._is_prompted)
            self._recent = mean
            self.usual[m] = min(self.usual[m] or mean, mean)

    def _fail(self, m: int) -> None:
        self._patience[m] = min(2 * self._patience[m], _MAX_PATIENCE)
        self._left[m] = self._patience[m]


class ThreadController:
    """The threads of one model: decode, prefill and batches of sequences, which share the cores that are free.

    Parameters
    ----------
    n_max, n_max_batch : int
        Most threads for decode, and for prefill and batches.
    first_s : float
        Seconds per token that even a slow machine would not need to decode.
    """

    def __init__(self, n_max: int, n_max_batch: int, first_s: float = math.inf) -> None:
        self.decode = Phase(n_max, n_max, first_s)
        self.prefill, self.batch = Phase(n_max_batch, n_max_batch), Phase(n_max_batch, n_max_batch)
        self._phases = self.decode, self.prefill, self.batch

    def begin(self, free: float | None, fewest: int | None = None) -> None:
        """Start a generation: use what is known about the machine since the last one.

        ``free`` are the cores that were idle or used by this process recently; ``fewest`` the threads that another model of
        this process has just settled on because of other programs.
        """
        for phase in self._phases:
            n = phase.n_threads
            if free is not None:
                phase.expect_free(free)
                if phase.weigh(min(phase.n_max, whole_cores(free))):
                    continue
            if free is not None and phase.is_short_of_cores(free):
                phase.move(whole_cores(free), because_of_others=True)
            elif free is None and fewest is not None and fewest < n:
                phase.move(fewest, because_of_others=True)
            elif free is not None and n < min(phase.n_max, whole_cores(free)):
                if n < phase.lowered_from:
                    phase.move(min(phase.lowered_from, whole_cores(free)))
                else:
                    phase.expect(min(phase.n_max, whole_cores(free)))

    def record(self, phase: Phase, units: float, seconds: float, *, free: float | None = None, ended: bool = False) -> None:
        """Take the time of a step, as `Phase.record`, and tell the other phases about contention and its end."""
        change = phase.record(units, seconds, free=free, ended=ended)
        for other in self._phases if change else ():
            if other is not phase:
                _follow(other, phase.n_threads, change)


def _follow(other: Phase, n: int, change: int) -> None:
    """Reduce a phase's threads because another one had to, or restore them, unless it knows better."""
    if other.outlook(n):
        return
    if change < 0 and other.n_threads > n:
        other.move(n, because_of_others=True)
    elif change > 0 and other.n_threads < min(n, other.lowered_from):
        other.move(min(n, other.lowered_from))


def _fewer(n: int, free: float) -> int:
    """Return the threads to reduce ``n`` to: for each missing core, other programs need one more."""
    return min(n - 1, whole_cores(2 * free - n))
