"""Preflight of latent attention (MLA): a cached key has a compressed and a rotated part; the lengths must add up."""

from __future__ import annotations

from labkit.gguf_file.header import Header
from labkit.gguf_file.preflight.architectures import LATENT
from labkit.gguf_file.preflight.hparams import head_length, per_layer, refuse, uint


def check_latent(header: Header) -> tuple[str, ...]:
    """Refuse head lengths that do not match what llama.cpp's graph concatenates.

    Notes
    -----
    ``key_length = kv_lora_rank + rope.dimension_count`` is cached per token; ``key_length_mla`` is the length of a
    query head, of which ``rope.dimension_count`` are rotated (src/models/deepseek2.cpp).
    """
    cached = head_length(header)
    rotated = uint(header, "rope.dimension_count", cached)
    if header.architecture not in LATENT or cached is None or rotated is None:
        return ()
    unpacked, unpacked_v = uint(header, "attention.key_length_mla", 0), uint(header, "attention.value_length_mla", 0)
    is_latent = bool(unpacked) and bool(unpacked_v)
    head = (unpacked if is_latent else cached) or 0
    if rotated >= head:
        refuse(header, f"{rotated:,} of {head:,} dimensions of a head are rotated, at least one must be left")
    rank = uint(header, "attention.kv_lora_rank", 0) or 0
    if is_latent and cached != rank + rotated:
        key = f"{header.architecture}.attention.key_length"
        refuse(header, f"key '{key}' is {cached:,}, kv_lora_rank {rank:,} and rope.dimension_count {rotated:,} are needed")
    heads_kv = per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count")
    if is_latent and any(n_kv != 1 for n_kv in heads_kv):
        refuse(header, f"key '{header.architecture}.attention.head_count_kv' is {max(heads_kv):,}, latent attention needs 1")
    if header.hparam("attention.temperature_scale") and not uint(header, "attention.temperature_length"):
        refuse(header, f"key '{header.architecture}.attention.temperature_length' is missing, but temperature_scale is set")
    return ()
