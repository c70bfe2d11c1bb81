"""The result of `compare_quantizations`: a row per type, as a table in text, HTML, Markdown and CSV."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from labkit.errors import ArgumentError
from labkit.gguf_file.formats import file_type
from labkit.records import Record
from labkit.tables import Table, notes_html, to_csv


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class QuantizationQuality(Record):
    """One type of a `QuantizationComparison`.

    Attributes
    ----------
    quantization : str
    file_size_bytes : int
    bits_per_weight : float
        Of the weights only, without the header.
    perplexity, perplexity_standard_error : float
    perplexity_ratio : float
        Ratio to the reference's.
    kl_divergence, kl_p99 : float
        Divergence from the reference in nats: mean and 99th percentile over the tokens.
    top_token_agreement : float
        0 to 1.
    delta_p_rms : float
        Root mean square of the change in the true token's probability.
    prompt_tokens_per_second, decode_tokens_per_second : float
        Medians of three rounds.
    decode_ratio : float
        Ratio to the reference's speed in the same round, median.
    quality_rating, speed_rating : str or None
        The type's rating in the lab's table.
    path : Path or None
        The file, if it was kept.
    is_reference : bool
        Whether this file is the reference of divergences and ratios.
    """

    quantization: str
    file_size_bytes: int
    bits_per_weight: float
    perplexity: float
    perplexity_standard_error: float
    perplexity_ratio: float
    kl_divergence: float
    kl_p99: float
    top_token_agreement: float
    delta_p_rms: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    decode_ratio: float
    quality_rating: str | None
    speed_rating: str | None
    path: Path | None
    is_reference: bool


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class QuantizationComparison(Record):
    """Result of `compare_quantizations`: one row per type, all from one run on one machine.

    Attributes
    ----------
    source : Path
        The source of all files.
    reference : str
        The reference of divergences and ratios.
    n_ctx, n_scored : int
        Tokens per window; scored tokens.
    notes : tuple of str
        Remarks for reading the figures.
    rows : tuple of QuantizationQuality
        In the requested order.
    """

    source: Path
    reference: str
    n_ctx: int
    n_scored: int
    notes: tuple[str, ...]
    rows: tuple[QuantizationQuality, ...]

    def row(self, quantization: str) -> QuantizationQuality:
        """Return one type's row.

        Raises
        ------
        ArgumentError
            When the type was not measured; the message lists the measured types.
        """
        name = file_type(quantization).name
        for row in self.rows:
            if row.quantization == name:
                return row
        raise ArgumentError(f"{name} was not measured; there are {', '.join(row.quantization for row in self.rows)}")

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return self._table().to_markdown(right=range(1, len(HEADINGS)))

    def to_csv(self) -> str:
        """Return every figure, unrounded, as CSV."""
        return to_csv([row.to_dict() for row in self.rows], without=("path",))

    def _table(self) -> Table:
        return Table(self._caption(), HEADINGS, [cells(row) for row in self.rows])

    def __repr__(self) -> str:
        return "\n".join([self._caption(), self._table().to_text(align=">"), *self.notes])

    def _caption(self) -> str:
        return f"{self.source.name}: {self.n_scored:,} tokens scored at n_ctx={self.n_ctx}, against {self.reference}"

    def _repr_html_(self) -> str:
        return self._table().to_html() + notes_html(self.notes)


HEADINGS = ["type", "MB", "bits per weight", "perplexity", "KL", "same top token", "prompt tok/s", "decode tok/s"]


def cells(row: QuantizationQuality) -> list[str]:
    """Return a type's figures formatted, one for each of ``HEADINGS``."""
    return [
        row.quantization,
        f"{row.file_size_bytes / 1e6:,.1f}",
        f"{row.bits_per_weight:.2f}",
        f"{row.perplexity:.2f} ± {row.perplexity_standard_error:.2f}",
        f"{row.kl_divergence:.4f}",
        f"{row.top_token_agreement:.1%}",
        f"{row.prompt_tokens_per_second:.0f}",
        f"{row.decode_tokens_per_second:.1f}",
    ]
