"""An explorer's model: the caller's, or one that is loaded when first needed and closed with the explorer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from labkit.engine import Model, load_model
from labkit.models import course_model


class Loaded:
    """Provide an explorer's model: a loaded one is used and left open, a file is loaded by the first call of `model`."""

    def __init__(self, model: Model | Path | str | None, **options: Any) -> None:
        self._given, self._options = model, options
        self._own: Model | None = None
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether `model` returns at once."""
        return isinstance(self._given, Model) or self._own is not None

    def model(self) -> Model:
        """Return the model; load it if necessary."""
        if isinstance(self._given, Model):
            return self._given
        with self._lock:
            if self._own is None:
                self._own = load_model(self._given or course_model(), **self._options)
            return self._own

    def close(self) -> None:
        """Close the model if it was loaded here."""
        with self._lock:
            if self._own is not None:
                self._own.close()
