"""A real load: the buffers that the engine reports, and the decode speed; then the model is closed."""

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

PROMPT, N_TOKENS = "Once upon a time", 24
_EVERY_S = 0.1  # between progress updates in the browser

Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class RealLoad:
    """The result of a real load: the sizes as the engine reports them, and the decode speed."""

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
    """Load a model, generate 24 tokens greedily, and return the speed and the buffer sizes; None if cancelled."""
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
    """Return a progress callback for `load_model` that also ends a cancelled load."""
    updated_s = 0.0

    def advance(fraction: float) -> None:
        nonlocal updated_s
        if ticket.cancelled:
            raise LabkitError("stopped")
        if time.monotonic() - updated_s > _EVERY_S:
            updated_s = time.monotonic()
            report("loading", round(100 * fraction), 100)

    return advance
