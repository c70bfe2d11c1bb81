"""Models of a real shape with random weights, for measuring memory; synthetic, and named so in their metadata.

A stand-in until labkit builds ghost models itself. One block of weights is quantized by ggml and repeated: the size, the
layout and the speed are those of a real model, the text is noise.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from llama_cpp._ggml import libggml

Q4_K, Q6_K, Q8_0 = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K, gguf.GGMLQuantizationType.Q8_0


def quantized(kind: Any, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Return ``rows`` equal rows of random weights, quantized by ggml: shape (rows, bytes a row)."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    row = np.random.default_rng(0).normal(0.0, 0.02, columns).astype(np.float32)
    data = np.zeros(columns // block * block_bytes, np.uint8)
    chunk = libggml.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (row, data)]
    chunk(ctypes.c_int(int(kind)), *pointers, ctypes.c_int64(0), ctypes.c_int64(1), ctypes.c_int64(columns), None)
    return np.tile(data, (rows, 1))


class Writer:
    """A GGUF file of one architecture; equal tensors share their memory while it is written."""

    def __init__(self, path: Path, architecture: str, name: str, n_vocab: int) -> None:
        self.gguf = gguf.GGUFWriter(path, architecture)
        self.gguf.add_name(f"{name} (synthetic: random weights, real shape)")
        self._arrays: dict[tuple[int, int, int], np.ndarray[Any, Any]] = {}
        self._add_vocabulary(n_vocab)

    def _add_vocabulary(self, n_vocab: int) -> None:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens += [f"▁t{index}" for index in range(n_vocab - len(tokens))]
        kinds = [2, 3, 3] + [6] * 256 + [1] * (n_vocab - 259)
        self.gguf.add_tokenizer_model("llama")
        self.gguf.add_token_list(tokens)
        self.gguf.add_token_scores([-float(index) for index in range(n_vocab)])
        self.gguf.add_token_types(kinds)
        self.gguf.add_bos_token_id(1)
        self.gguf.add_eos_token_id(2)

    def matrix(self, name: str, rows: int, columns: int, kind: Any) -> None:
        """Add a quantized matrix."""
        key = (rows, columns, int(kind))
        if key not in self._arrays:
            self._arrays[key] = quantized(kind, rows, columns)
        self.gguf.add_tensor(name, self._arrays[key], raw_dtype=kind)

    def norm(self, name: str, width: int) -> None:
        """Add a norm: ones."""
        self.gguf.add_tensor(name, np.ones(width, np.float32))

    def close(self) -> None:
        """Write it all."""
        self.gguf.write_header_to_file()
        self.gguf.write_kv_data_to_file()
        self.gguf.write_tensors_to_file()
        self.gguf.close()


def write_llama_7b(path: Path) -> None:
    """Write Llama-2-7B's shape in Q4_K_M: 32 layers of width 4,096, 32 heads, 3.8 GiB."""
    writer = Writer(path, "llama", "Llama-2-7B shape", 32_000)
    out = writer.gguf
    out.add_block_count(32)
    out.add_context_length(4096)
    out.add_embedding_length(4096)
    out.add_feed_forward_length(11_008)
    out.add_head_count(32)
    out.add_head_count_kv(32)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(128)
    out.add_vocab_size(32_000)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.matrix("token_embd.weight", 32_000, 4096, Q4_K)
    writer.matrix("output.weight", 32_000, 4096, Q6_K)
    writer.norm("output_norm.weight", 4096)
    for layer in range(32):
        better = Q6_K if layer < 4 or layer >= 28 or layer % 3 == 2 else Q4_K  # llama.cpp's use_more_bits, for 32 layers
        for name in ("attn_q", "attn_k", "attn_output"):
            writer.matrix(f"blk.{layer}.{name}.weight", 4096, 4096, Q4_K)
        writer.matrix(f"blk.{layer}.attn_v.weight", 4096, 4096, better)
        for name in ("ffn_gate", "ffn_up"):
            writer.matrix(f"blk.{layer}.{name}.weight", 11_008, 4096, Q4_K)
        writer.matrix(f"blk.{layer}.ffn_down.weight", 4096, 11_008, better)
        for name in ("attn_norm", "ffn_norm"):
            writer.norm(f"blk.{layer}.{name}.weight", 4096)
    writer.close()


def write_gemma_270m(path: Path) -> None:
    """Write Gemma-3-270M's shape in Q8_0: 18 layers, a window of 512 tokens in five of six, a vocabulary of 262,144."""
    width, hidden, heads, head = 640, 2048, 4, 256
    writer = Writer(path, "gemma3", "Gemma-3-270M shape", 262_144)
    out = writer.gguf
    out.add_block_count(18)
    out.add_context_length(32_768)
    out.add_embedding_length(width)
    out.add_feed_forward_length(hidden)
    out.add_head_count(heads)
    out.add_head_count_kv(1)
    out.add_key_length(head)
    out.add_value_length(head)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_sliding_window(512)
    out.add_rope_freq_base(1e6)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.matrix("token_embd.weight", 262_144, width, Q8_0)
    writer.norm("output_norm.weight", width)
    for layer in range(18):
        writer.matrix(f"blk.{layer}.attn_q.weight", heads * head, width, Q8_0)
        for name in ("attn_k", "attn_v"):
            writer.matrix(f"blk.{layer}.{name}.weight", head, width, Q8_0)
        writer.matrix(f"blk.{layer}.attn_output.weight", width, heads * head, Q8_0)
        for name in ("ffn_gate", "ffn_up"):
            writer.matrix(f"blk.{layer}.{name}.weight", hidden, width, Q8_0)
        writer.matrix(f"blk.{layer}.ffn_down.weight", width, hidden, Q8_0)
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            writer.norm(f"blk.{layer}.{name}.weight", width)
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.norm(f"blk.{layer}.{name}.weight", head)
    writer.close()
