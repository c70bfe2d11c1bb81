"""Describe a GGUF model from its header alone: a file, a name from `labkit models`, or an http(s) URL."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable, Iterator, Sequence

from labkit.cli.arguments import add_model
from labkit.cli.output import Output
from labkit.gguf_file import Header, LazyArray, TensorInfo
from labkit.gguf_file.formats import tensor_type
from labkit.model_info import ModelInfo, describe_model, read_model_header
from labkit.units import counted, format_bytes, format_count

_ORDERS: dict[str, Callable[[TensorInfo], str | int]] = {
    "name": lambda tensor: tensor.name,
    "bytes": lambda tensor: -tensor.n_bytes,
    "type": lambda tensor: tensor.type.name,
    "order": lambda tensor: 0,  # as stored: sorting is stable
}
HELP = "describe a model: summary, metadata keys, tensors"

_MAX_CHARACTERS = 100  # of a value in the list of keys
_MAX_CHARACTERS_ALONE = 20_000  # of a value that is listed alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, by_header=True)
    parser.add_argument("--tensors", action="store_true", help="list the tensors")
    parser.add_argument("--sort", choices=tuple(_ORDERS), default="order", help="order of the tensors; default: as stored")
    parser.add_argument("--keys", action="store_true", help="list the metadata keys")
    parser.add_argument(
        "--filter", metavar="TEXT", help="only tensors (or keys) whose name or type matches this text or pattern"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    header = read_model_header(args.model)
    info = describe_model(header)
    chosen = [tensor for tensor in header.tensors if _matches(args.filter, tensor.name, tensor.type.name)]
    tensors = sorted(chosen, key=_ORDERS[args.sort])
    if out.as_json:
        document = info.to_dict()
        if args.tensors:
            document["tensors"] = [{**tensor, "type": tensor.type.name} for tensor in tensors]
        if args.keys and args.filter:
            kept = {key for key, kind in header.types.items() if _matches(args.filter, key, kind)}
            document["metadata"] = {key: value for key, value in document["metadata"].items() if key in kept}
        out.result(document)
        return 0
    if args.keys:
        _show_keys(header, args.filter, out)
    if args.tensors:
        _show_tensors(tensors, len(header.tensors), out)
    if not (args.keys or args.tensors):
        _show_card(info, out)
    return 0


def _matches(pattern: str | None, *texts: str) -> bool:
    """Return whether a text contains a pattern or matches it as a shell pattern; None matches everything."""
    wanted = (pattern or "").lower()
    return any(wanted in text.lower() or fnmatch.fnmatchcase(text.lower(), wanted) for text in texts)


def _show_card(info: ModelInfo, out: Output) -> None:
    out.title(info.name)
    out.table(("", ""), list(_card(info)))
    total = max(1, info.weights_bytes)
    rows = [
        (name, f"{count:,}", format_bytes(n_bytes), f"{n_bytes / total:.1%}", f"{tensor_type(name).bits_per_weight:.3g}")
        for name, (count, n_bytes) in info.tensor_types.items()
    ]
    out.table(("type", "tensors", "bytes", "share", "bits/weight"), rows, right=range(1, 5))
    for warning in info.warnings:
        out.say(f"warning: {warning}", style="yellow")
    out.say("More: --keys lists the metadata, --tensors the tensors; --filter TEXT filters both.", style="dim")


def _card(info: ModelInfo) -> Iterator[tuple[str, str]]:
    """Yield the rows of the summary, without those that the header has no value for."""
    yield "architecture", ", ".join((info.architecture, *info.layer_kinds))
    yield "quantization", f"{info.quantization}, {info.bits_per_weight:.2f} bits per weight"
    exact = f"({info.parameter_count:,}) in {counted(info.tensor_count, 'tensor')}"
    yield "parameters", f"{format_count(info.parameter_count)} {exact}"
    yield "file", f"{format_bytes(info.file_size_bytes)} ({info.file_size_bytes:,} bytes), GGUF {info.gguf_version}"
    if info.context_length is not None:
        yield "context", f"{info.context_length:,} tokens"
    if info.block_count is not None:
        width = f", embedding length {info.embedding_length:,}" if info.embedding_length is not None else ""
        yield "layers", f"{info.block_count:,}{width}"
    if info.head_count is not None:
        sizes = f"; dimension {info.head_dim_k} (keys), {info.head_dim_v} (values)" if info.head_dim_k is not None else ""
        yield "heads", f"{_per_layer(info.head_count)} query, {_per_layer(info.head_count_kv)} key/value{sizes}"
    if info.feed_forward_length is not None:
        yield "feed forward", _per_layer(info.feed_forward_length)
    if info.sliding_window is not None:
        yield "sliding window", f"{info.sliding_window:,} tokens"
    if info.expert_count:
        yield "experts", f"{info.expert_count:,}, {_per_layer(info.expert_used_count)} used per token"
    if info.vocab_size is not None:
        yield "vocabulary", f"{info.vocab_size:,} tokens"
    yield "tokenizer", info.tokenizer or "none"
    template = info.chat_template
    size = "none" if template is None else f"{counted(len(template), 'character')} (--keys --filter chat_template)"
    yield "chat template", size
    yield "licence", info.license or "not stated"
    yield "read from", info.path


def _per_layer(value: int | tuple[int, ...] | None) -> str:
    if isinstance(value, tuple):
        return f"{min(value):,} to {max(value):,} by layer" if value else "none"
    return "?" if value is None else f"{value:,}"


def _show_keys(header: Header, pattern: str | None, out: Output) -> None:
    kept = [key for key in header.metadata if _matches(pattern, key, header.types[key])]
    limit = _MAX_CHARACTERS_ALONE if len(kept) == 1 and pattern is not None else _MAX_CHARACTERS
    rows = [(key, header.types[key], shorten_value(header.metadata[key], limit)) for key in kept]
    if len(rows) == 1 and "\n" in rows[0][2]:  # text of several lines does not fit into a table
        out.say(f"{rows[0][0]} ({rows[0][1]})", style="bold")
        out.say(rows[0][2])
    else:
        out.table(("key", "type", "value"), rows)
    out.say(f"{len(kept):,} of {len(header.metadata):,} keys", style="dim")


def shorten_value(value: object, limit: int = _MAX_CHARACTERS) -> str:
    """Return a metadata value as a short text; for a long array, its length."""
    if isinstance(value, LazyArray):
        return counted(len(value), "element")
    text = f"[{', '.join(str(item) for item in value)}]" if isinstance(value, tuple) else str(value)
    if limit <= _MAX_CHARACTERS:
        text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}… ({counted(len(text), 'character')})"


def _show_tensors(tensors: Sequence[TensorInfo], n_all: int, out: Output) -> None:
    rows = [
        (one.name, one.type.name, " × ".join(f"{length:,}" for length in one.shape), f"{one.n_bytes:,}", f"{one.offset:,}")
        for one in tensors
    ]
    out.table(("name", "type", "shape", "bytes", "offset"), rows, right=(3, 4))
    size = format_bytes(sum(tensor.n_bytes for tensor in tensors))
    out.say(f"{len(tensors):,} of {n_all:,} tensors, {size}", style="dim")
