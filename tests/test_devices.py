"""Layers on devices in other processes: the same text, and a lost device does not end this process."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import labkit
from labkit.devices import borrow as devices_module
from labkit.devices import serve as served_module
from labkit.devices.connection import connect
from labkit.devices.endpoints import parse_endpoint
from labkit.errors import ArgumentError, ArgumentTypeError, GenerationError, LabkitError, LabkitWarning, ModelLoadError
from tests.tiny_models import write_tiny_model

pytestmark = pytest.mark.usefixtures("rpc")
PROMPT, N_TOKENS = "The three primary colours are", 24
LONG = 1500
CHILD_S = 60


@pytest.fixture(scope="module")
def expected() -> str:
    with labkit.load_model(n_ctx=512, n_threads=1) as model:
        return labkit.generate_text(model, PROMPT, N_TOKENS, temperature=0)


@pytest.fixture(scope="module")
def pair() -> Iterator[list[labkit.ServedDevice]]:
    with labkit.start_device() as first, labkit.start_device() as second:
        yield [first, second]


@pytest.fixture
def device() -> Iterator[labkit.ServedDevice]:
    with labkit.start_device() as device:
        yield device


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("devices") / "tiny.gguf")


def _load(*devices: Any, n_gpu_layers: int = -1, **options: Any) -> labkit.Model:
    return labkit.load_model(n_ctx=2048, n_threads=1, n_gpu_layers=n_gpu_layers, devices=list(devices), **options)


def _text(model: labkit.Model) -> str:
    return labkit.generate_text(model, PROMPT, N_TOKENS, temperature=0)


def _kill(device: labkit.ServedDevice) -> None:
    psutil.Process(device.pid).kill()


def _buffers(model: labkit.Model, kind: str) -> dict[str, float]:
    """Return a buffer's size by device from llama.cpp's log, MiB."""
    found = re.findall(rf"(\S+) {kind} buffer size = +([0-9.]+) MiB", model.load_log)
    return {name: float(size) for name, size in found}


# -- the same text, on any device ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_devices", [1, 2])
@pytest.mark.parametrize("n_gpu_layers", [0, 15, -1])
def test_layers_on_devices_give_the_same_text(
    pair: list[labkit.ServedDevice], expected: str, n_devices: int, n_gpu_layers: int
) -> None:
    """With no, 15 or all layers on one or two devices, greedy text equals the CPU's."""
    with _load(*pair[:n_devices], n_gpu_layers=n_gpu_layers) as model:
        assert _text(model) == expected


def test_weights_and_cache_move_with_the_layers(pair: list[labkit.ServedDevice]) -> None:
    """llama.cpp's log lists the buffers under the device's address."""
    endpoint = pair[0].endpoint
    with _load(endpoint, n_gpu_layers=15) as model:
        assert _buffers(model, "model")[f"RPC0[{endpoint}]"] == pytest.approx(58.28, abs=0.01)
        assert _buffers(model, "KV")[f"RPC0[{endpoint}]"] == 21.0
        assert _buffers(model, "compute")[f"RPC0[{endpoint}]"] > 0
        assert "offloaded 15/31 layers" in model.load_log
        assert set(re.findall(r"127\.0\.0\.1:\d+", model.load_log)) == {endpoint}
        assert model.settings.devices == (endpoint,)
        assert "15 layers" in model.settings.reasons["devices"]


def test_two_devices_share_the_layers_evenly_or_by_tensor_split(pair: list[labkit.ServedDevice]) -> None:
    """31 layers, including the output, are split 16 and 15 by default; tensor_split changes that."""
    names = [f"RPC0[{device.endpoint}]" for device in pair]
    with _load(*pair) as model:
        assert [_buffers(model, "KV")[name] for name in names] == [24.0, 21.0]
    with _load(*pair, tensor_split=[3, 1]) as model:
        first, second = (_buffers(model, "KV")[name] for name in names)
        assert first > 3 * second > 0


def test_experts_stay_on_the_cpu(device: labkit.ServedDevice, tmp_path: Path) -> None:
    """With override_tensor the engine's buffers are those of the estimate, and the text is the same."""
    path = labkit.build_ghost_model(tmp_path / "mixture.gguf", architecture="qwen3moe", shape="tiny")
    texts, weights = [], []
    for rule in (None, "exps=CPU"):
        options: Any = {"n_gpu_layers": -1, "devices": [device], "override_tensor": rule}
        with labkit.load_model(path, 256, n_threads=1, **options) as model:
            texts.append(labkit.generate_text(model, PROMPT, 4, temperature=0))
            weights.append(_buffers(model, "model")[f"RPC0[{device.endpoint}]"])
        estimate = labkit.estimate_memory_usage(path, 256, method="formula", **options)
        on_device = sum(part.resident_bytes for part in estimate.parts if part.name == "weights" and part.device != "CPU")
        assert weights[-1] == pytest.approx(on_device / 2**20, abs=0.006)
    assert texts[0] == texts[1]
    assert weights[1] < 0.5 * weights[0]


@pytest.mark.parametrize("rule", ["exps", "exps=CUDA0", "=CPU", "(=CPU", "é=CPU", 5])
def test_wrong_overrides_are_one_line_errors(rule: Any) -> None:
    """A rule needs a regular expression and CPU; the engine never sees another one."""
    for function in (labkit.load_model, labkit.estimate_memory_usage):
        with pytest.raises((ArgumentError, ArgumentTypeError), match=r"^override_tensor\b[^\n]*$"):
            function(override_tensor=rule)


def test_no_layers_on_a_device_need_no_device(device: labkit.ServedDevice, expected: str) -> None:
    """With n_gpu_layers=0 the device is checked and released; its end has no effect."""
    with _load(device, n_gpu_layers=0) as model:
        _kill(device)
        assert _text(model) == expected
        assert "RPC" not in "".join(_buffers(model, "compute"))


def test_device_lives_while_a_model_uses_it(expected: str) -> None:
    """A device without other references lives as long as the model."""
    with _load(labkit.start_device()) as model:
        gc.collect()
        assert _text(model) == expected


def test_models_share_a_device_at_the_same_time(pair: list[labkit.ServedDevice], expected: str) -> None:
    """Three models that compute at the same time on the same devices do not get each other's results."""
    texts: list[str] = []
    with _load(pair[0], n_gpu_layers=15) as one, _load(*pair) as two, _load(pair[1], pair[0], n_gpu_layers=20) as three:
        threads = [
            threading.Thread(target=lambda model=model: texts.extend(_text(model) for _ in range(3)))
            for model in (one, two, three)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == [expected] * 9


@pytest.mark.parametrize(("kind", "flash_attn"), [("CPU", False), ("GPU", True)])
def test_flash_attention_depends_on_the_device(device: labkit.ServedDevice, tiny: Path, kind: str, flash_attn: bool) -> None:
    """For a served CPU the CPU's default is chosen, for a served GPU the GPU's."""
    device.kind = kind
    with labkit.load_model(tiny, n_gpu_layers=-1, devices=[device]) as model:
        assert model.settings.flash_attn is flash_attn


# -- a device that dies --------------------------------------------------------------------------------------------


def _generate(model: labkit.Model) -> None:
    labkit.generate_text(model, PROMPT, LONG)


def _chat(model: labkit.Model) -> None:
    labkit.generate_chat(model, [{"role": "user", "content": "Tell me a very long story about a lighthouse."}], LONG)


def _prefill(model: labkit.Model) -> None:
    labkit.generate_text(model, "word " * 2000, 4)


def _llama(model: labkit.Model) -> None:
    model.create_completion(PROMPT, max_tokens=LONG)


def _llama_stream(model: labkit.Model) -> None:
    for _ in model.create_completion(PROMPT, max_tokens=LONG, stream=True):
        pass


def _forever(work: Callable[[labkit.Model], None], model: labkit.Model) -> None:
    """Repeat until it fails, because a sampled text may end before the device does."""
    while True:
        work(model)


@pytest.mark.parametrize("n_gpu_layers", [15, -1])
@pytest.mark.parametrize("work", [_generate, _chat, _prefill, _llama, _llama_stream])
def test_killing_a_device_ends_only_the_generation(
    device: labkit.ServedDevice, expected: str, work: Callable[[labkit.Model], None], n_gpu_layers: int
) -> None:
    """The caller gets a GenerationError that names the device, and can load again at the same address."""
    model = _load(device, n_gpu_layers=n_gpu_layers)
    threading.Timer(0.25, _kill, [device]).start()
    with pytest.raises(GenerationError, match=rf"the device at {device.endpoint} was lost .* load the model again"):
        _forever(work, model)
    for use in (_text, lambda model: labkit.count_tokens(model, PROMPT), _llama):
        with pytest.raises(GenerationError, match="was lost"):
            use(model)
    with labkit.start_device(device.endpoint) as again, _load(again, n_gpu_layers=n_gpu_layers) as new:
        assert _text(new) == expected
    model.close()
    model.close()


def test_stream_ends_before_a_dead_device_s_zeros(device: labkit.ServedDevice) -> None:
    """A stream's text until its device dies equals the CPU's, to the last character."""
    pieces: list[str] = []

    def read(model: labkit.Model) -> None:
        for chunk in labkit.stream_text(model, PROMPT, LONG, temperature=0):
            pieces.append(chunk.text)
            if len(pieces) == 10:
                _kill(device)

    with _load(device) as model, pytest.raises(GenerationError, match="was lost"):
        read(model)
    assert 10 <= len(pieces) < LONG
    with labkit.load_model(n_ctx=2048) as plain:
        true = labkit.generate_text(plain, PROMPT, len(pieces) + 8, temperature=0)
    assert true.startswith("".join(pieces))


def test_killing_one_device_leaves_other_models_alone(pair: list[labkit.ServedDevice], expected: str) -> None:
    """Only a model with layers on the dead device fails."""
    with (
        labkit.start_device() as third,
        _load(pair[0], third) as lost,
        _load(pair[0]) as other,
        _load(*pair, n_gpu_layers=0) as cpu,
    ):
        assert _text(lost) == expected
        _kill(third)
        with pytest.raises(GenerationError, match="was lost"):
            _text(lost)
        assert _text(other) == _text(cpu) == expected


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_killing_a_device_while_it_is_loaded_fails_the_load(device: labkit.ServedDevice, fraction: float) -> None:
    """The load ends in a ModelLoadError, at any point of the transfer."""

    def progress(done: float) -> None:
        if done >= fraction:
            _kill(device)

    with pytest.raises(ModelLoadError, match=rf"the device at {device.endpoint} was lost .* while the model was loading"):
        _load(device, progress=progress)


def test_lost_models_leave_no_threads_and_no_connections(tiny: Path) -> None:
    """Closing a model with a lost device frees its threads and connections."""
    process = psutil.Process()
    before = process.num_threads(), len(process.net_connections()), process.num_fds() if os.name == "posix" else 0
    for _ in range(5):
        with labkit.start_device() as device:
            model = labkit.load_model(tiny, n_gpu_layers=-1, devices=[device])
            _kill(device)
            with pytest.raises(GenerationError):
                labkit.generate_text(model, "one", 5)
            model.close()
    deadline = time.monotonic() + CHILD_S
    while time.monotonic() < deadline:  # stopped threads end after a moment
        after = process.num_threads(), len(process.net_connections()), process.num_fds() if os.name == "posix" else 0
        if after <= before:
            break
        time.sleep(0.05)
    assert after <= before


EXITS = {
    "lost": "while True: labkit.generate_text(model, 'a', 1500)",  # a text may end before the device does
    "idle": "pass",
    "streaming": "pass",
}


@pytest.mark.parametrize("name", EXITS)
def test_process_with_a_lost_model_exits_with_0(name: str) -> None:
    """A program that lost a device and closes nothing ends with exit code 0."""
    code = (
        "import threading, labkit, psutil\n"
        "device = labkit.start_device()\n"
        "model = labkit.load_model(n_gpu_layers=-1, devices=[device])\n"
        "stream = labkit.stream_text(model, '1, 2, 3,', 1500, seed=1)\n"
        f"{'next(stream)' if name == 'streaming' else ''}\n"
        "threading.Timer(0.2, psutil.Process(device.pid).kill).start()\n"
        f"try:\n    {EXITS[name]}\nexcept labkit.GenerationError:\n    print('told')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=CHILD_S, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert ("told" in result.stdout) is (name == "lost")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_of_a_model_on_a_device_ends() -> None:
    """A forked child, without the threads of the connection, frees nothing, ends, and does not affect the device."""
    code = (
        "import os, sys, labkit\n"
        "device = labkit.start_device()\n"
        "model = labkit.load_model(n_gpu_layers=-1, devices=[device])\n"
        "if os.fork() == 0:\n    sys.exit(0)\n"
        "assert os.wait()[1] == 0\n"
        "print(labkit.generate_text(model, '1, 2, 3, 4,', 6, temperature=0))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=CHILD_S, check=False)
    assert (result.returncode, result.stdout) == (0, " 5, 6,\n"), result.stderr


# -- a device that hangs -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _frozen(device: labkit.ServedDevice) -> Iterator[None]:
    psutil.Process(device.pid).suspend()
    try:
        yield
    finally:
        psutil.Process(device.pid).resume()


def test_cancel_frees_the_caller_of_a_hanging_device(device: labkit.ServedDevice, expected: str) -> None:
    """cancel() stops waiting within about a second, and the model works again when the device answers."""
    with _load(device) as model:
        with _frozen(device):
            threading.Timer(0.2, model.cancel).start()
            with pytest.raises(GenerationError, match=rf"cancelled, but the device at {device.endpoint} has not answered"):
                _text(model)
        assert _text(model) == expected


@pytest.mark.skipif(os.name != "posix", reason="sends a Ctrl-C to this process")
def test_ctrl_c_frees_the_caller_of_a_hanging_device(device: labkit.ServedDevice) -> None:
    """Ctrl-C stops waiting too, in a generation and in a load; close() then returns."""
    model = _load(device)
    with _frozen(device):
        started = time.monotonic()
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            _text(model)
        model.close()
        assert time.monotonic() - started < 10
    done = threading.Event()

    def freeze(fraction: float) -> None:
        if fraction > 0.3 and not done.is_set():
            done.set()
            psutil.Process(device.pid).suspend()
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        _load(device, progress=freeze)
    psutil.Process(device.pid).resume()


# -- wrong devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "error", "says"),
    [
        ([], ArgumentError, "devices has 0 entries"),
        ("127.0.0.1:50052", ArgumentTypeError, "must be a list"),
        (50052, ArgumentTypeError, "must be a list"),
        ({}, ArgumentTypeError, "must be a list"),
        ([50052], ArgumentTypeError, r"devices\[0\] must be text"),
        ([None], ArgumentTypeError, r"devices\[0\] must be text"),
        (["127.0.0.1:1"] * 2, ArgumentError, "again: give each device once"),
        (["127.0.0.1:1", "localhost:1"], ArgumentError, "again: give each device once"),
        ([f"127.0.0.1:{port}" for port in range(1, 18)], ArgumentError, "17 entries"),
        ([""], ArgumentError, "neither an address"),
        (["CUDA7"], ArgumentError, "nor a GPU of this"),
        (["a b:1"], ArgumentError, "is not host:port"),
        (["1.2.3:1"], ArgumentError, "is not host:port"),
        (["127.0.0.1:five"], ArgumentError, "is not host:port"),
        (["\0:1"], ArgumentError, "is not host:port"),
        (["::1:50052"], ArgumentError, "in brackets"),
        (["127.0.0.1:0"], ArgumentError, "the port must be 1 to 65,535"),
        (["127.0.0.1:65536"], ArgumentError, "the port must be 1 to 65,535"),
        (["127.0.0.1:1"], ModelLoadError, "no device listens at 127.0.0.1:1"),
        (["no-such-host.invalid:1"], ModelLoadError, "no-such-host.invalid:1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("n_gpu_layers", [0, -1])
def test_wrong_devices_are_one_line_errors(
    tiny: Path, devices: Any, error: type[Exception], says: str, n_gpu_layers: int
) -> None:
    """Each wrong list is a one-line error, with and without layers for the device."""
    with pytest.raises(error, match=says) as caught:
        labkit.load_model(tiny, n_gpu_layers=n_gpu_layers, devices=devices)
    assert "\n" not in str(caught.value)


def _hello(*version: int, n_devices: int = 1) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(struct.pack("<Q", 28) + bytes(version) + bytes(28 - len(version)))
        client.recv(100)
        client.sendall(struct.pack("<QI", 4, n_devices))

    return serve


NOT_DEVICES: dict[str, tuple[Callable[[socket.socket], Any], str]] = {
    "http": (lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is not a device of this version"),
    "hangs up": (lambda client: client.close(), "is not a device of this version"),
    "silent": (lambda client: time.sleep(3.5), "accepts the connection but does not answer"),
    "other version": (_hello(4, 0, 1), "uses version 4.0.1 .* install the same versions"),
    "nothing to lend": (_hello(7, 0, 0, n_devices=0), "serves no devices"),
}


@pytest.mark.parametrize("name", NOT_DEVICES)
def test_servers_that_are_not_devices_are_refused(tiny: Path, name: str) -> None:
    """A server that is not a device of this version is refused before llama.cpp connects."""
    serve, says = NOT_DEVICES[name]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    serve(client)
                    client.recv(100)

        threading.Thread(target=run, daemon=True).start()
        with pytest.raises(ModelLoadError, match=says):
            labkit.load_model(tiny, n_gpu_layers=-1, devices=[f"127.0.0.1:{server.getsockname()[1]}"])


def test_device_with_wrong_answers_is_lost(tiny: Path) -> None:
    """A device with a correct handshake and wrong answers later fails the load, not the process."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                _hello(7, 0, 0)(client)
                while client.recv(4096):
                    client.sendall(b"nonsense" * 3)

        threading.Thread(target=run, daemon=True).start()
        with pytest.raises(ModelLoadError, match=r"not llama\.cpp's RPC protocol"):
            labkit.load_model(tiny, n_gpu_layers=-1, devices=[f"127.0.0.1:{server.getsockname()[1]}"])


def test_build_without_rpc_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If llama.cpp has no RPC, the errors for serving and using a device say what to install; uv knows a clone's flags."""
    without = dataclasses.replace(labkit.engine_build(), has_rpc=False)
    monkeypatch.setattr("labkit.engine.loading.engine_build", lambda: without)
    monkeypatch.setattr(served_module, "engine_build", lambda: without)
    for use in (lambda: labkit.load_model(tiny, devices=["127.0.0.1:1"]), labkit.start_device, labkit.serve_device):
        with pytest.raises(ModelLoadError, match=r"built without RPC.*(GGML_RPC=ON|uv sync --reinstall)"):
            use()


def test_other_engine_versions_are_tried_before_they_are_used(
    device: labkit.ServedDevice, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocol of an untested llama-cpp-python is checked first, in another process."""
    monkeypatch.setattr(devices_module, "TESTED", "0.0.1")
    devices_module._check_protocol.cache_clear()
    try:
        labkit.load_model(tiny, n_gpu_layers=-1, devices=[device]).close()
        devices_module._check_protocol.cache_clear()
        monkeypatch.setattr("labkit.devices.connection.MAJOR", 8)
        with pytest.raises(ModelLoadError, match=r"uses another RPC protocol than this labkit: install 0\.0\.1"):
            labkit.load_model(tiny, n_gpu_layers=-1, devices=[device])
    finally:
        devices_module._check_protocol.cache_clear()


# -- serving -------------------------------------------------------------------------------------------------------


def test_network_needs_allow_network() -> None:
    """An address that others can reach needs allow_network=True, and then a warning explains the risk."""
    for endpoint in ("0.0.0.0:0", "192.0.2.1:50052", "example.org:50052"):
        with pytest.raises(ArgumentError, match=r"is reachable from other machines.*allow_network=True"):
            labkit.start_device(endpoint)
    with pytest.warns(LabkitWarning, match="without password or encryption"):
        device = labkit.start_device("0.0.0.0:0", allow_network=True)
    with device, connect(parse_endpoint(device.endpoint).reachable) as connection:
        assert connection.n_devices == 1


@pytest.mark.parametrize(
    ("endpoint", "options", "says"),
    [
        ("127.0.0.1", {}, "is not host:port"),
        ("127.0.0.1:65536", {}, "the port must be 0 to 65,535"),
        (50052, {}, "endpoint must be text"),
        ("[::1]:50052", {}, "listens only on IPv4"),
        ("192.0.2.1:0", {"allow_network": True}, "this machine has no such address"),
        ("127.0.0.1:0", {"n_threads": 0}, "n_threads=0 is out of range"),
        ("127.0.0.1:0", {"allow_network": "yes"}, "allow_network must be True or False"),
    ],
)
def test_wrong_endpoints_are_one_line_errors(endpoint: Any, options: dict[str, Any], says: str) -> None:
    """Nothing is started for an invalid address or option."""
    with pytest.raises(LabkitError, match=says):
        labkit.start_device(endpoint, **options)


def test_port_in_use_is_a_one_line_error() -> None:
    """The error for a port in use says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(LabkitError, match=f"{endpoint}: another program already listens there"):
            labkit.start_device(endpoint)


def test_device_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's last output is in the error."""
    program = tmp_path / "child.py"
    program.write_text("raise SystemExit('no such luck')")
    monkeypatch.setattr(served_module, "_CHILD", program)
    with pytest.raises(LabkitError, match="could not start: no such luck"):
        labkit.start_device()


def test_device_ends_when_it_is_closed_or_forgotten() -> None:
    """close(), the end of a with block, and garbage collection stop its process."""
    with labkit.start_device() as first:
        assert first.is_running
        assert first.endpoint in repr(first)
    first.close()
    second = labkit.start_device()
    second_process = psutil.Process(second.pid)
    del second
    gc.collect()
    assert not first.is_running
    assert not second_process.is_running()
    assert "ended" in repr(first)


def _ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_for(done: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return done()


def test_device_ends_with_its_parent() -> None:
    """A device ends when its parent is killed."""
    code = "import time, labkit; device = labkit.start_device(); print(device.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not _ended(pid)
        parent.kill()
    assert _wait_for(lambda: _ended(pid), CHILD_S)


def _start_serving(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="sends a Ctrl-C to a process")
def test_serve_command_runs_until_ctrl_c(expected: str) -> None:
    """`labkit device serve` prints its address; another process can use it; Ctrl-C stops it and frees the port."""
    with _start_serving("-m", "labkit", "device", "serve", "--endpoint", "127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        document = "".join(iter(process.stdout.readline, "}\n")) + "}"
        told = json.loads(document)
        assert (told["kind"], told["n_threads"]) == ("CPU", 1) or told["kind"] in ("GPU", "IGPU")
        with _load(told["endpoint"], n_gpu_layers=15) as model:
            assert _text(model) == expected
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    with labkit.start_device(told["endpoint"]) as again:
        assert again.endpoint == told["endpoint"]


@pytest.mark.skipif(os.name != "posix", reason="sends a Ctrl-C to a process")
def test_serve_device_blocks_until_ctrl_c() -> None:
    """serve_device prints one line and returns on Ctrl-C."""
    with _start_serving("-c", "import labkit; labkit.serve_device('127.0.0.1:0'); print('returned')") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.fullmatch(r"serving \w+( with 1 thread)? \(.*\) at 127\.0\.0\.1:\d+; stop with Ctrl-C\n", line)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "returned\n", "")


def test_serve_raises_when_the_device_dies(device: labkit.ServedDevice) -> None:
    """If the device's process dies, waiting ends with an error."""
    threading.Timer(0.2, _kill, [device]).start()
    with pytest.raises(LabkitError, match=f"the device at {device.endpoint} has ended"):
        device.wait()


def test_serve_command_refuses_the_network() -> None:
    """Without --allow-network only loopback is allowed: exit code 1, and one line that explains the risk."""
    command = [sys.executable, "-m", "labkit", "device", "serve", "--endpoint", "0.0.0.0:0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_S, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "--allow-network" in result.stderr
