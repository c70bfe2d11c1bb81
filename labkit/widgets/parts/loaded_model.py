"""A model for an explorer: the caller's own, or one that is loaded when it is first needed, and closed at the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from labkit.engine import Model, load_model
from labkit.models import course_model

__all__ = ["Loaded", "file_of"]


class Loaded:
    """Give the model that an explorer computes with.

    Parameters
    ----------
    model : Model, Path, str or None
        A loaded one is used and left open; a file or the course's model is loaded at the first `model` call.
    **options
        For `load_model`.
    """

    def __init__(self, model: Model | Path | str | None, **options: Any) -> None:
        self._given, self._options = model, options
        self._own: Model | None = None
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether `model` returns at once."""
        return isinstance(self._given, Model) or self._own is not None

    def model(self) -> Model:
        """Return it, loaded."""
        if isinstance(self._given, Model):
            return self._given
        with self._lock:
            if self._own is None:
                self._own = load_model(self._given or course_model(), **self._options)
            return self._own

    def close(self) -> None:
        """Close it, where it was loaded here."""
        with self._lock:
            if self._own is not None:
                self._own.close()


def file_of(model: Model | Path | str | None) -> Path | str:
    """Return the file of a model, or what names one: for the explorers that read headers alone."""
    if isinstance(model, Model):
        return Path(model.model_path)
    return course_model() if model is None else model
