"""The table of formats equals the gguf package and the installed llama.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import pytest

from labkit.errors import ArgumentError
from labkit.gguf_file.formats import FILE_TYPES, REMOVED_TENSOR_TYPES, TENSOR_TYPES, file_type, tensor_type

# The gguf package (0.19) counts two f32 fields where llama.cpp's block_q8_1 has two f16; no file has this type.
GGUF_PACKAGE_IS_WRONG_ABOUT = {"Q8_1"}
LAB_TYPES = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M")


def test_tensor_types_equal_the_gguf_package() -> None:
    """Names, block sizes and bytes equal gguf.constants; a new type there fails this test."""
    for kind, (block_size, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        ours = TENSOR_TYPES[int(kind)]
        assert (ours.name, ours.block_size) == (kind.name, block_size)
        assert ours.block_bytes == block_bytes or ours.name in GGUF_PACKAGE_IS_WRONG_ABOUT


def test_tensor_types_equal_the_engine() -> None:
    """Names, block sizes and bytes equal the installed llama.cpp's, and no type is missing or extra."""
    import llama_cpp

    libraries = sorted(Path(llama_cpp.__file__).parent.glob("lib/*ggml-base*"))
    library = ctypes.CDLL(str(libraries[0])) if libraries else None
    if library is None or not hasattr(library, "ggml_type_name"):
        pytest.skip("this build of llama.cpp does not export its table of types")
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    theirs = {}
    for number in range(max(TENSOR_TYPES) + 1):
        name = library.ggml_type_name(number).decode().upper()
        if library.ggml_blck_size(number):
            theirs[number] = (name, library.ggml_blck_size(number), library.ggml_type_size(number))
    ours = {number: (row.name.upper(), row.block_size, row.block_bytes) for number, row in TENSOR_TYPES.items()}
    assert ours == theirs
    assert not set(REMOVED_TENSOR_TYPES) & set(theirs)


def test_file_types_equal_the_engine() -> None:
    """The table has exactly the file types that llama.cpp names, under their usual names."""
    import llama_cpp

    for number in range(64):
        theirs = llama_cpp.llama_ftype_name(number).decode()
        if "unknown" in theirs:
            assert number not in FILE_TYPES
        else:
            assert FILE_TYPES[number].name == usual_name(theirs)


def usual_name(name: str) -> str:
    """Convert llama.cpp's "Q4_K - Medium" to "Q4_K_M"."""
    special = {"all F32": "F32", "MXFP4 MoE": "MXFP4_MOE", "Q2_K - Medium": "Q2_K", "IQ3_S mix - 3.66 bpw": "IQ3_M"}
    if name in special:
        return special[name]
    first, _, rest = name.partition(" - ")
    return f"{first}_{rest[0]}" if rest in ("Small", "Medium", "Large") else first


def test_file_types_name_types_that_exist() -> None:
    """The main tensor type of each file type is in the table of tensor types."""
    names = {row.name for row in TENSOR_TYPES.values()}
    assert {row.tensor_type for row in FILE_TYPES.values()} <= names


@pytest.mark.parametrize("kind", TENSOR_TYPES.values(), ids=lambda kind: str(kind.name))
def test_block_bytes_are_the_sum_of_the_parts(kind: object) -> None:
    """A block's size is the sum of its fields, and bits per weight follow from it."""
    row = tensor_type(kind.name)  # type: ignore[attr-defined]
    assert row is kind
    assert row.block_bytes == sum(n_bytes for _, n_bytes in row.block_parts)
    assert row.bits_per_weight == 8 * row.block_bytes / row.block_size
    assert row["bits_per_weight"] == dict(row)["bits_per_weight"]
    assert row.row_bytes(row.block_size * 3) == 3 * row.block_bytes
    assert row.layout.endswith(".")


@pytest.mark.parametrize(("name", "bits"), [("Q4_0", 4.5), ("Q4_1", 5.0), ("Q8_0", 8.5), ("Q4_K", 4.5), ("Q6_K", 6.5625)])
def test_bits_per_weight_equal_published_figures(name: str, bits: float) -> None:
    """The computed bits per weight equal the published figures."""
    assert tensor_type(name).bits_per_weight == bits


def test_the_lab_rates_six_types() -> None:
    """Only F16, Q8_0, Q5_K_M, Q4_K_M, Q4_0 and Q3_K_M have ratings of quality and speed."""
    rated = {row.name for row in FILE_TYPES.values() if row.quality and row.speed}
    assert rated == set(LAB_TYPES)
    assert {row.name for row in FILE_TYPES.values() if row.quality or row.speed} == rated


def test_unknown_name_suggests_the_nearest() -> None:
    """The error for a misspelled name suggests the likely type and lists all types."""
    assert file_type(" q4_k_m ").id == 15
    with pytest.raises(ArgumentError, match=r"unknown file type 'Q4_KM' \(did you mean 'Q4_K_M'\?\); the file types are"):
        file_type("Q4_KM")
    with pytest.raises(ArgumentError, match=r"unknown tensor type 'x'; the tensor types are"):
        tensor_type("x")
