"""Time llama.cpp's kernels: the script that `labkit.roofline.kernels` starts.

It reads one line of JSON (the jobs) and writes one (seconds per pass). A crash in llama.cpp ends only this child.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

_P, _INT = ctypes.c_void_p, ctypes.c_int
_F32, _F16 = 0, 1  # ggml_type
_FILLING = 0x21  # each byte of each weight: 0.01 as F16, 5e-19 as F32, and a valid scale and values in quantized blocks


def main() -> None:
    """Time the jobs in the first line of the input."""
    request = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = request["path"]
    kernels = _Kernels(request["n_threads"], request["seconds"])
    times = [kernels.time(job) for job in request["jobs"]]
    sys.stdout.write(json.dumps({"times": times}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # skip freeing, which is slow and not needed at the end of the process


class _Kernels:
    """ggml's CPU backend, called through its public C functions."""

    def __init__(self, n_threads: int, seconds: float) -> None:
        import llama_cpp

        from labkit.system.ggml import CPU, InitParams, computing_functions
        from labkit.system.huge_pages import request_huge_pages

        @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp ships no types
        def silence(_level: int, _text: bytes, _user_data: Any) -> None:
            pass

        self._silence, self._seconds, self._request_huge_pages = silence, seconds, request_huge_pages
        llama_cpp.llama_log_set(silence, _P(0))
        llama_cpp.llama_backend_init()
        self._no_alloc = InitParams(8 << 20, None, True)
        self.c = computing_functions(llama_cpp)
        self.device = self.c["ggml_backend_dev_by_type"](CPU)
        self.backend = self.c["ggml_backend_dev_init"](self.device, None)
        self.plain = self.c["ggml_backend_dev_buffer_type"](self.device)
        registry = self.c["ggml_backend_dev_backend_reg"](self.device)
        find = self.c["ggml_backend_reg_get_proc_address"]
        set_threads = ctypes.CFUNCTYPE(None, _P, _INT)(find(registry, b"ggml_backend_set_n_threads"))
        set_threads(self.backend, n_threads)
        address = find(registry, b"ggml_backend_dev_get_extra_bufts")
        self.extra = list(_until_null(ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(self.device))) if address else []

    def context(self) -> Any:
        """Return a new context for tensors without memory."""
        return self.c["ggml_init"](self._no_alloc)

    def time(self, job: dict[str, Any]) -> float:
        """Return the time of one operation of a job, seconds."""
        return {"matrix": self._matrix, "attention": self._attention, "small": self._small}[job["kind"]](job)

    def _matrix(self, job: dict[str, Any]) -> float:
        """Multiply weight matrices by ``n_columns`` activations, alternating between more matrices than fit in a cache."""
        for buffer_type in (*self.extra, self.plain):
            weights, values = self.context(), self.context()
            matrices = [
                self.c["ggml_new_tensor_2d"](weights, job["type"], job["n_in"], job["n_out"]) for _ in range(job["n_copies"])
            ]
            buffer = self.c["ggml_backend_alloc_ctx_tensors_from_buft"](weights, buffer_type)
            if not buffer:
                continue
            if job["huge_pages"]:
                self._request_huge_pages(sum(map(self.c["ggml_nbytes"], matrices)))
            column = self.c["ggml_new_tensor_2d"](values, _F32, job["n_in"], job["n_columns"])
            # A small operation in between, as in a model, so that the threads have to start again for the next matrix.
            inputs = [self.c["ggml_rms_norm"](values, column, 1e-5) for _ in matrices]
            results = [self.c["ggml_mul_mat"](values, *pair) for pair in zip(matrices, inputs, strict=True)]
            if buffer_type == self.plain or self.c["ggml_backend_dev_supports_op"](self.device, results[0]):
                break
            self.c["ggml_backend_buffer_free"](buffer)
        seconds = self._run(values, results, [*matrices, column]) / len(matrices)
        self.c["ggml_backend_buffer_free"](buffer)
        self.c["ggml_free"](weights)
        return seconds

    def _attention(self, job: dict[str, Any]) -> float:
        """Compute one layer's attention (queries by keys, softmax, by values), alternating between the layers' caches."""
        values = self.context()
        filled, results = [], []
        heads, heads_kv, cells, tokens = job["n_heads"], job["n_heads_kv"], job["n_cells"], job["n_tokens"]
        query = self.c["ggml_new_tensor_3d"](values, _F32, job["key_length"], tokens, heads)
        rows = -(-tokens // 64) * 64
        mask = self.c["ggml_new_tensor_2d"](values, _F16 if job["flash_attn"] else _F32, cells, rows)
        for _ in range(job["n_copies"]):
            keys = self.c["ggml_new_tensor_3d"](values, _F16, job["key_length"], cells, heads_kv)
            shape = (job["value_length"], cells) if job["flash_attn"] else (cells, job["value_length"])
            cached = self.c["ggml_new_tensor_3d"](values, _F16, *shape, heads_kv)
            scale = job["key_length"] ** -0.5
            if job["flash_attn"]:
                result = self.c["ggml_flash_attn_ext"](values, query, keys, cached, mask, scale, 0.0, 0.0)
            else:
                weights = self.c["ggml_soft_max_ext"](values, self.c["ggml_mul_mat"](values, keys, query), None, scale, 0.0)
                result = self.c["ggml_mul_mat"](values, cached, weights)
            filled += [keys, cached]
            results.append(result)
        filled += [query, mask] if job["flash_attn"] else [query]
        return self._run(values, results, filled) / len(results)

    def _small(self, job: dict[str, Any]) -> float:
        """Compute a layer's small operations on one row: the mean time of a norm, a product and a sum."""
        values = self.context()
        row = self.c["ggml_new_tensor_2d"](values, _F32, job["width"], job["n_columns"])
        scale = self.c["ggml_new_tensor_2d"](values, _F32, job["width"], 1)
        result, count = row, 60
        for _ in range(count // 3):
            normed = self.c["ggml_rms_norm"](values, result, 1e-5)
            result = self.c["ggml_add"](values, self.c["ggml_mul"](values, normed, scale), row)
        return self._run(values, [result], [row, scale]) / count

    def _run(self, values: Any, results: list[Any], filled: list[Any]) -> float:
        """Allocate and fill tensors, compute the graph repeatedly; return the median pass in seconds."""
        graph = self.c["ggml_new_graph_custom"](values, 4 * len(results) + 256, False)
        for result in results:
            self.c["ggml_build_forward_expand"](graph, result)
        buffer = self.c["ggml_backend_alloc_ctx_tensors_from_buft"](values, self.plain)
        for tensor in filled:
            n_bytes = self.c["ggml_nbytes"](tensor)
            self.c["ggml_backend_tensor_set"](tensor, bytes([_FILLING]) * n_bytes, 0, n_bytes)
        compute = self.c["ggml_backend_graph_compute"]
        compute(self.backend, graph)
        passes: list[float] = []
        end = time.perf_counter() + self._seconds
        while len(passes) < 3 or time.perf_counter() < end:
            begun = time.perf_counter()
            compute(self.backend, graph)
            passes.append(time.perf_counter() - begun)
        self.c["ggml_backend_buffer_free"](buffer)
        self.c["ggml_free"](values)
        return statistics.median(passes)


def _until_null(array: Any) -> Iterator[Any]:
    index = 0
    while array and array[index]:
        yield array[index]
        index += 1


if __name__ == "__main__":
    main()
