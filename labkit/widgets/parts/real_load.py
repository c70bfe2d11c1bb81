"""One real load: where the engine put what, and how fast it decodes so; the model is closed again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.devices import ServedDevice
from labkit.engine import load_model, stream_text
from labkit.errors import LabkitError
from labkit.widgets.parts.background import Ticket
from labkit.widgets.parts.what_fits import Sizes, reported

__all__ = ["N_TOKENS", "RealLoad", "load_and_measure"]

PROMPT, N_TOKENS = "Once upon a time", 24
_EVERY_S = 0.1  # the browser is told of progress about so often

Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class RealLoad:
    """What a real load gave.

    Parameters
    ----------
    sizes : Sizes
        The engine's own figures.
    tokens_per_second : float
        Decode.
    """

    sizes: Sizes
    tokens_per_second: float


def load_and_measure(
    file: Path | str,
    n_ctx: int,
    n_gpu_layers: int,
    devices: Sequence[str | ServedDevice] | None,
    report: Report,
    ticket: Ticket,
) -> RealLoad | None:
    """Load, read what was reported, and generate 24 tokens greedily; None where the ticket was cancelled on the way.

    Parameters
    ----------
    file, n_ctx, n_gpu_layers, devices
        As for `load_model`.
    report : callable of (text, done, total)
        Told of the progress.
    ticket : Ticket
        Cancelling it ends the load or the generation.

    Raises
    ------
    LabkitError
        What `load_model` and `stream_text` raise.
    """
    rate = 0.0
    try:
        with load_model(file, n_ctx, n_gpu_layers=n_gpu_layers, devices=devices, progress=_advance(report, ticket)) as model:
            stream = stream_text(model, PROMPT, N_TOKENS, 0.0)
            ticket.on_cancel(stream.close)
            for chunk in stream:
                report("generating", chunk.n_generated, N_TOKENS)
                rate = chunk.tokens_per_second
            sizes = reported(model.load_log)
    except LabkitError:
        if not ticket.cancelled:
            raise
    return None if ticket.cancelled else RealLoad(sizes, rate)


def _advance(report: Report, ticket: Ticket) -> Callable[[float], None]:
    """Return what tells of a load's progress, and ends the load when nobody wants it any more."""
    told_s = 0.0

    def advance(fraction: float) -> None:
        nonlocal told_s
        if ticket.cancelled:
            raise LabkitError("stopped")
        if time.monotonic() - told_s > _EVERY_S:
            told_s = time.monotonic()
            report("loading", round(100 * fraction), 100)

    return advance
