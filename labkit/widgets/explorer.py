"""Explorer: the base class, with controls around a pure function, a background thread and a status line."""

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

Values = Mapping[str, Any]

_log = logging.getLogger(__name__)
_drawing = threading.Lock()  # matplotlib is not thread-safe
_in_cells: dict[str, tuple[int, list[Explorer]]] = {}


class Explorer(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Base class of the explorers; show one as the last line of a cell.

    When a control changes, `compute` makes a new view in a background thread, for the newest values only. An error is shown
    as one line. Without a kernel, the notebook shows the picture and tables of the initial values.

    Parameters
    ----------
    controls : mapping
        Widgets by name; changing one updates the view.
    actions : sequence of Button
        Shown in a row under the controls.
    below : sequence of Widget
        Shown under the picture; changing them updates nothing.

    Attributes
    ----------
    controls : dict
        As given. ``explorer.controls["temperature"].value = 0.5`` has the same effect as moving the slider.
    view : View
        The current view.
    message : str
        The line under the controls: progress or an error.
    """

    title: ClassVar[str] = "Explorer"
    settle_s: ClassVar[float] = 0.02
    is_closed = True  # until __init__ runs: ipywidgets also closes a widget whose constructor failed

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
        except Exception as error:  # shown in one line; other values may work
            self.fail(error)
            self.show(View(""))
        self._first_html = self.view.to_static_html(self.title) + (message_html(self.message) if self.message else "")
        for control in self.controls.values():
            control.observe(self._moved, names="value")

    # -- for subclasses --------------------------------------------------------------------------------------------

    def compute(self, values: Values, ticket: Ticket) -> View:
        """Return the view of these values; called in the explorer's thread.

        A slow computation checks ``ticket.cancelled``, and calls `report` and `show` as it proceeds.
        """
        raise NotImplementedError

    @property
    def values(self) -> dict[str, Any]:
        """The current values of the controls."""
        return {name: control.value for name, control in self.controls.items()}

    # -- actions ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Compute and show the current values, in the background."""
        values = self.values
        self.start(lambda ticket: self._refresh(values, ticket))

    def start(self, work: Callable[[Ticket], None]) -> None:
        """Run some work in the explorer's thread; it replaces the current work."""
        self._background.submit(work)

    def stop(self) -> bool:
        """Cancel running and waiting work, and report it; return whether there was any."""
        ran, waited = self._background.cancel()
        if waited and not ran:  # running work reports it when it ends
            self.report("stopped")
        return ran or waited

    def wait(self, timeout_s: float | None = 60.0) -> bool:
        """Wait until the view is up to date; return False on a timeout."""
        return self._background.wait(timeout_s)

    def show(self, view: View) -> None:
        """Show a view."""
        with _drawing:
            text = view.to_html()
        self.view = view
        self._page.value = text

    def report(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show progress."""
        self.message = text
        self._status.value = message_html(text, done=done, total=total)

    def fail(self, error: BaseException) -> None:
        """Show an error in one line."""
        text = " ".join(str(error).split()) or type(error).__name__
        self.message = text if isinstance(error, LabkitError) else f"{type(error).__name__}: {text}"
        self._status.value = message_html(self.message, is_error=True)
        if not isinstance(error, LabkitError):
            _log.debug("an explorer's computation failed", exc_info=error)

    def close(self) -> None:
        """Cancel all work and release everything; safe to call twice."""
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
        view = self.compute(values, ticket)
        if not ticket.cancelled:
            self.show(view)
            self.report("")

    def _run(self, work: Callable[[Ticket], None], ticket: Ticket) -> None:
        try:
            work(ticket)
        except Exception as error:  # shown; the explorer continues
            if not ticket.cancelled:
                self.fail(error)
        if ticket.stopped and not self.is_closed:
            self.report("stopped")

    def __repr__(self) -> str:
        return f"{self.title}: {self.view.sentence}".removesuffix(": ")

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        static = {"text/plain": repr(self), "text/html": self._first_html}
        return {**(super()._repr_mimebundle_(**options) or {}), **static}


def _family(widget: Any) -> Iterable[Any]:
    """Yield a widget, its children, and their layouts and styles: everything to close with it."""
    for child in getattr(widget, "children", ()):
        yield from _family(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, ipywidgets.Widget):
            yield part
    yield widget


def _replace_earlier(explorer: Explorer) -> None:
    """Close the explorers of an earlier run of the same cell: they are no longer visible, but ipywidgets keeps them."""
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
    """Return the running cell's id and the execution count; (None, 0) outside a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None, 0
    parent = kernel.get_parent("shell") or {}
    return parent.get("metadata", {}).get("cellId"), int(shell.execution_count)
