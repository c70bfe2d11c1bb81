"""One thread per model: calls wait for one another, and nothing hangs after an interrupt, a close or a fork."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

import labkit
from labkit import generate_text, load_model, stream_text
from labkit.engine import model as model_room
from labkit.engine import worker as room
from labkit.engine.job import Job, LockstepJob, start_thread
from labkit.engine.native import EngineLog
from labkit.engine.worker import Worker
from labkit.errors import ArgumentTypeError, GenerationError, LabkitError, ModelClosedError, ModelLoadError
from tests.tiny_models import write_tiny_model

ENDLESS: dict[str, Any] = {"max_tokens": None, "temperature": 1.0, "stop": ["\0never"]}
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="a Ctrl-C cannot be sent to one process alone on Windows")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model that never ends a text by itself."""
    return write_tiny_model(tmp_path_factory.mktemp("worker") / "tiny.gguf", endless=True)


@pytest.fixture
def model(tiny: Path) -> Iterator[labkit.Model]:
    with load_model(tiny, n_ctx=4096, n_threads=1) as loaded:
        yield loaded


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(EngineLog(echo=False))
    yield made
    made.stop(lambda: None)


def _assert_interrupted(call: Callable[[], object], seconds: float) -> None:
    """Repeat a call until the first real Ctrl-C ends it; one that is lost is sent again, but fails the test."""
    sent: list[int] = []
    over = threading.Event()

    def send() -> None:
        over.wait(seconds)
        while not over.is_set():
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(30.0)  # far longer than on any busy machine

    sender = threading.Thread(target=send)
    try:
        sender.start()
        while True:
            call()
    except KeyboardInterrupt:
        over.set()
    sender.join()
    assert len(sent) == 1


# -- the worker alone -------------------------------------------------------------------------------------------------


def test_call_runs_in_the_worker_s_thread_and_returns(worker: Worker) -> None:
    """Results and errors come back to the caller; a call from inside runs at once."""
    assert worker.call(threading.get_ident) != threading.get_ident()
    assert worker.call(lambda: worker.call(lambda: worker.is_here))
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    assert worker.call(max, 3, 4, key=abs) == 4


def test_jobs_run_one_after_the_other(worker: Worker) -> None:
    """Two calls never overlap, for any number of callers."""
    inside, most = [], []

    def work() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()

    threads = [threading.Thread(target=lambda: [worker.call(work) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(most) == 80


def test_a_job_that_was_cancelled_before_it_began_is_skipped(worker: Worker) -> None:
    """A caller can leave the queue at once, and its job never runs."""
    gate, ran = threading.Event(), []
    first = threading.Thread(target=worker.call, args=(gate.wait,))
    first.start()
    while not worker.is_busy:
        time.sleep(0.001)
    job: Job[None] = Job(lambda _: ran.append(1))
    waiter = threading.Thread(target=worker.run, args=(job,))
    waiter.start()
    time.sleep(0.05)
    assert worker.cancel(job)
    gate.set()
    first.join()
    waiter.join()
    assert ran == []


def test_cancel_returns_whether_a_job_was_running(worker: Worker) -> None:
    """Idle: False. The flag that llama.cpp polls is clear again afterwards."""
    assert not worker.cancel()
    job: Job[bool] = Job(lambda job: (worker.cancel(), worker.flag._buffer[0] == b"\x01")[1])
    assert worker.run(job) is True
    assert worker.call(lambda: worker.flag._buffer[0]) == b"\x00"
    assert not worker.cancel(job)


def test_lockstep_makes_an_item_only_when_asked(worker: Worker) -> None:
    """One of Llama's generators does not run ahead of its reader."""
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = worker.iterate(LockstepJob(numbers))
    assert [next(items), next(items)] == [0, 1]
    time.sleep(0.05)
    assert made == [0, 1]
    items.close()  # type: ignore[attr-defined]  # a generator
    assert worker.call(lambda: made) == [0, 1]


def test_stop_ends_the_thread_and_refuses_what_comes_later(worker: Worker) -> None:
    """After stop() a call is refused; stop() from inside leaves the end to the thread."""
    other = Worker(EngineLog(echo=False))
    thread = other._thread
    ended: list[str] = []
    other.call(lambda: other.stop(lambda: ended.append("last")))
    thread.join(5)
    assert not thread.is_alive()
    assert ended == ["last"]
    with pytest.raises(ModelClosedError):
        other.call(lambda: None)


def test_a_computation_that_cannot_be_ended_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if C neither returns nor polls, an interrupt and close() succeed after a while."""
    monkeypatch.setattr(room, "PATIENCE_S", 0.3)
    stuck = Worker(EngineLog(echo=False))
    gate = threading.Event()
    runner = threading.Thread(target=stuck.call, args=(gate.wait,))
    runner.start()
    while not stuck.is_busy:
        time.sleep(0.001)
    late = threading.Timer(60, gate.set)
    late.start()
    stuck.stop(lambda: None)
    assert not gate.is_set()
    late.cancel()
    gate.set()
    runner.join()
    stuck._thread.join(5)


def test_threads_have_room_for_deep_recursion() -> None:
    """llama.cpp's thread has a large stack, and other threads' stacks are unchanged."""
    before = threading.stack_size()
    depths: list[int] = []
    depth = 8_000 if sys.version_info < (3, 12) else 2_000  # 3.12 limits calls through C; both are too deep for 8 MiB

    def dive() -> None:
        sys.setrecursionlimit(60_000)

        def down(n: int) -> int:
            return 0 if n == 0 else 1 + sorted([n], key=lambda n: down(n - 1))[0] * 0 + 1

        down(depth)
        depths.append(depth)

    limit = sys.getrecursionlimit()
    try:
        start_thread(dive, "diver").join()
    finally:
        sys.setrecursionlimit(limit)
    assert depths == [depth]
    assert threading.stack_size() == before


# -- streams ----------------------------------------------------------------------------------------------------------


def test_two_threads_may_read_one_stream(model: labkit.Model) -> None:
    """Each chunk goes to one of them, and none is lost."""
    whole = generate_text(model, "a", 200, temperature=1.0, seed=4)
    stream = stream_text(model, "a", 200, temperature=1.0, seed=4)
    read: list[tuple[int, str]] = []
    lock = threading.Lock()

    def reader() -> None:
        for chunk in stream:
            with lock:
                read.append((chunk.n_generated, chunk.text))

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "".join(text for _, text in sorted(read, key=lambda item: item[0])) == whole


def test_another_thread_may_close_a_stream(model: labkit.Model) -> None:
    """A Stop button's close() ends the generation; its reader gets the text so far and no error."""
    stream = stream_text(model, "a", **ENDLESS)
    chunks = [next(stream)]
    reader = threading.Thread(target=lambda: chunks.extend(stream))
    reader.start()
    time.sleep(0.05)
    stream.close()
    reader.join(60)
    assert not reader.is_alive()
    assert generate_text(model, "a", 3, temperature=0)


def test_a_stream_that_is_never_read_costs_nothing(model: labkit.Model) -> None:
    """Nothing is computed before the first chunk is requested; closing it before that works."""
    stream = stream_text(model, "a", **ENDLESS)
    time.sleep(0.05)
    assert not model._worker.is_busy
    stream.close()
    assert list(stream) == []


def test_closing_a_model_ends_its_streams_with_an_error(model: labkit.Model) -> None:
    """Readers of labkit's and of Llama's streams get an error that the model was closed."""
    streams: list[Any] = [
        stream_text(model, "a", **ENDLESS),
        stream_text(model, "a", 5),
        model.create_completion("a", max_tokens=60, stream=True),
        model.generate([5, 6]),
    ]
    next(streams[0])
    model.close()
    for stream in streams:
        with pytest.raises(ModelClosedError):
            list(stream)


def test_closing_a_model_between_two_items_of_llama_s_stream(model: labkit.Model) -> None:
    """Even if the stream was idle, it ends with an error."""
    stream = model.create_completion("a", max_tokens=60, stream=True)
    next(stream)
    model.close()
    with pytest.raises(ModelClosedError):
        next(stream)


@pytest.mark.parametrize(
    "second",
    [
        lambda model: generate_text(model, "b", 3),
        lambda model: next(stream_text(model, "b", 3)),
        lambda model: next(model.create_completion("b", max_tokens=3, stream=True)),
        lambda model: next(model.generate([7])),
        lambda model: model.eval([5]),
        lambda model: model.reset(),
    ],
)
def test_a_call_inside_llama_s_open_stream_is_an_error(model: labkit.Model, second: Callable[[Any], Any]) -> None:
    """It would wait forever for the stream that its own thread is reading."""
    stream = model.create_completion("a", max_tokens=50, stream=True)
    next(stream)
    with pytest.raises(GenerationError, match="still open in this thread"):
        second(model)
    stream.close()
    assert second(model) is not ...


def test_a_call_inside_labkit_s_open_stream_waits_its_turn(model: labkit.Model) -> None:
    """Labkit's streams run ahead of their readers, so the next call starts when the stream ends."""
    with stream_text(model, "a", 100, temperature=1.0) as stream:
        next(stream)
        assert isinstance(generate_text(model, "b", 3), str)
        assert isinstance(list(stream)[-1].finish_reason, str)


def test_state_that_a_late_stream_left_is_not_reused(model: labkit.Model) -> None:
    """A generator that starts after another call does not leave a wrong cache."""
    prompt = "the and the in " * 300
    expected = generate_text(model, prompt, 8, temperature=0)
    late = model.generate(model.tokenize(b"x y z"))
    assert generate_text(model, prompt, 8, temperature=0) == expected
    next(late)
    late.close()  # type: ignore[attr-defined]  # a generator
    model.reset()
    assert generate_text(model, prompt, 8, temperature=0) == expected


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_closing_a_model_from_its_own_callback(model: labkit.Model) -> None:
    """A stopping criterion that closes the model ends the call in one line; the memory is freed after it."""
    criteria = llama_cpp.StoppingCriteriaList([lambda ids, logits: model.close() or False])
    with pytest.raises(ModelClosedError):
        model.create_completion("a", max_tokens=5, stopping_criteria=criteria)
    assert model.is_closed
    with pytest.raises(ModelClosedError):
        generate_text(model, "a")


def test_using_a_model_from_its_own_callback_is_an_error(model: labkit.Model) -> None:
    """Labkit's calls from inside a computation are refused; the exception comes out of Llama's call."""
    criteria = llama_cpp.StoppingCriteriaList([lambda ids, logits: bool(generate_text(model, "x", 3))])
    with pytest.raises(GenerationError, match="callback"):
        model.create_completion("a", max_tokens=5, stopping_criteria=criteria)
    assert isinstance(generate_text(model, "a", 3), str)


def test_progress_function_that_fails_ends_the_load(tiny: Path) -> None:
    """Its error is the reason, in one line; KeyboardInterrupt is raised unchanged."""

    def fail(error: BaseException) -> Callable[[float], None]:
        def progress(fraction: float) -> None:
            raise error

        return progress

    with pytest.raises(ModelLoadError, match="ValueError: no thanks") as caught:
        load_model(tiny, progress=fail(ValueError("no\nthanks")))
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(KeyboardInterrupt):
        load_model(tiny, progress=fail(KeyboardInterrupt()))
    load_model(tiny).close()


def test_loading_inside_a_progress_function_is_an_error(tiny: Path) -> None:
    """It would wait for itself."""
    with pytest.raises(LabkitError, match="while a model is loading"):
        load_model(tiny, progress=lambda fraction: load_model(tiny).close())
    load_model(tiny).close()


def test_closing_inside_vocabulary_is_an_error(model: labkit.Model) -> None:
    """It would wait for itself; outside, close() works."""
    with model.vocabulary(), pytest.raises(GenerationError, match="leave its with block"):
        model.close()
    with model.vocabulary():
        model.eval([5, 6])  # in the worker's thread, which does not wait for the holder
    model.close()


# -- interrupts -------------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1, 0.3])
def test_ctrl_c_ends_every_kind_of_call(model: labkit.Model, seconds: float) -> None:
    """A real SIGINT to the main thread ends the call, and the model answers as before."""
    right = generate_text(model, "the", 5, temperature=0)
    calls: list[Callable[[], Any]] = [
        lambda: generate_text(model, "a", **ENDLESS),
        lambda: list(stream_text(model, "a", **ENDLESS)),
        lambda: generate_text(model, "the in " * 600, 1, temperature=1.0),
        lambda: labkit.generate_chat(model, [{"role": "user", "content": "a"}], **ENDLESS),
        lambda: labkit.count_chat_tokens(model, [{"role": "user", "content": "the " * 5000}]),
        lambda: model.create_completion("a", max_tokens=4000, temperature=1.0),
        lambda: list(model.create_completion("a", max_tokens=4000, temperature=1.0, stream=True)),
        lambda: model.eval([5] * 1000) or model.reset(),
    ]
    for call in calls:
        _assert_interrupted(call, seconds)
        assert generate_text(model, "the", 5, temperature=0) == right


@posix_only
def test_ctrl_c_while_waiting_for_another_thread_leaves_that_one_alone(model: labkit.Model) -> None:
    """A waiting caller can leave the queue; the running generation continues to its end."""
    texts: list[str] = []
    other = threading.Thread(target=lambda: texts.append(generate_text(model, "a", 3000, temperature=1.0, seed=1)))
    other.start()
    while not model._worker.is_busy:
        time.sleep(0.001)
    _assert_interrupted(lambda: generate_text(model, "b", 3000, temperature=1.0, seed=2), 0.05)
    other.join()
    assert texts == [generate_text(model, "a", 3000, temperature=1.0, seed=1)]


@posix_only
def test_ctrl_c_comes_through_where_llama_cpp_cannot_be_ended() -> None:
    """A grammar with millions of readings of one token: caller, close() and exit are free long before they are read."""
    code = textwrap.dedent("""
        import os, signal, threading, time, labkit
        from labkit.engine import worker
        worker.PATIENCE_S = 0.3
        model = labkit.load_model(n_ctx=256, n_threads=1)  # its vocabulary has long runs of spaces
        sent = []
        threading.Timer(1.5, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
        try:
            labkit.generate_text(model, "a", 3, temperature=0, grammar="root ::= " + '" "? ' * 40 + '"a"')
        except KeyboardInterrupt:
            assert time.monotonic() - sent[0] < 30
        else:
            raise AssertionError("the generation ended")
        started = time.monotonic()
        model.close()
        assert time.monotonic() - started < 30
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


@posix_only
def test_ctrl_c_while_loading_leaves_no_model(tiny: Path) -> None:
    """An interrupted load leaves no partial model; the next load works."""
    for seconds in (0.0, 0.005, 0.02, 0.05):
        _assert_interrupted(lambda: load_model(tiny, n_ctx=256, n_threads=1).close(), seconds)
    with load_model(tiny, n_ctx=256, n_threads=1) as model:
        assert isinstance(generate_text(model, "a", 3), str)


# -- the end of models ------------------------------------------------------------------------------------------------


def test_a_model_without_references_is_freed_at_once(tiny: Path) -> None:
    """Without close(), and without the garbage collector: nothing refers back to a model."""
    gc.disable()
    try:
        model = load_model(tiny, n_ctx=256, n_threads=1)
        generate_text(model, "a", 3)
        thread, reference = model._worker._thread, weakref.ref(model)
        del model
        assert reference() is None
        thread.join(5)
        assert not thread.is_alive()
    finally:
        gc.enable()


def test_models_are_not_copied_or_sent(model: labkit.Model) -> None:
    """copy, deepcopy and pickle raise errors that explain what to do instead."""
    import copy

    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ArgumentTypeError, match="model_path"):
            attempt(model)


ENDINGS = {
    "stream left open": "s = stream_text(m, 'a', None, temperature=1.0); next(s)",
    "lockstep left open": "s = m.create_completion('a', max_tokens=60, stream=True); next(s)",
    "daemon thread at work": (
        "threading.excepthook = lambda args: print(args.exc_type.__name__); "  # it gets the error that its model was closed
        "work = lambda: [generate_text(m, 'a', 3000, temperature=1.0) for _ in range(999)]; "
        "threading.Thread(target=work, daemon=True).start(); "
        "time.sleep(0.1)"
    ),
    "system exit inside a stream": "s = stream_text(m, 'a', None, temperature=1.0); next(s); sys.exit(0)",
    "cycle": "m.me = m; del m",
    "global in a module": "import types; t = types.ModuleType('t'); sys.modules['t'] = t; t.m = m; del m",
    "template rendered": "labkit.generate_chat(m, [{'role': 'user', 'content': 'a'}], 3)",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_python_ends_cleanly_with_open_models(tiny: Path, name: str) -> None:
    """Python exits with status 0 and as silently as after importing llama_cpp, whose two open files are its own."""
    code = textwrap.dedent(f"""
        import sys, threading, time, labkit
        from labkit import generate_text, load_model, stream_text
        m = load_model({str(tiny)!r}, n_ctx=4096, n_threads=1)
        {ENDINGS[name]}
    """)
    strict = [sys.executable, "-W", "error", "-c"]
    result = subprocess.run([*strict, code], capture_output=True, text=True, timeout=60)
    of_llama_cpp = subprocess.run([*strict, "import llama_cpp"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert result.stderr in ("", of_llama_cpp.stderr)


FORKED = {
    "generate": "generate_text(m, 'a', 3)",
    "stream": "list(s)",
    "count": "labkit.count_tokens(m, 'a')",
    "llama": "m.eval([5])",
    "read": "m.tokenize(b'a')",
    "cancel": "m.cancel(); raise LabkitError",
    "close": "s.close(); m.close(); del s, m; gc.collect(); raise LabkitError",
    "own model": "n = load_model(path, n_ctx=256, n_threads=1); generate_text(n, 'a', 3); raise LabkitError",
    "chat in its own model": (
        "n = load_model(path, n_ctx=256, n_threads=1); labkit.generate_chat(n, [{'role': 'user', 'content': 'a'}], 3); "
        "raise LabkitError"
    ),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.parametrize("name", FORKED)
def test_a_forked_child_neither_hangs_nor_crashes(tiny: Path, name: str) -> None:
    """A model belongs to the process that loaded it; a child gets a one-line error, may drop the model and load its own."""
    code = textwrap.dedent(f"""
        import gc, os, sys, labkit
        from labkit import LabkitError, generate_text, load_model, stream_text
        path = {str(tiny)!r}
        m = load_model(path, n_ctx=1024, n_threads=1)
        labkit.generate_chat(m, [{{'role': 'user', 'content': 'a'}}], 3)
        s = stream_text(m, 'a', 900, temperature=1.0)
        next(s)
        pid = os.fork()
        if pid == 0:
            try:
                {FORKED[name]}
            except LabkitError:
                sys.exit(7)
            sys.exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        list(s)
        generate_text(m, 'a', 3)
    """)
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_interpreter_ends_without_keeping_the_engine() -> None:
    """A function that the interpreter keeps for forks would keep its module and all that it imported until the very end."""
    references = sys.getrefcount(model_room._after_fork)
    assert references <= 2  # the module's name, and the argument above
