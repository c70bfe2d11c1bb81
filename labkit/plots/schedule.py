"""The schedule of a server: who waits, whose prompt is read, who gets tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.plots.picture import MAIN, OTHER, new_figure
from labkit.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# name, colour and hatch of the three parts of a bar
_PARTS = (("waits", "0.85", "//"), ("prompt (prefill)", OTHER, ".."), ("answer (decode)", MAIN, ""))


def plot_schedule(schedules: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw schedules below each other on one time axis, with a bar per user.

    A bar has three parts with colour and hatch: waiting, the prompt, the answer. A black line is the first token.

    Parameters
    ----------
    schedules : mapping
        Title -> `Served` records, as ``plan`` and ``measure_users`` return them.
    """
    rows = [len(served) for served in schedules.values()]
    figure = new_figure(6.5, 1.1 + sum(0.45 + 0.2 * max(n, 3) for n in rows), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=[max(n, 3) for n in rows])[:, 0]
    texts = []
    for axes, (title, served) in zip(panels, schedules.items(), strict=True):
        begin_s = min(one.arrived_s for one in served)
        texts.append(f"{title}: {_draw(axes, served, begin_s)}")
        axes.set_title(title, loc="left", fontsize=10)
    panels[-1].set_xlabel("time (s)")
    longest_s = max(one.ended_s - min(each.arrived_s for each in served) for served in schedules.values() for one in served)
    panels[-1].set_xlim(0, 1.02 * longest_s)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9, columnspacing=1.2)
    figure.set_label(f"Bars over time, one per user: waiting, reading the prompt, answering. {' '.join(texts)}")
    return figure


def _draw(axes: Axes, served: Sequence[Any], begin_s: float) -> str:
    """Draw a schedule; return its description."""
    names = [str(number + 1) for number in range(len(served))]
    for part, (name, colour, hatch) in enumerate(_PARTS):
        edges = [(one.arrived_s, one.started_s, one.first_s, one.ended_s)[part : part + 2] for one in served]
        lengths, lefts = [end - start for start, end in edges], [start - begin_s for start, _ in edges]
        axes.barh(names, lengths, left=lefts, color=colour, hatch=hatch, edgecolor="white", height=0.8, label=name)
    firsts = [one.first_s - begin_s for one in served]
    axes.plot(firsts, names, "|", color="black", markersize=9, markeredgewidth=2, label="first token")
    axes.invert_yaxis()
    axes.set_ylabel("user")
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    users = "; ".join(
        f"user {name} waits {one.started_s - one.arrived_s:.2f} s, first token after {one.first_s - one.arrived_s:.2f} s, "
        f"ends at {one.ended_s - begin_s:.2f} s"
        for name, one in zip(names[:8], served, strict=False)
    )
    more = f"; and {counted(len(served) - 8, 'more user')}" if len(served) > 8 else ""
    return f"{users}{more}."
