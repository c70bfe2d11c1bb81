"""Build of the installed llama.cpp: CPU features, backends, devices, and the weights it repacks."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labkit.errors import EngineError
from labkit.records import Record
from labkit.system.cgroups import read_text
from labkit.system.engine_library import load_engine
from labkit.system.ggml import find_function
from labkit.system.library_file import this_machine

# CPU features that builds for these processors usually have, as far as labkit depends on them.
_USUAL_FEATURES = {"x86-64": ("AVX2", "REPACK"), "arm64": ("NEON", "DOTPROD", "REPACK")}
# enum ggml_backend_dev_type (ggml/include/ggml-backend.h)
_DEVICE_KINDS = ("CPU", "GPU", "IGPU", "ACCEL", "META")

# Tensor type -> its repacked layouts: (required CPU features, required divisor of the number of rows).
# The first group is ggml_repack_get_optimal_repack_type (ggml/src/ggml-cpu/repack.cpp), in its order of types.
# ARM with 256-bit SVE uses 8 rows of Q4_0 where they divide; it also has NEON, so 4 rows are enough there too.
_NEON_I8MM = frozenset({"NEON", "MATMUL_INT8"})
_NEON_DOT = frozenset({"NEON", "DOTPROD"})
_AVX2 = frozenset({"AVX2"})
_RVV = frozenset({"RISCV_V", "RVV_VLEN=32"})  # 256-bit vectors, in bytes
_REPACK: dict[str, tuple[tuple[frozenset[str], int], ...]] = {
    "Q4_0": ((_AVX2, 8), (_NEON_I8MM, 4), (_NEON_DOT, 4), (frozenset({"VXE"}), 4), (_RVV, 16)),
    "Q4_K": ((_AVX2, 8), (_NEON_I8MM, 8), (_NEON_DOT, 8), (_RVV, 16)),
    "Q2_K": ((frozenset({"AVX512"}), 8), (_RVV, 16)),
    "Q5_K": ((_NEON_I8MM, 8), (_NEON_DOT, 8)),
    "Q6_K": ((_NEON_I8MM, 8), (_NEON_DOT, 8)),
    "IQ4_NL": ((_AVX2, 8), (_NEON_DOT, 4), (_RVV, 16)),
    "MXFP4": ((_AVX2, 8), (_NEON_DOT, 4)),
    "Q8_0": ((_NEON_I8MM, 4), (_NEON_DOT, 4), (_RVV, 16)),
    "Q1_0": ((_NEON_I8MM, 4), (_NEON_DOT, 4)),
}
# Intel's AMX has a separate layout and is tried first (ggml/src/ggml-cpu/amx/amx.cpp, supports_op): the rows must be
# a multiple of 2 tiles of 16, the columns of the value here. F16 is copied unchanged.
_AMX_ROWS = 32
_AMX_COLUMNS = {"Q4_0": 32, "Q4_1": 32, "Q8_0": 32, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "IQ4_XS": 256, "F16": 16}

# Kernel flag -> name in llama.cpp's system info, for the instructions that speed up matrix products most.
_INSTRUCTIONS = (("avx2", "AVX2"), ("avx512f", "AVX512"), ("fma", "FMA"))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Device(Record):
    """A device that llama.cpp can compute on.

    Attributes
    ----------
    name, kind, description : str
        As llama.cpp reports them; the kind is ``"CPU"``, ``"GPU"``, ``"IGPU"`` (integrated), ``"ACCEL"`` or ``"META"``.
    memory_total_bytes, memory_free_bytes : int
        From the driver; for the CPU that is the machine's RAM without a container's limit (see
        `labkit.system.available_ram_bytes`). Both are 0 where llama.cpp reports no memory, as for BLAS.
    pins_memory : bool
        Whether llama.cpp keeps the CPU's share of the weights in RAM that this GPU's driver has pinned.
    """

    name: str
    kind: str
    description: str
    memory_total_bytes: int
    memory_free_bytes: int
    pins_memory: bool = False


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class EngineBuild(Record):
    """Features of the installed llama.cpp.

    Attributes
    ----------
    version : str
        Version of llama-cpp-python; empty if it cannot be loaded and a usual build is assumed.
    features : tuple of str
        Features of the CPU backend ("AVX2", "NEON", "OPENMP", "REPACK", …); a value other than 1 is kept ("SVE_CNT=32").
    backends : tuple of str
        Names of the backends in the build ("CPU", "RPC", "CUDA", "Metal", …).
    has_gpu : bool
        Whether a GPU is usable. ``llama_supports_gpu_offload`` does not say: it is true for every build with RPC.
    has_rpc : bool
        Whether layers can run in another process or on another machine.
    repacked_types : tuple of str
        Tensor types that the CPU backend repacks into a second copy (see `is_repacked`).
    devices : tuple of Device
        Every device, the CPU included.
    """

    version: str
    features: tuple[str, ...]
    backends: tuple[str, ...]
    has_gpu: bool
    has_rpc: bool
    repacked_types: tuple[str, ...]
    devices: tuple[Device, ...]

    @property
    def why_no_gpu(self) -> str:
        """Why no GPU is usable; empty if one is."""
        names = [name for name in self.backends if name not in ("CPU", "RPC", "BLAS")]
        if self.has_gpu:
            return ""
        return (
            f"the {', '.join(names)} backend found no GPU: is its driver installed?"
            if names
            else "built without a GPU backend"
        )

    @property
    def weight_features(self) -> tuple[str, ...]:
        """The `features` that apply to weights on the CPU: next to a GPU with pinned RAM, none of them is repacked."""
        pinned = any(device.pins_memory for device in self.devices)
        return tuple(name for name in self.features if not (pinned and name in ("REPACK", "AMX_INT8")))

    @property
    def gpus(self) -> tuple[Device, ...]:
        """The devices that are GPUs."""
        return tuple(device for device in self.devices if device.kind in ("GPU", "IGPU"))


def engine_build() -> EngineBuild:
    """Return the build of the installed llama.cpp. Imports llama_cpp, which takes about 0.1 s.

    Raises
    ------
    EngineError
        When llama.cpp is not installed or cannot be loaded.
    """
    llama_cpp = load_engine()
    has_rpc = bool(llama_cpp.llama_supports_rpc())  # loads the backends, where they are separate libraries
    features = parse_system_info(llama_cpp.llama_print_system_info().decode("utf-8", "replace"))
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    n_devices = ggml_function("ggml_backend_dev_count", ctypes.c_size_t)()
    devices = tuple(_describe(get(index)) for index in range(n_devices))
    return EngineBuild(
        version=str(llama_cpp.__version__),
        features=features,
        backends=_list_backends(),
        has_gpu=any(device.kind in ("GPU", "IGPU") for device in devices),
        has_rpc=has_rpc,
        repacked_types=repacked_types(features),
        devices=devices,
    )


def engine_build_or_usual() -> EngineBuild:
    """Return the build of the installed llama.cpp; where it cannot be loaded, a usual one, with ``version`` empty."""
    try:
        return engine_build()
    except EngineError:
        features = _USUAL_FEATURES.get(this_machine(), ())
        return EngineBuild("", features, ("CPU",), False, False, repacked_types(features), ())


def parse_system_info(text: str) -> tuple[str, ...]:
    """Parse the CPU's features from llama.cpp's system info: ``CUDA : ARCHS = 900 | CPU : NEON = 1 | SVE_CNT = 32 |``."""
    backend, features = "", []
    for part in text.split("|"):
        head, colon, pair = part.partition(" : ")
        backend, pair = (head.strip(), pair) if colon else (backend, part)
        name, _, value = (word.strip() for word in pair.partition("="))
        if backend == "CPU" and name and value != "0":
            features.append(name if value in ("", "1") else f"{name}={value}")
    return tuple(features)


def is_repacked(type_name: str, n_rows: int, n_cols: int, features: Iterable[str]) -> bool:
    """Return whether the CPU backend makes a repacked copy of a weight matrix (n_rows outputs) for its instructions.

    Notes
    -----
    Only weights of matrix multiplications are repacked. An embedding used only for lookup is not repacked; an embedding
    tied to the output gets a repacked second copy. AMX does not repack the experts' weights; the other rules apply to them.
    RISC-V also needs a build with ``zvfh``, which the system info does not report.

    References
    ----------
    llama.cpp, ggml/src/ggml-cpu/repack.cpp (ggml_repack_get_optimal_repack_type), ggml/src/ggml-cpu/amx/amx.cpp.
    """
    have = frozenset(features)
    columns = _AMX_COLUMNS.get(type_name)
    if "AMX_INT8" in have and columns and n_rows % _AMX_ROWS == 0 and n_cols % columns == 0:
        return True
    rules = _REPACK.get(type_name, ()) if "REPACK" in have else ()
    return any(needed <= have and n_rows % rows == 0 for needed, rows in rules)


def repacked_types(features: Iterable[str]) -> tuple[str, ...]:
    """Return the tensor types that are repacked where the shape allows it."""
    have = tuple(features)
    # 256 rows and columns satisfy every rule above.
    return tuple(name for name in dict.fromkeys((*_REPACK, *_AMX_COLUMNS)) if is_repacked(name, 256, 256, have))


def unused_instructions(features: Iterable[str], root: Path = Path("/")) -> tuple[str, ...]:
    """Return the instructions that the CPU has but llama.cpp was not built for; known only for Linux on x86."""
    flags, have = cpu_flags(root), frozenset(features)
    return tuple(name for flag, name in _INSTRUCTIONS if flag in flags and name not in have)


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Return the CPU's features as Linux on x86 names them, such as ``"avx2"``; empty elsewhere."""
    lines = read_text(root / "proc/cpuinfo").splitlines()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags") and ":" in line), []))


def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml by name."""
    return find_function(load_engine(), name, result, *arguments)


def rpc_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of the RPC backend by name, or None where the build has no RPC."""
    by_name = ggml_function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)
    address_of = ggml_function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    registry = by_name(b"RPC")
    address = address_of(registry, name.encode("ascii")) if registry else None
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def _list_backends() -> tuple[str, ...]:
    get = ggml_function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name = ggml_function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    count = ggml_function("ggml_backend_reg_count", ctypes.c_size_t)()
    return tuple(name(get(index)).decode("utf-8", "replace") for index in range(count))


def _describe(handle: int) -> Device:
    name = ggml_function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = ggml_function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle)
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    memory = ggml_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size_pointer, size_pointer)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory(handle, ctypes.byref(free), ctypes.byref(total))
    host_buffer = ggml_function("ggml_backend_dev_host_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
    return Device(
        name=name(handle).decode("utf-8", "replace"),
        kind=_DEVICE_KINDS[kind] if 0 <= kind < len(_DEVICE_KINDS) else f"kind {kind}",
        description=description(handle).decode("utf-8", "replace").strip(),
        memory_total_bytes=total.value,
        memory_free_bytes=free.value,
        pins_memory=bool(host_buffer(handle)),
    )
