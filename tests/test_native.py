"""Parameters that Llama cannot set: these tests fail when a new llama-cpp-python changes them."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import struct
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import psutil
import pytest
from llama_cpp import Llama

import labkit
from labkit.devices.borrow import MAX_DEVICES, TESTED
from labkit.devices.connection import connect
from labkit.devices.endpoints import parse_endpoint
from labkit.devices.rpc_protocol import HEAD, MAJOR, Command
from labkit.engine.llama_methods import COMPUTING, READING, READING_PROPERTIES
from labkit.engine.model import Model
from labkit.engine.native import AbortFlag, C, EngineLog, safe_construction
from labkit.engine.options import check_options
from labkit.engine.stepping import decode
from labkit.second_context import kept_threads, second_context, token_batch
from labkit.system.build import rpc_function
from tests.tiny_models import write_tiny_model


def test_every_public_name_of_llama_is_guarded() -> None:
    """A method that a new release adds must be listed in llama_methods.py, or it would run unguarded."""
    harmless = {"close", "from_pretrained", "logits_to_logprobs", "longest_token_prefix"}
    public = {name for name in vars(Llama) if not name.startswith("_")} | {"__call__"}
    assert public == {*COMPUTING, *READING, *READING_PROPERTIES, *harmless}
    for name in (*COMPUTING, *READING, *READING_PROPERTIES):
        assert inspect.getattr_static(Model, name) is not inspect.getattr_static(Llama, name), name


def test_parameters_that_labkit_sets_exist() -> None:
    """The fields of the native structures have the names and defaults that labkit relies on."""
    context = C.llama_context_default_params()
    assert context.n_outputs_max == 0
    assert context.swa_full in (True, False)
    assert {name for name, *_ in C.llama_model_params._fields_} >= {"devices", "progress_callback", "load_mode"}


def test_llama_takes_the_arguments_that_labkit_checks() -> None:
    """Each argument of Llama is known to check_options, with a specific check, or deliberately without."""
    from labkit.engine import options

    known = set(inspect.signature(Llama.__init__).parameters) - {"self", "model_path", "kwargs"}
    checked = {*options._INTS, *options._NUMBERS, *options._FLAGS, *options._SPECIAL}
    assert known - checked <= {"n_ctx", "n_threads", "n_gpu_layers"}
    assert checked - known == {"override_tensor"}  # labkit gives it to llama.cpp itself
    assert check_options({}) == {}


def test_struct_fields_reach_the_engine_through_the_subclass(tmp_path: Path) -> None:
    """Llama's constructor still assigns its parameters as attributes, which is where labkit adds to them."""
    seen: list[float] = []
    with labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf"), progress=seen.append) as model:
        assert model.context_params.n_outputs_max == 1
        assert seen[-1] == 1.0


def test_abort_flag_ends_a_real_computation(tmp_path: Path) -> None:
    """llama_decode returns 2 while the flag is set, and 0 after it is cleared."""
    llama = Llama(str(write_tiny_model(tmp_path / "tiny.gguf")), n_ctx=256, verbose=False)
    flag = AbortFlag()
    flag.attach(llama.ctx)
    batch = C.llama_batch_get_one((C.llama_token * 3)(5, 6, 7), 3)
    flag.set()
    assert C.llama_decode(llama.ctx, batch) == 2
    flag.clear()
    assert C.llama_decode(llama.ctx, batch) == 0
    llama.close()


def test_abort_flag_reads_as_false_and_true() -> None:
    """The C function behind the flag returns 0 and 1, as a bool of C must be."""
    flag = AbortFlag()
    address = ctypes.cast(flag._buffer, ctypes.c_void_p)
    assert flag._callback(address) is False
    flag.set()
    assert flag._callback(address) is True


def test_construction_leaves_the_streams_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """While a model loads, other prints are visible; afterwards llama-cpp-python is unchanged."""
    before = (llama_cpp.llama.suppress_stdout_stderr, llama_cpp.llama_chat_format.Jinja2ChatFormatter)
    path = write_tiny_model(tmp_path / "tiny.gguf")
    labkit.load_model(path, progress=lambda fraction: print("still here")).close()
    assert "still here" in capfd.readouterr().out
    with safe_construction():
        assert llama_cpp.llama.suppress_stdout_stderr is not before[0]
    assert (llama_cpp.llama.suppress_stdout_stderr, llama_cpp.llama_chat_format.Jinja2ChatFormatter) == before


def test_plain_llama_logs_as_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """llama-cpp-python handles log lines that belong to none of labkit's models."""
    path = str(write_tiny_model(tmp_path / "tiny.gguf"))
    Llama(path, n_ctx=256, verbose=True).close()
    assert "n_ctx_train" in capfd.readouterr().err
    log = EngineLog(echo=False)
    with log.claimed():
        C.llama_model_free(C.llama_model_load_from_file(path.encode(), C.llama_model_default_params()))
    assert "general.architecture" in log.text()
    assert capfd.readouterr().err == ""


def test_log_distinguishes_errors_from_other_levels() -> None:
    """The levels are ggml's: 1 debug, 2 info, 3 warning, 4 error, 5 continues a line; the first error is the reason."""
    log = EngineLog(echo=False)
    for level, text in ((1, "debug: unknown\n"), (2, "print_info: type = unknown\n"), (3, "f: a warning\n")):
        log._write(level, text)
    assert log.last_error() == "a warning"
    for level, text in (
        (4, "f: error loading "),
        (5, "model: why\x1b[31m\n"),
        (4, "llama_model_load_from_file_impl: failed\n"),
    ):
        log._write(level, text)
    assert log.last_error() == r"error loading model: why\x1b[31m"
    assert "debug" not in log.text()
    assert "type = unknown" in log.text()
    log.clear()
    assert log.last_error() is None


def test_idle_models_keep_no_openmp_threads() -> None:
    """A model that computes nothing has only its own thread: idle OpenMP threads would slow other models."""
    process = psutil.Process()
    before = process.num_threads()
    with labkit.load_model(n_ctx=256) as model:
        labkit.generate_text(model, "One", max_tokens=2)
        deadline = time.monotonic() + 60
        while (threads := model._worker.call(process.num_threads)) > before + 1 and time.monotonic() < deadline:
            time.sleep(0.01)  # ending a thread needs a moment
        assert threads <= before + 1


def test_rpc_protocol_is_the_one_that_the_relay_knows(rpc: None) -> None:
    """A device of this build reports the version that labkit supports, and answers have the expected lengths."""
    assert llama_cpp.__version__ == TESTED, "look at llama.cpp's rpc_cmd and rpc_serve_client, then change TESTED"
    with labkit.start_device() as device, connect(parse_endpoint(device.endpoint)) as connection:
        assert tuple(connection.version[:3]) == (MAJOR, 0, 0)
        number = struct.pack("<I", 0)
        for command in (Command.GET_ALIGNMENT, Command.GET_MAX_SIZE, Command.GET_DEVICE_MEMORY):
            assert any(connection._ask(command, number))  # raises for another length
        pointer, size = struct.unpack("<QQ", connection._ask(Command.ALLOC_BUFFER, struct.pack("<IQ", 0, 4096)))
        assert pointer
        assert size >= 4096
        assert any(connection._ask(Command.BUFFER_GET_BASE, struct.pack("<Q", pointer)))
        connection.send(HEAD.pack(Command.FREE_BUFFER, 8) + struct.pack("<Q", pointer))
        assert connection._ask(Command.DEVICE_COUNT, b"") == struct.pack("<I", 1)
        assert connection.check_alive()


def test_rpc_functions_are_handed_out_by_name(rpc: None) -> None:
    """The RPC backend has the two functions that labkit calls; the parameters' field accepts a list of devices."""
    for name in ("ggml_backend_rpc_add_server", "ggml_backend_rpc_start_server"):
        assert rpc_function(name, ctypes.c_void_p) is not None
    assert dict(C.llama_model_params._fields_)["devices"] is ctypes.c_void_p
    assert C.LLAMA_MAX_DEVICES == MAX_DEVICES


def test_forked_children_can_let_go_of_what_llama_holds(tmp_path: Path) -> None:
    """Llama's parts free themselves through an ExitStack, which a forked child empties."""
    with labkit.load_model(write_tiny_model(tmp_path / "tiny.gguf")) as model:
        for part in (model._ctx, model._model, model._batch):
            assert isinstance(part._exit_stack, contextlib.ExitStack)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its functions may be in a library that is not searched")
def test_a_context_can_keep_its_threads(tmp_path: Path) -> None:
    """Within kept_threads one more thread exists all the time, and ends with it; the logits are the same.

    With OpenMP, the thread is that of OpenMP's team, which exists before.
    """
    more = 0 if any(name.startswith("OPENMP") for name in labkit.engine_build().features) else 1
    path = write_tiny_model(tmp_path / "tiny.gguf")
    with labkit.load_model(path, n_ctx=256, n_threads=2) as model:

        def logits(ctx: Any, job: Any) -> list[float]:
            with token_batch(4) as batch:
                for index, token in enumerate((5, 7, 9)):
                    batch.token[index], batch.pos[index], batch.logits[index] = token, index, index == 2
                batch.n_tokens = 3
                C.llama_memory_clear(C.llama_get_memory(ctx), True)
                C.llama_set_n_threads(ctx, 2, 2)
                decode(ctx, batch, job)
            return list(C.llama_get_logits_ith(ctx, 2)[: model.native.n_vocab])

        def compare(job: Any) -> None:
            process = psutil.Process()
            with second_context(model, n_ctx=256, n_batch=4, n_rows=1) as ctx:
                expected, before = logits(ctx, job), process.num_threads()
                with kept_threads(ctx, 2):
                    assert process.num_threads() == before + more
                    assert logits(ctx, job) == expected
                    assert process.num_threads() == before + more
                assert process.num_threads() == before
                assert logits(ctx, job) == expected

        model.compute(compare)
