"""The milestone's result and its card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from labkit.output_files import written
from labkit.records import Record
from labkit.system import SystemProfile
from labkit.units import counted


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MilestoneFigure(Record):
    """The speed of one stream, or of several prompts together.

    Attributes
    ----------
    n_parallel : int
        Prompts together.
    tokens_per_second : float
        Generated tokens of all prompts over the wall time, prompt processing included. This is compared with the target.
    decode_tokens_per_second : float
        Generation alone.
    predicted_tokens_per_second : float
        Generation alone, predicted by `predict_speed` from llama.cpp's kernels.
    roofline_tokens_per_second : float
        The maximum that this machine's bandwidth allows.
    limit : str
        ``"bandwidth"``, ``"compute"`` or ``"overhead"``: what limits the speed.
    passes : bool
        Whether it is over the target.
    """

    n_parallel: int
    tokens_per_second: float
    decode_tokens_per_second: float
    predicted_tokens_per_second: float
    roofline_tokens_per_second: float
    limit: str
    passes: bool


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class MilestoneResult(Record):
    """A model's speed on this machine, compared with the target.

    Attributes
    ----------
    model : str
        The file's name.
    model_name, architecture, quantization : str
    parameter_count, file_size_bytes : int
    is_synthetic : bool
        Whether it is a ghost model: real shape and speed, random weights, so its text is noise.
    counts : bool
        Whether it is a quantized model of 6.5 billion weights or more, as the milestone requires.
    target_tokens_per_second : float
    one_stream, together : MilestoneFigure
    passes : bool
        Whether it counts and one of the two speeds is over the target.
    verdict : str
    advice : tuple of str
        What would make it pass, with numbers; or by how much it passes.
    max_tokens, n_threads : int
    memory_bytes : int
        Peak RSS.
    system : SystemProfile
    """

    model: str
    model_name: str
    architecture: str
    quantization: str
    parameter_count: int
    file_size_bytes: int
    is_synthetic: bool
    counts: bool
    target_tokens_per_second: float
    one_stream: MilestoneFigure
    together: MilestoneFigure
    passes: bool
    verdict: str
    advice: tuple[str, ...]
    max_tokens: int
    n_threads: int
    memory_bytes: int
    system: SystemProfile

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON; with a path, also write it to that file."""
        return written(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", path).rstrip()

    def to_text(self) -> str:
        """Return the card as text."""
        kind = f"{self.parameter_count / 1e9:.2f} billion {'random weights: synthetic' if self.is_synthetic else 'weights'}"
        lines = [
            f"{'PASSED' if self.passes else 'NOT YET'}: {self.verdict}",
            "",
            f"model    {self.model_name} ({self.quantization}, {kind})",
            f"machine  {self.system.cpu}, {counted(self.n_threads, 'thread')}",
            "",
            f"{'tokens per second':<19}{'measured':>9}{'decode':>7}{'predicted':>10}{'roofline':>9}  limit",
        ]
        for name, figure in self.figures():
            lines.append(
                f"{name:<19}{figure.tokens_per_second:>9.1f}{figure.decode_tokens_per_second:>7.1f}"
                f"{figure.predicted_tokens_per_second:>10.1f}{figure.roofline_tokens_per_second:>9.1f}  {figure.limit}"
            )
        return "\n".join([*lines, "", *(f"- {sentence}" for sentence in self.advice)])

    def figures(self) -> tuple[tuple[str, MilestoneFigure], ...]:
        """Return both figures with their labels."""
        return ("one stream", self.one_stream), (f"{self.together.n_parallel} prompts together", self.together)

    def plot(self, *, axes: Any = None) -> Any:
        """Draw the card with `labkit.plots.plot_milestone` and return the matplotlib Axes."""
        from labkit.plots import plot_milestone

        return plot_milestone(self, axes=axes)

    def to_png(self, path: str | Path) -> Path:
        """Write the card as a PNG and return its path."""
        target = Path(path).expanduser()
        self.plot().figure.savefig(target, dpi=144)
        return target


LAB_PROMPTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a lighthouse in winter.",
    "List five things to pack for a walk in the mountains.",
    "What is the difference between RAM and a hard disk?",
    "Translate into French: Where is the nearest railway station?",
    "Summarize the story of Romeo and Juliet in three sentences.",
    "Write a Python function that reverses a string.",
    "How many minutes are there in a week? Show the steps.",
    "Give me a recipe for bread with four ingredients.",
    "Why does a language model read all its weights for every token?",
)
