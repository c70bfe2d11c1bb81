"""Random blocks, quantized once and reused: data of any size, as fast as it can be copied.

Quantizing 7 billion weights takes minutes; a *pool* of a few thousand blocks takes a tenth of a second. A tensor repeats
the pool, each time in a new random order, so that no two rows of a real width are equal and no two tokens' logits tie.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from labkit.gguf_file.formats import TensorType
from labkit.ghost.layout import Tensor
from labkit.quantize.blocks import quantize_rows

_POOL_WEIGHTS = 1 << 20  # 4,096 super-blocks: 0.6 MB of Q4_K, small enough for a processor's cache
_CHUNK_BYTES = 1 << 22
_BIAS = 0.02
_QUERY = 4.0
# A tied embedding is smaller: otherwise each token would predict itself. Queries are larger: otherwise attention would
# average over all tokens equally, every position would get the same activations, and the text would repeat one word.
_SPREAD = {"weights": 1.0, "output": 1.0, "tied": 0.1, "queries": _QUERY}
_QUIET = 0.1  # spread of the control tokens relative to the others, so that they rarely end a text
_DT_MIN, _DT_MAX = 0.001, 0.1  # Mamba's range of time steps (state-spaces/mamba, mamba_simple.py)

_Bytes = npt.NDArray[np.uint8]


class Pools:
    """The data of every tensor of one model: the same seed gives the same bytes.

    A pool is sized for the largest tensor that uses it. The first ``n_control`` tokens of the vocabulary are control tokens.
    """

    def __init__(self, plan: list[tuple[Tensor, TensorType]], seed: int, n_control: int = 0) -> None:
        self._seed, self._n_control = seed, n_control
        self._pools: dict[tuple[int, int, str], npt.NDArray[np.void]] = {}
        self._units: dict[tuple[int, int, str], int] = {}
        for tensor, kind in plan:
            if tensor.fill in _SPREAD:
                key = (kind.id, tensor.shape[0], tensor.fill)
                self._units[key] = max(self._units.get(key, 1), _units(tensor, kind))

    def data(self, tensor: Tensor, kind: TensorType) -> Iterator[_Bytes]:
        """Yield a tensor's bytes in chunks of a few MB."""
        rng = np.random.default_rng([self._seed, zlib.crc32(tensor.name.encode("utf-8"))])
        if tensor.fill not in _SPREAD:
            yield _vector(tensor, rng).astype("<f4").view(np.uint8)
            return
        pool = self._pool(tensor, kind)
        per_piece = max(1, _CHUNK_BYTES // (len(pool) * pool.itemsize))
        left = tensor.n_elements // _unit(tensor.shape[0], kind)
        if tensor.fill in ("output", "tied"):
            quiet = _random(rng, (self._n_control, tensor.shape[0]), tensor, _QUIET)
            left -= quiet.size // _unit(tensor.shape[0], kind)
            yield quantize_rows(kind.name, quiet).ravel()
        while left:
            orders = [rng.permutation(len(pool)) for _ in range(min(per_piece, math.ceil(left / len(pool))))]
            order = np.concatenate(orders)[:left]
            left -= len(order)
            yield pool[order].view(np.uint8)

    def _pool(self, tensor: Tensor, kind: TensorType) -> npt.NDArray[np.void]:
        n_columns = tensor.shape[0]
        key = (kind.id, n_columns, tensor.fill)
        if key not in self._pools:
            rng = np.random.default_rng([self._seed, kind.id, n_columns])
            blocks = quantize_rows(kind.name, _random(rng, (self._units[key], _unit(n_columns, kind)), tensor))
            self._pools[key] = blocks.view(f"V{blocks.shape[1]}").ravel()
        return self._pools[key]


def _random(rng: np.random.Generator, shape: tuple[int, int], tensor: Tensor, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Return normal numbers of variance 1 / row length, times the tensor's spread, so activations keep their size."""
    spread = scale * _SPREAD[tensor.fill] * tensor.shape[0] ** -0.5
    return np.asarray(rng.standard_normal(shape, np.float32) * np.float32(spread), np.float32)


def _unit(n_columns: int, kind: TensorType) -> int:
    """Return the number of weights per unit of the pool: a block, or a divisor of the row for types without blocks."""
    return kind.block_size if kind.is_quantized else math.gcd(n_columns, 32)


def _units(tensor: Tensor, kind: TensorType) -> int:
    """Return the number of units in a tensor's pool: at least one per row if a row is one unit, so that rows differ."""
    unit = _unit(tensor.shape[0], kind)
    rows, in_all = tensor.n_elements // tensor.shape[0], tensor.n_elements // unit
    return min(in_all, max(_POOL_WEIGHTS // unit, rows if tensor.shape[0] == unit else 1))


def _vector(tensor: Tensor, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return the values of a tensor that is not a weight matrix, flat."""
    n = tensor.n_elements
    if tensor.fill in ("ones", "query norm"):
        return np.full(n, 1 if tensor.fill == "ones" else _QUERY, np.float32)
    if tensor.fill == "bias":
        return np.asarray(rng.standard_normal(n, np.float32) * np.float32(_BIAS), np.float32)
    if tensor.fill == "step":  # its softplus is between _DT_MIN and _DT_MAX
        steps = np.exp(rng.uniform(math.log(_DT_MIN), math.log(_DT_MAX), n))
        return np.asarray(np.log(np.expm1(steps)), np.float32)
    # decay rates of the state: -1 to -d_state in each row (Mamba), -1 to -16 over the heads (Mamba 2)
    rate = np.arange(n) % tensor.shape[0] + 1 if tensor.shape[0] > 1 else rng.uniform(1, 16, n)
    return np.asarray(-rate, np.float32)
