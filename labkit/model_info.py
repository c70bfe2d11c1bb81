"""get_model_info: describe a GGUF model from its header."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labkit.errors import GGUFError
from labkit.gguf_file import Header, LazyArray, read_header
from labkit.gguf_file.file_type import quantization_name
from labkit.gguf_file.preflight import preflight
from labkit.kv_cache.layers import RECURRENT, model_layers
from labkit.models import resolve_model
from labkit.models.hub import endpoint
from labkit.models.pasted import hub_reference, unwrap
from labkit.models.resolve import as_reference, cached_model
from labkit.records import Record, to_plain
from labkit.system.engine_library import engine_knows

_STATE_KEYS = ("ssm.inner_size", "ssm.state_size", "shortconv.l_cache", "kda.head_dim", "wkv.head_size")

PerLayer = int | tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ModelInfo(Record):
    """Description of a model. A value missing from the file is None.

    Attributes
    ----------
    architecture, name, quantization : str
        For example ``"llama"``; the model's name, or the file's; the usual name, such as ``"Q4_K_M"``.
    parameter_count : int
        Number of weights in all tensors.
    context_length : int or None
        Context length of the training, tokens.
    file_size_bytes, weights_bytes : int
        Size of all files; size of the tensors alone.
    bits_per_weight : float
        ``8 * weights_bytes / parameter_count``.
    gguf_version, tensor_count : int
        Version of the format; tensors in all parts.
    tensor_types : dict
        Type -> (number of tensors, their bytes), largest first.
    block_count, embedding_length : int or None
        Number of layers; numbers per token embedding.
    feed_forward_length, head_count, head_count_kv : int, tuple of int or None
        One number where all layers agree, else one per layer; 0 where a layer has none.
    head_dim_k, head_dim_v : int or None
        Length of one key and one value head, as they are cached.
    sliding_window : int or None
        Tokens that the sliding-window layers look back, where the engine uses a window.
    expert_count, expert_used_count : int or None
        For a mixture of experts: number of experts, and number used per token.
    layer_kinds : tuple of str
        Differences from plain attention: ``"mixture of experts"``, ``"sliding window"``, ``"latent attention"``,
        ``"recurrent"``, ``"hybrid"``.
    vocab_size : int or None
        Tokens in the vocabulary.
    tokenizer, chat_template, license : str or None
        ``"gpt2"`` is byte-pair, ``"llama"`` SentencePiece; the Jinja template; the license as named in the file.
    metadata : Mapping
        Every key; long arrays are lazy.
    warnings : tuple of str
        Problems of the file, and whether `load_model` will refuse it; one sentence each.
    path : str
        The path or address that was read.
    """

    architecture: str
    name: str
    quantization: str
    parameter_count: int
    context_length: int | None
    file_size_bytes: int
    weights_bytes: int
    bits_per_weight: float
    gguf_version: int
    tensor_count: int
    tensor_types: dict[str, tuple[int, int]]
    block_count: int | None
    embedding_length: int | None
    feed_forward_length: PerLayer
    head_count: PerLayer
    head_count_kv: PerLayer
    head_dim_k: int | None
    head_dim_v: int | None
    sliding_window: int | None
    expert_count: int | None
    expert_used_count: PerLayer
    layer_kinds: tuple[str, ...]
    vocab_size: int | None
    tokenizer: str | None
    chat_template: str | None
    license: str | None
    metadata: Mapping[str, Any]
    warnings: tuple[str, ...]
    path: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values; a long array becomes its type and length."""
        plain = {key: to_plain(value) for key, value in self.items() if key != "metadata"}
        return {**plain, "metadata": {key: _plain_value(value) for key, value in self.metadata.items()}}


def _plain_value(value: Any) -> Any:
    return {"type": value.type, "length": len(value)} if isinstance(value, LazyArray) else to_plain(value)


def get_model_info(model_path: str | Path | None = None) -> ModelInfo:
    """Describe a model from its header: a few milliseconds, whatever its size.

    Parameters
    ----------
    model_path : str, Path or None
        A file, any part of a split model, a name from `list_models`, or the ``http(s)`` address of a file on a server that
        supports range requests (only the header is fetched). None is the bundled model.

    Raises
    ------
    ModelNotFoundError
        No such file or name.
    GGUFError
        The file is not a valid GGUF. A valid file that would abort the process is *not* refused: see ``warnings``.
    DownloadError
        The server cannot be reached, or does not support range requests.

    Examples
    --------
    >>> info = get_model_info()
    >>> info.architecture, info.quantization, f"{info.parameter_count:,}", f"{info.bits_per_weight:.2f}"
    ('llama', 'Q4_1', '134,515,008', '5.74')
    """
    return describe_model(read_model_header(model_path))


def read_model_header(model_path: str | Path | None = None) -> Header:
    """Return the header that `get_model_info` describes: of a file, a name, an address, or the bundled model."""
    if not isinstance(model_path, str):
        return read_header(resolve_model(model_path) if model_path is None or isinstance(model_path, Path) else model_path)
    address = _address(model_path)
    return read_header(address or resolve_model(model_path))


def _address(text: str) -> str | None:
    """Return an address to read a header from; None for a file on this machine, also one fetched from that address."""
    reference = as_reference(text)
    if hub_reference(text) is None or reference is None:
        bare = unwrap(text)
        return bare if re.match(r"https?://", bare, re.IGNORECASE) else None
    if cached_model(reference) is not None or reference.filename is None:
        return None
    return f"{endpoint()}/{reference.repository}/resolve/main/{quote(reference.filename)}"


def describe_model(header: Header) -> ModelInfo:
    """Describe a model from a header; see `get_model_info`."""
    quantization, doubt = quantization_name(header)
    heads = _per_layer(header, "attention.head_count")
    heads_kv = _per_layer(header, "attention.head_count_kv")
    window = _sliding_window(header)
    return ModelInfo(
        architecture=header.architecture,
        name=_text(header, "general.name") or Path(header.names[0]).stem,
        quantization=quantization,
        parameter_count=header.parameter_count,
        context_length=_int(header, "context_length"),
        file_size_bytes=header.file_size_bytes,
        weights_bytes=header.weights_bytes,
        bits_per_weight=8 * header.weights_bytes / header.parameter_count if header.parameter_count else 0.0,
        gguf_version=header.version,
        tensor_count=len(header.tensors),
        tensor_types=header.tensor_types,
        block_count=_int(header, "block_count"),
        embedding_length=_int(header, "embedding_length"),
        feed_forward_length=_per_layer(header, "feed_forward_length", "expert_feed_forward_length"),
        head_count=heads,
        head_count_kv=heads if heads_kv is None else heads_kv,
        head_dim_k=_head_dim(header, "attention.key_length", heads),
        head_dim_v=_head_dim(header, "attention.value_length", heads),
        sliding_window=window,
        expert_count=_int(header, "expert_count"),
        expert_used_count=_per_layer(header, "expert_used_count"),
        layer_kinds=_layer_kinds(header, heads_kv, window),
        vocab_size=vocab_size(header),
        tokenizer=_text(header, "tokenizer.ggml.model"),
        chat_template=_text(header, "tokenizer.chat_template"),
        license=_text(header, "general.license"),
        metadata=header.metadata,
        warnings=_warnings(header, doubt, window),
        path=header.source,
    )


def _text(header: Header, key: str) -> str | None:
    value = header.metadata.get(key)
    return value if isinstance(value, str) and value else None


def _int(header: Header, name: str) -> int | None:
    value = header.hparam(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _per_layer(header: Header, *names: str) -> PerLayer:
    """Return the first key that exists: a number, or a tuple where layers differ."""
    for name in names:
        value = header.hparam(name)
        if isinstance(value, (tuple, LazyArray)) and all(isinstance(item, int) for item in value[:1024]):
            values = tuple(int(item) for item in value[:1024])
            return values[0] if len(set(values)) == 1 else values
        if isinstance(value, int):
            return int(value)
    return None


def _head_dim(header: Header, name: str, heads: PerLayer) -> int | None:
    """Return the length of one head: as given, else the embedding width divided by the number of query heads."""
    given, width = _int(header, name), _int(header, "embedding_length")
    if given is not None:
        return given
    most = max(heads, default=0) if isinstance(heads, tuple) else heads
    return width // most if most and most > 0 and width is not None else None


def _sliding_window(header: Header) -> int | None:
    try:
        return model_layers(header).window or None
    except GGUFError:  # a damaged header is described as far as possible
        return None


def _layer_kinds(header: Header, heads_kv: PerLayer, window: int | None) -> tuple[str, ...]:
    has_state = any(header.hparam(key) for key in _STATE_KEYS)
    attends = bool(heads_kv) or bool(header.hparam("attention.head_count"))
    recurrent = header.architecture in RECURRENT or (has_state and not attends)
    kinds = {
        "mixture of experts": bool(_int(header, "expert_count")),
        "sliding window": window is not None,
        "latent attention": bool(header.hparam("attention.kv_lora_rank")),
        "recurrent": recurrent,
        "hybrid": has_state and not recurrent,
    }
    return tuple(kind for kind, is_so in kinds.items() if is_so)


def vocab_size(header: Header) -> int | None:
    """Return the number of tokens in the vocabulary."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, (tuple, LazyArray)):
        return len(tokens)
    table = header.tensor("token_embd.weight")
    return _int(header, "vocab_size") or (table.shape[1] if table is not None and len(table.shape) == 2 else None)


def _warnings(header: Header, doubt: str | None, window: int | None) -> tuple[str, ...]:
    named = _int(header, "attention.sliding_window")
    own = [doubt] if doubt else []
    if named and window is None and engine_knows(header.architecture):
        own.append(f"the file names a sliding window of {named:,}, which llama.cpp does not use for {header.architecture}")
    try:
        return (*own, *preflight(header, vocabulary=bool(header.paths)))
    except GGUFError as error:
        return (*own, *header.warnings, f"load_model will refuse it: {error}")
