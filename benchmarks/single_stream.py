"""generate_text and stream_text vs. a bare loop of llama_decode and llama_sampler_sample, on the same handle.

The loop's body is the minimum for any program: decode one token, sample the next. Like labkit's loop it runs in the model's
thread, with all physical cores that the process may use; labkit chooses its threads itself. Decode is timed from the
first token on, prefill up to the first token; runs alternate. Other programs can only slow a run, so the ratio is that of
the best runs. The table also has the median ratio of neighbouring runs and, as noise floor, the bare loop over itself.

Then: two models open at once, loading, importing, and flash attention at depth 1,024.

    uv run benchmarks/single_stream.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from typing import Any, NamedTuple

from common import median, report

import labkit
from labkit.engine.native import C
from labkit.engine.sampler import Sampler
from labkit.engine.stepping import Stepper


class Ratio(NamedTuple):
    """A speed over the bare loop's: ratio of the best runs, median ratio of neighbouring runs; and the bare loop's best."""

    best: float
    neighbours: float
    bare_tokens_per_second: float


def bare_loop(model: Any, prompt: list[int], n_tokens: int) -> tuple[float, float]:
    """Return tokens per second for prefill and decode with bare calls."""
    ctx = model.native.ctx
    C.llama_set_n_threads(ctx, model.settings.n_threads, model.settings.n_threads_batch)
    C.llama_memory_clear(C.llama_get_memory(ctx), False)
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    C.llama_sampler_chain_add(chain, C.llama_sampler_init_greedy())
    tokens = (C.llama_token * len(prompt))(*prompt)
    begun = time.perf_counter()
    for start in range(0, len(prompt), model.n_batch):
        address = ctypes.cast(ctypes.byref(tokens, start * 4), ctypes.POINTER(C.llama_token))
        C.llama_decode(ctx, C.llama_batch_get_one(address, min(model.n_batch, len(prompt) - start)))
    slot = (C.llama_token * 1)()
    batch = C.llama_batch_get_one(slot, 1)
    slot[0] = C.llama_sampler_sample(chain, ctx, -1)
    first = time.perf_counter()
    for _ in range(n_tokens - 1):
        C.llama_decode(ctx, batch)
        slot[0] = C.llama_sampler_sample(chain, ctx, -1)
    ended = time.perf_counter()
    C.llama_sampler_free(chain)
    return len(prompt) / (first - begun), (n_tokens - 1) / (ended - first)


def by_labkit(model: Any, text: str, n_tokens: int, *, stream: bool) -> tuple[float, float]:
    """Return the same for labkit's functions, from its report."""
    model.reset()
    if stream:
        for _ in labkit.stream_text(model, text, n_tokens, temperature=0):
            pass
    else:
        labkit.generate_text(model, text, n_tokens, temperature=0)
    done = model.last_generation
    assert done.n_generated == n_tokens, f"ended after {done.n_generated} tokens: choose another prompt"
    return done.prompt_tokens_per_second, done.decode_tokens_per_second


def compare(model: Any, text: str, n_tokens: int, repeats: int) -> dict[str, Ratio]:
    """Speeds relative to a bare loop that runs right before or after."""
    prompt = model.tokenize(text.encode())

    def bare() -> tuple[float, float]:
        speeds: tuple[float, float] = model.compute(lambda _: bare_loop(model, prompt, n_tokens))
        return speeds

    sides = {
        "bare": bare,
        "text": lambda: by_labkit(model, text, n_tokens, stream=False),
        "stream": lambda: by_labkit(model, text, n_tokens, stream=True),
    }
    for side in sides.values():
        side()
    pairs: dict[str, list[tuple[tuple[float, float], tuple[float, float]]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            if repeat % 2:  # the first to run has a small advantage, so they alternate
                other = bare()
                pairs[name].append((side(), other))
            else:
                pairs[name].append((side(), bare()))
    return {
        f"{name}_{part}": Ratio(
            max(ours[index] for ours, _ in measured) / max(other[index] for _, other in measured),
            median([ours[index] / other[index] for ours, other in measured]),
            max(other[index] for _, other in measured),
        )
        for name, measured in pairs.items()
        for index, part in enumerate(("prefill", "decode"))
    }


def share_of_engine(model: Any, text: str, n_tokens: int, *, stream: bool) -> float:
    """Share of a generation spent in llama_decode and the sampler, which is all that the bare loop does.

    It needs no second run to compare with, so it is almost free of noise.
    """
    spent = [0.0]

    def timed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent[0] += time.perf_counter() - started

        return call

    decode, sample = Stepper.decode, Sampler.sample
    Stepper.decode, Sampler.sample = timed(decode), timed(sample)  # type: ignore[method-assign]
    try:
        by_labkit(model, text, n_tokens, stream=stream)
    finally:
        Stepper.decode, Sampler.sample = decode, sample  # type: ignore[method-assign]
    done = model.last_generation
    return spent[0] / (done.prefill_s + done.decode_s)


def with_second_model(repeats: int) -> float:
    """Decode speed while a second model is open and was used, relative to a single model."""
    text = "one two three four " * 32
    ratios = []
    with labkit.load_model() as model:
        alone = [by_labkit(model, text, 64, stream=False)[1] for _ in range(repeats)]
        with labkit.load_model() as other:
            for before in alone:
                by_labkit(other, text, 16, stream=False)
                ratios.append(by_labkit(model, text, 64, stream=False)[1] / before)
    return median(ratios)


def flash_at_depth(depth: int, repeats: int) -> dict[str, float]:
    """Decode speed after a prompt of ``depth`` tokens with flash attention as chosen, off and on."""
    speeds: dict[str, list[float]] = {"chosen": [], "off": [], "on": []}
    text = "one two three four " * (depth // 4)
    models = {
        "chosen": labkit.load_model(),
        "off": labkit.load_model(flash_attn=False),
        "on": labkit.load_model(flash_attn=True),
    }
    for _ in range(repeats):
        for name, model in models.items():
            speeds[name].append(by_labkit(model, text, 48, stream=False)[1])
    for model in models.values():
        model.close()
    chosen = speeds["chosen"]
    return {
        "depth": float(depth),
        "chosen_over_on": median([a / b for a, b in zip(chosen, speeds["on"], strict=True)]),
        "chosen_over_off": median([a / b for a, b in zip(chosen, speeds["off"], strict=True)]),
    }


def seconds_of(code: str) -> float:
    """Return the seconds that a fresh interpreter prints."""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])


# Both packages are imported before; benchmarks/start_up.py times a whole process.
START = (
    "import time, labkit; from llama_cpp import Llama; load = labkit.load_model; path = str(labkit.bundled_model_path()); "
    "t = time.perf_counter(); "
)
OURS = START + "m = load(path, n_threads=2); print(time.perf_counter() - t)"
THEIRS = START + "m = Llama(path, n_ctx=2048, n_threads=2, verbose=False); print(time.perf_counter() - t)"
IMPORT = "import time; t = time.perf_counter(); import labkit; print(time.perf_counter() - t)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with labkit.load_model(n_ctx=2048) as model:
        short = compare(model, "The story goes on: " + "and on " * 100, 128, repeats)
        long = compare(model, "The story goes on: " + "and on " * 100, 1024, max(3, repeats // 2))
        shares = [share_of_engine(model, "The story goes on: ", 128, stream=stream) for stream in (False, True)]
    second_model = with_second_model(repeats)
    flash = flash_at_depth(1024, repeats)
    importing = median([seconds_of(IMPORT) for _ in range(repeats)])
    loads = [(seconds_of(OURS), seconds_of(THEIRS)) for _ in range(2 * repeats)]
    loading = min(ours for ours, _ in loads) / min(theirs for _, theirs in loads)
    loading_median = median([ours for ours, _ in loads]) / median([theirs for _, theirs in loads])
    results = {
        "128": {name: ratio._asdict() for name, ratio in short.items()},
        "1024": {name: ratio._asdict() for name, ratio in long.items()},
        "with_second_model": second_model,
        "flash": flash,
        "import_s": importing,
        "share_of_engine": {"generate_text": shares[0], "stream_text": shares[1]},
        "load_over_llama": {"best": loading, "median": loading_median},
    }
    slowest = min(run[name].best for run in (short, long) for name in ("text_decode", "stream_decode"))
    goals = {
        "decode >= 0.98 of the bare loop": slowest >= 0.98,
        "prefill >= 0.97": min(run[name].best for run in (short, long) for name in ("text_prefill", "stream_prefill"))
        >= 0.97,
        "depth 1,024: >= 1.5 times flash attention": flash["chosen_over_on"] >= 1.5,
        "import <= 0.15 s": importing <= 0.15,
        "load <= 1.05 of Llama's": loading <= 1.05,
    }
    labels = {
        "text_decode": "generate_text / bare loop, decode",
        "stream_decode": "stream_text / bare loop, decode",
        "bare_decode": "bare loop / bare loop (noise), decode",
        "text_prefill": "generate_text / bare loop, prefill",
        "stream_prefill": "stream_text / bare loop, prefill",
        "bare_prefill": "bare loop / bare loop (noise), prefill",
    }
    rows = [
        *(
            (label, *(f"{run[name].best:.3f} ({run[name].neighbours:.3f})" for run in (short, long)))
            for name, label in labels.items()
        ),
        ("bare loop, tokens/s", *(f"{run['bare_decode'].bare_tokens_per_second:.0f}" for run in (short, long))),
        ("llama_decode and sampler / total time of generate_text", f"{shares[0]:.4f}", ""),
        ("llama_decode and sampler / total time of stream_text", f"{shares[1]:.4f}", ""),
        ("decode with a second model open / alone", f"{second_model:.2f}", ""),
        ("decode at depth 1,024: chosen / flash attention on", f"{flash['chosen_over_on']:.2f}", ""),
        ("decode at depth 1,024: chosen / flash attention off", f"{flash['chosen_over_off']:.2f}", ""),
        ("load_model / Llama(…), fresh process", f"{loading:.3f} ({loading_median:.3f})", ""),
        ("import labkit", f"{importing * 1000:.0f} ms", ""),
        *((f"goal: {goal}", "met" if met else "MISSED", "") for goal, met in goals.items()),
    ]
    report(
        "single_stream", ("best run (median of neighbours)", "128 tokens", "1,024 tokens"), rows, {**results, "goals": goals}
    )


if __name__ == "__main__":
    main()
