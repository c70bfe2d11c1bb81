"""A solution of the seven functions that a student might write, with llama_cpp and gguf only."""

import functools
import time
from pathlib import Path

import gguf
import psutil
from llama_cpp import Llama

TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 15: "Q4_K_M", 17: "Q5_K_M", 18: "Q6_K"}


def load_model(model_path, n_ctx=2048, n_threads=None, n_gpu_layers=0, **kwargs):
    if not Path(model_path).is_file():
        raise FileNotFoundError(model_path)
    return Llama(
        str(model_path), n_ctx=n_ctx, n_threads=n_threads, n_gpu_layers=n_gpu_layers, **{"verbose": False, **kwargs}
    )


def generate_text(model, prompt, max_tokens=100, temperature=0.7, **kwargs):
    answer = model.create_completion(prompt, max_tokens=max_tokens, temperature=temperature, **kwargs)
    return answer["choices"][0]["text"]


def generate_chat(model, messages, max_tokens=100, temperature=0.7, **kwargs):
    answer = model.create_chat_completion(list(messages), max_tokens=max_tokens, temperature=temperature, **kwargs)
    return answer["choices"][0]["message"]["content"]


@functools.cache
def header(model_path):
    reader = gguf.GGUFReader(str(model_path))
    keys = {name: field.contents() for name, field in reader.fields.items() if "tokens" not in name and "merges" not in name}
    return reader, keys, keys["general.architecture"]


def get_model_info(model_path):
    reader, keys, arch = header(model_path)
    parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    weights = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    return {
        "architecture": arch,
        "quantization": TYPES[keys["general.file_type"]],
        "parameter_count": parameters,
        "context_length": keys[f"{arch}.context_length"],
        "file_size_bytes": Path(model_path).stat().st_size,
        "bits_per_weight": 8 * weights / parameters,
        "block_count": keys[f"{arch}.block_count"],
        "embedding_length": keys[f"{arch}.embedding_length"],
        "head_count": keys[f"{arch}.attention.head_count"],
        "head_count_kv": keys[f"{arch}.attention.head_count_kv"],
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
    }


def estimate_memory_usage(model_path, n_ctx=2048):
    reader, keys, arch = header(model_path)
    head_dim = keys[f"{arch}.embedding_length"] // keys[f"{arch}.attention.head_count"]
    heads = keys[f"{arch}.attention.head_count_kv"]
    weights = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    cache = keys[f"{arch}.block_count"] * n_ctx * heads * head_dim * 2 * 2
    overhead = 130 * 2**20
    return {
        "file_size_bytes": Path(model_path).stat().st_size,
        "weights_bytes": weights,
        "kv_cache_bytes": cache,
        "total_bytes": weights + cache + overhead,
    }


def benchmark_inference(model, prompts, max_tokens=64):
    firsts, total, begun = [], 0, time.perf_counter()
    no_end = {model.token_eos(): -100.0}
    for prompt in prompts:
        model.reset()
        started = time.perf_counter()
        stream = model.create_completion(prompt, max_tokens=max_tokens, temperature=0, stream=True, logit_bias=no_end)
        for count, _ in enumerate(stream):
            if count == 0:
                firsts.append(time.perf_counter() - started)
        total += max_tokens
    elapsed = time.perf_counter() - begun
    return {
        "tokens_per_second": total / elapsed,
        "time_to_first_token_s": sorted(firsts)[len(firsts) // 2],
        "total_tokens": total,
        "elapsed_s": elapsed,
        "memory_bytes": psutil.Process().memory_info().rss,
    }


def count_tokens(model, text):
    return len(model.tokenize(text.encode("utf-8"), add_bos=False, special=False))
