"""What would make a model pass, with numbers measured or predicted on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping

from labkit.milestone.records import MilestoneFigure
from labkit.roofline import SpeedPrediction


def verdict_of(one: MilestoneFigure, together: MilestoneFigure, target: float, *, counts: bool) -> str:
    """Return the result as a sentence."""
    if not counts:
        best = max(one.tokens_per_second, together.tokens_per_second)
        return f"{best:.1f} tokens/s, but the milestone needs a quantized model of 7 billion weights"
    if one.passes:
        return f"a single stream reaches {one.tokens_per_second:.1f} tokens/s, over {target:g}"
    if together.passes:
        return (
            f"{together.n_parallel} prompts together reach {together.tokens_per_second:.1f} tokens/s in total, over "
            f"{target:g}; one stream reaches {one.tokens_per_second:.1f}, limited by {one.limit}"
        )
    return (
        f"{one.tokens_per_second:.1f} tokens/s with one stream and {together.tokens_per_second:.1f} with "
        f"{together.n_parallel} prompts together; the target is {target:g}, the limit is {together.limit}"
    )


def advise(
    target: float,
    figures: tuple[MilestoneFigure, MilestoneFigure],
    one: SpeedPrediction,
    by_parallel: Mapping[int, SpeedPrediction],
) -> tuple[str, ...]:
    """Return what would make it pass.

    ``figures`` are measured: one stream, and together; ``one`` is the prediction for one stream, ``by_parallel`` those by
    number of parallel sequences.
    """
    alone, together = figures
    found = []
    if not alone.passes:
        size, bandwidth = one.bytes_per_pass / 1e9, one.read_bytes_per_second / 1e9
        if one.roofline_tokens_per_second < target:
            found.append(
                f"one stream: each token reads {size:.2f} GB, so {target:g} tokens/s need {size * target:.0f} GB/s, but "
                f"this machine reads {bandwidth:.0f} GB/s: no setting can reach the target here; a file of "
                f"{bandwidth / target:.1f} GB or less could"
            )
        else:
            share = alone.decode_tokens_per_second / one.roofline_tokens_per_second
            found.append(
                f"one stream: bandwidth ({bandwidth:.0f} GB/s for {size:.2f} GB per token) allows "
                f"{one.roofline_tokens_per_second:.1f} tokens/s, and {share:.0%} of that was reached: "
                f"{_remedy(one, target, alone)}"
            )
    if not together.passes:
        found.append(_more_together(target, together, by_parallel))
    if alone.passes or together.passes:
        best = max(figures, key=lambda figure: figure.tokens_per_second)
        name = "one stream" if best is alone else f"{best.n_parallel} prompts together"
        found.append(f"{best.tokens_per_second / target:.1f} times the target with {name}")
    return tuple(found)


def _remedy(one: SpeedPrediction, target: float, alone: MilestoneFigure) -> str:
    missing = target / alone.tokens_per_second
    if one.limit == "bandwidth":
        return f"a file {missing:.1f} times smaller (fewer bits per weight, or fewer weights) would reach {target:g}"
    cores = math.ceil(one.n_threads * missing)
    return f"the limit is computing, so {cores} cores like these {one.n_threads} could reach {target:g}"


def _more_together(target: float, together: MilestoneFigure, by_parallel: Mapping[int, SpeedPrediction]) -> str:
    scale = together.tokens_per_second / max(together.predicted_tokens_per_second, 1e-9)  # includes the prompts' time
    enough = [n for n, predicted in sorted(by_parallel.items()) if predicted.decode_tokens_per_second * scale > target]
    if enough and enough[0] > together.n_parallel:
        speed = by_parallel[enough[0]].decode_tokens_per_second * scale
        return f"{enough[0]} prompts together should reach {speed:.1f} tokens/s here, predicted from llama.cpp's kernels"
    best = max(predicted.decode_tokens_per_second for predicted in by_parallel.values()) * scale
    return f"more prompts together reach at most about {best:.1f} tokens/s here: use more cores, or fewer weights"
