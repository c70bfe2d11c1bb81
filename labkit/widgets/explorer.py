"""Explorer: controls around a pure function, with what every explorer needs: a thread, a message line, an end."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import ipywidgets

from labkit.errors import LabkitError
from labkit.widgets.parts.accessibility import Names
from labkit.widgets.parts.background import Background, Ticket
from labkit.widgets.parts.view import View, message_html

__all__ = ["Explorer", "Values", "button", "slider"]

Values = Mapping[str, Any]

_log = logging.getLogger(__name__)
_drawing = threading.Lock()  # matplotlib is not made for two threads at once
_in_cells: dict[str, tuple[int, list[Explorer]]] = {}
_WIDE = {"width": "100%", "max_width": "36em"}


class Explorer(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Base of the explorers: show it as the last line of a cell.

    A control that moves asks for a new picture; `compute` makes it in a thread of its own, where only the newest request
    counts. An error becomes one line. Without a kernel the picture and the table of the first state are shown.

    Parameters
    ----------
    controls : mapping
        Widgets by name; what moves them asks for a new picture.
    actions : sequence of Button
        In a row under them.
    below : sequence of Widget
        Under the picture; moving them asks for nothing.

    Attributes
    ----------
    controls : dict
        As given: ``explorer.controls["temperature"].value = 0.5`` is what a student's hand does.
    shown : View
        What is shown now.
    message : str
        The line under the controls: progress, or what went wrong.
    """

    title: ClassVar[str] = "Explorer"
    settle_s: ClassVar[float] = 0.02
    is_closed = True  # until there is something to close: ipywidgets closes what its constructor could not make

    def __init__(self, controls: Mapping[str, Any], *, actions: Sequence[Any] = (), below: Sequence[Any] = ()) -> None:
        self.controls = dict(controls)
        self.message = ""
        self.is_closed = False
        self._background: Background[Callable[[Ticket], None]] = Background(self._run, settle_s=self.settle_s)
        self._status = ipywidgets.HTML(value=message_html(""))
        self._page = ipywidgets.HTML()
        self._page.add_class("labkit-view")
        self._first_html = ""
        heading = ipywidgets.HTML(value=f'<p style="margin:0"><strong>{self.title}</strong></p>')
        row = [ipywidgets.HBox(list(actions), layout={"flex_flow": "row wrap"})] if actions else []
        super().__init__([heading, *self.controls.values(), *row, self._status, self._page, *below, Names()])
        self.add_class("labkit-explorer")
        _replace_earlier(self)
        try:
            self.show(self.compute(self.values, Ticket()))
        except Exception as error:  # the cell shows it in one line, and its controls can mend it
            self.fail(error)
            self.show(View(""))
        self._first_html = self.view.to_static_html(self.title) + (message_html(self.message) if self.message else "")
        for control in self.controls.values():
            control.observe(self._moved, names="value")

    # -- what an explorer says of itself -------------------------------------------------------------------------

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return what to show of these values; called in the explorer's thread.

        A slow one looks at ``ticket.cancelled``, and calls `report` and `show` on its way.
        """
        raise NotImplementedError

    @property
    def values(self) -> dict[str, Any]:
        """What the controls say now."""
        return {name: control.value for name, control in self.controls.items()}

    # -- what happens ----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Compute and show the present values, in the background."""
        values = self.values
        self.start(lambda ticket: self._refresh(values, ticket))

    def start(self, work: Callable[[Ticket], None]) -> None:
        """Run something in the explorer's thread, instead of what runs there."""
        self._background.ask(work)

    def stop(self) -> bool:
        """End what runs or waits, and say so; returns whether there was anything."""
        ran, waited = self._background.cancel()
        if waited and not ran:  # what ran says it at its end
            self.report("stopped")
        return ran or waited

    def wait(self, timeout_s: float | None = 60.0) -> bool:
        """Wait until what is shown belongs to the controls; returns whether that came in time."""
        return self._background.wait(timeout_s)

    def show(self, shown: View) -> None:
        """Show this."""
        with _drawing:
            text = shown.to_html()
        self.view = shown
        self._page.value = text

    def report(self, text: str, done: int = 0, total: int = 0) -> None:
        """Say how far something has come."""
        self.message = text
        self._status.value = message_html(text, done=done, total=total)

    def fail(self, error: BaseException) -> None:
        """Say in one line what went wrong."""
        text = " ".join(str(error).split()) or type(error).__name__
        self.message = text if isinstance(error, LabkitError) else f"{type(error).__name__}: {text}"
        self._status.value = message_html(self.message, is_error=True)
        if not isinstance(error, LabkitError):
            _log.debug("an explorer's computation failed", exc_info=error)

    def close(self) -> None:
        """End what runs, and let go of everything; safe to call twice."""
        if self.is_closed:
            return
        self.is_closed = True
        self._background.close()
        for widget in _family(self):
            if widget is not self:
                widget.close()
        super().close()

    def _moved(self, _change: object) -> None:
        self.refresh()

    def _refresh(self, values: Values, ticket: Ticket) -> None:
        shown = self.compute(values, ticket)
        if not ticket.cancelled:
            self.show(shown)
            self.report("")

    def _run(self, work: Callable[[Ticket], None], ticket: Ticket) -> None:
        try:
            work(ticket)
        except Exception as error:  # shown, and the explorer goes on
            if not ticket.cancelled:
                self.fail(error)
        if ticket.stopped and not self.is_closed:
            self.report("stopped")

    def __repr__(self) -> str:
        return f"{self.title}: {self.view.sentence}".removesuffix(": ")

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        static = {"text/plain": repr(self), "text/html": self._first_html}
        return {**(super()._repr_mimebundle_(**options) or {}), **static}


def slider(label: str, value: float, low: float, high: float, step: float, **options: Any) -> Any:
    """Return a slider of whole numbers or of decimals, after what ``step`` is, that says its value while it moves."""
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    if kind is ipywidgets.FloatSlider:
        options = {"readout_format": ".2f", **options}
    settings = {"style": {"description_width": "initial"}, "layout": _WIDE, **options}
    return kind(value=value, min=low, max=high, step=step, description=label, **settings)


def button(label: str, act: Callable[[], object], *, tooltip: str = "") -> Any:
    """Return a button that does something when it is pressed."""
    made = ipywidgets.Button(description=label, tooltip=tooltip or label)
    made.on_click(lambda _button: act())
    return made


def _family(widget: Any) -> Iterable[Any]:
    """Yield a widget with its children, their layouts and styles: what closing it should let go of."""
    for child in getattr(widget, "children", ()):
        yield from _family(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, ipywidgets.Widget):
            yield part
    yield widget


def _replace_earlier(explorer: Explorer) -> None:
    """Close what an earlier run of the same cell left: the frontend shows it no more, and ipywidgets would keep it."""
    cell, count = _cell()
    if cell is None:
        return
    earlier_count, earlier = _in_cells.get(cell, (count, []))
    if earlier_count != count:
        for old in earlier:
            old.close()
        earlier = []
    _in_cells[cell] = (count, [*earlier, explorer])


def _cell() -> tuple[str | None, int]:
    """Return the id of the cell that runs, and how many ran before; None outside a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None, 0
    parent = kernel.get_parent("shell") or {}
    return parent.get("metadata", {}).get("cellId"), int(shell.execution_count)
