"""Threads, interrupts, loading and closing, many times."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import labkit
from tests.tiny_models import write_tiny_model

N_INTERRUPTS = 200


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("stress") / "tiny.gguf")


def test_threads_get_what_serial_calls_get(tiny: Path) -> None:
    """8 threads with 50 calls each on one model: no crash, and greedy text equal to that of serial calls."""
    prompts = [f"number {index} of the prompts" for index in range(50)]
    with labkit.load_model(tiny, n_ctx=256, n_threads=1) as model:
        expected = [labkit.generate_text(model, prompt, 8, temperature=0) for prompt in prompts]

        def work(number: int) -> list[str]:
            if number % 2:
                return [labkit.generate_text(model, prompt, 8, temperature=0) for prompt in prompts]
            return ["".join(chunk.text for chunk in labkit.stream_text(model, p, 8, temperature=0)) for p in prompts]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
    assert all(result == expected for result in results)


def test_threads_share_the_bundled_model() -> None:
    """The same on the real model, with fewer calls."""
    prompts = ["1, 2, 3,", "Monday, Tuesday,", "The capital of France is"]
    with labkit.load_model(n_ctx=256) as model:
        expected = [labkit.generate_text(model, prompt, 4, temperature=0) for prompt in prompts]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda i: labkit.generate_text(model, prompts[i % 3], 4, temperature=0), range(24)))
    assert results == [expected[index % 3] for index in range(24)]


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="a Ctrl-C cannot be sent to one process alone on Windows")
def test_interrupts_stop_within_a_second_and_leave_the_model_whole() -> None:
    """200 real Ctrl-C at random moments of decoding and of a long prefill: 99 % end within 1 s, all answers right."""
    random.seed(7)
    command = [sys.executable, str(Path(__file__).with_name("stress_child.py")), str(labkit.bundled_model_path())]
    delays, rights = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stdout is not None
        for _ in range(N_INTERRUPTS):
            while not child.stdout.readline().startswith("ready"):
                assert child.poll() is None, "the child died"
            time.sleep(random.uniform(0.0, 0.12))
            sent = time.time()
            child.send_signal(signal.SIGINT)
            answer = json.loads(child.stdout.readline())
            delays.append(answer["stopped"] - sent)
            rights.append(answer["right"])
        child.kill()
    assert all(rights)
    assert sum(delay <= 1.0 for delay in delays) >= 0.99 * N_INTERRUPTS, sorted(delays)[-5:]


def test_cancel_from_another_thread_ends_a_prefill_and_a_decode() -> None:
    """After model.cancel() the partial text is returned within a second; the next call is not affected."""
    with labkit.load_model(n_ctx=4096) as model:
        right = labkit.generate_text(model, "1, 2, 3,", 4, temperature=0)
        for prompt in ("word " * 3900, "Once upon a time"):
            cancelled: list[float] = []

            def cancel(when: list[float] = cancelled) -> None:
                when.append(time.monotonic())
                assert model.cancel()

            timer = threading.Timer(0.3, cancel)
            timer.start()
            labkit.generate_text(model, prompt, None, temperature=1.5, seed=1)
            ended = time.monotonic()
            timer.join()
            assert model.last_generation is not None
            assert model.last_generation.finish_reason == "cancelled"
            assert ended - cancelled[0] < 1.0
            assert not model.cancel()
            assert labkit.generate_text(model, "1, 2, 3,", 4, temperature=0) == right


def test_cancels_at_random_moments_end_at_once_and_leave_the_model_whole(tmp_path: Path) -> None:
    """200 cancel() from another thread, in prompts, in texts and in streams: 99 % end within 1 s, all answers right."""
    rng = random.Random(11)
    path = write_tiny_model(tmp_path / "endless.gguf", endless=True)
    delays = []
    with labkit.load_model(path, n_ctx=4096, n_threads=1) as model:
        right = labkit.generate_text(model, "the", 5, temperature=0)
        for number in range(N_INTERRUPTS):
            cancelled: list[float] = []

            def cancel(wait_s: float, when: list[float] = cancelled) -> None:
                time.sleep(wait_s)
                when.append(time.monotonic())
                while not model.cancel():  # it may come before the call begins
                    time.sleep(0.0005)

            thread = threading.Thread(target=cancel, args=(rng.uniform(0, 0.02),))
            thread.start()
            if number % 3 == 0:
                labkit.generate_text(model, "a", None)
            elif number % 3 == 1:
                labkit.generate_text(model, "the in " * 1000, None)
            else:
                assert list(labkit.stream_text(model, "a", None))[-1].finish_reason == "cancelled"
            delays.append(time.monotonic() - cancelled[0])
            thread.join()
            assert model.last_generation is not None
            assert model.last_generation.finish_reason == "cancelled"
            assert labkit.generate_text(model, "the", 5, temperature=0) == right
    assert sum(delay <= 1.0 for delay in delays) >= 0.99 * N_INTERRUPTS, sorted(delays)[-5:]


def _rss_growth(path: Path, cycles: int) -> int:
    """Load and close many times, after five times to warm up; return the growth of the RSS."""
    process = psutil.Process()

    def cycle() -> None:
        with labkit.load_model(path, n_ctx=256, n_threads=1) as model:
            labkit.generate_text(model, "a", 2, temperature=0)

    for _ in range(5):
        cycle()
    before = process.memory_info().rss
    for _ in range(cycles):
        cycle()
    return int(process.memory_info().rss - before)


def test_loading_and_closing_leaks_nothing(tiny: Path) -> None:
    """200 cycles of load, generate, close: the RSS grows by at most 20 MiB, and no thread is left."""
    threads = threading.active_count()
    assert _rss_growth(tiny, 180) + _rss_growth(labkit.bundled_model_path(), 20) <= 20 * 1024**2
    assert threading.active_count() <= threads


def test_streams_left_open_leave_no_thread(tiny: Path) -> None:
    """Streams that are dropped, closed or read half leave the model usable and no thread behind."""
    with labkit.load_model(tiny, n_ctx=512, n_threads=1) as model:
        for number in range(30):
            stream = labkit.stream_text(model, "a", None, temperature=1.5, seed=number)
            next(stream)
            if number % 3 == 0:
                stream.close()
            del stream
        assert labkit.generate_text(model, "a", 3, temperature=0) == labkit.generate_text(model, "a", 3, temperature=0)


def test_streamed_text_equals_whole_text_for_300_seeds(tiny: Path) -> None:
    """At a high temperature, where characters are split over tokens, chunks joined are the text, and none is half."""
    with labkit.load_model(tiny, n_ctx=256, n_threads=1) as model:
        for seed in range(300):
            settings = {"max_tokens": 40, "temperature": 2.5, "seed": seed, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
            whole = labkit.generate_text(model, "start", **settings)
            chunks = [chunk.text for chunk in labkit.stream_text(model, "start", **settings)]
            assert "".join(chunks) == whole
            assert all(chunk == chunk.encode("utf-8").decode("utf-8") for chunk in chunks)
