"""The roofline: operations per byte of a pass through a model, and the speed that reading and computing allow."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from labkit.checks import check_int
from labkit.gguf_file import Header
from labkit.kv_cache.layers import model_layers
from labkit.model_info import read_model_header
from labkit.records import Record
from labkit.roofline.work import Attention, Matrix, attentions, matrices


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PassWork(Record):
    """What one pass through a model reads and computes.

    Attributes
    ----------
    n_tokens : int
        Tokens computed together: one per text in decoding, several of one text in prefill.
    n_bytes : float
        Bytes of weights and cache that are read.
    operations : float
        Multiplications and additions.
    """

    n_tokens: int
    n_bytes: float
    operations: float

    @property
    def operations_per_byte(self) -> float:
        """The arithmetic intensity: the place on the roofline's horizontal axis."""
        return self.operations / self.n_bytes

    def at(self, tokens_per_second: float) -> tuple[float, float]:
        """Return a measured speed as a point of the roofline: operations per byte, operations per second."""
        return self.operations_per_byte, tokens_per_second * self.operations / self.n_tokens

    def ceiling(self, read_bytes_per_second: float, operations_per_second: float) -> float:
        """Return the tokens per second of all texts that reading and computing allow, whichever is slower."""
        reading_s, computing_s = self.n_bytes / read_bytes_per_second, self.operations / operations_per_second
        return self.n_tokens / max(reading_s, computing_s)

    def limit(self, read_bytes_per_second: float, operations_per_second: float) -> Literal["bandwidth", "compute"]:
        """Return which of the two is slower."""
        reads_longer = self.n_bytes / read_bytes_per_second >= self.operations / operations_per_second
        return "bandwidth" if reads_longer else "compute"


def pass_work(
    model: Header | str | Path | None = None, *, n_parallel: int = 1, n_tokens: int = 1, depth: int = 64
) -> PassWork:
    """Count the bytes and operations of one pass, from a model's header.

    Parameters
    ----------
    model : Header, str, Path or None
        As for `predict_speed`.
    n_parallel : int
        Texts computed together.
    n_tokens : int
        Tokens per text: 1 in decoding, many in prefill.
    depth : int
        Tokens already in the cache of each text.

    Examples
    --------
    >>> one, ten = pass_work(), pass_work(n_parallel=10)
    >>> round(ten.operations / one.operations), round(ten.n_bytes / one.n_bytes, 1)
    (10, 1.5)
    """
    header = model if isinstance(model, Header) else read_model_header(model)
    for name, value, least in (("n_parallel", n_parallel, 1), ("n_tokens", n_tokens, 1), ("depth", depth, 0)):
        check_int(name, value, least, 2**20)
    products = matrices(header, n_tokens * n_parallel, n_parallel)
    looks = attentions(model_layers(header), depth, n_tokens, n_parallel)
    work: list[Matrix | Attention] = [*products, *looks]
    n_bytes, operations = sum(each.n_bytes * each.count for each in work), sum(each.operations for each in work)
    return PassWork(n_tokens * n_parallel, n_bytes, operations)
