"""ModelExplorer: base class of the explorers that compute with a model."""

from __future__ import annotations

import threading
from pathlib import Path

from labkit.engine import Model, load_model
from labkit.models import course_model
from labkit.widgets.explorer import Explorer


class ModelExplorer(Explorer):
    """Base class of the explorers that compute with a model; call `use_model` before ``super().__init__``.

    A loaded model is used and left open. A file is loaded by the first call of `model`, and closed with the explorer.
    """

    def use_model(self, model: Model | Path | str | None, n_ctx: int) -> None:
        """Set the model; ``n_ctx`` is the context of one that is loaded here."""
        self._given, self._n_ctx = model, n_ctx
        self._own: Model | None = None
        self._loading = threading.Lock()

    @property
    def has_model(self) -> bool:
        """Whether `model` returns at once."""
        return isinstance(self._given, Model) or self._own is not None

    def model(self) -> Model:
        """Return the model; load it if necessary."""
        if isinstance(self._given, Model):
            return self._given
        with self._loading:
            if self._own is None:
                self._own = load_model(self._given or course_model(), self._n_ctx)
            return self._own

    def close(self) -> None:
        """Close the explorer, and the model if it was loaded here."""
        super().close()
        with self._loading:
            if self._own is not None:
                self._own.close()
