"""The devices for a model's layers: from the caller's list to llama.cpp's.

A device is either local to this llama.cpp (a GPU, by name), or served by another process over RPC (``labkit device serve``,
by address).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from labkit.checks import one_line, shown
from labkit.devices.connection import Connection, connect
from labkit.devices.endpoints import Endpoint, parse_endpoint
from labkit.devices.relay import Relay
from labkit.devices.rpc_protocol import check_rpc
from labkit.devices.serve import ServedDevice, start_device
from labkit.errors import ArgumentError, ArgumentTypeError, ModelLoadError
from labkit.system import EngineBuild
from labkit.system.build import ggml_function, rpc_function

TESTED = "0.3.36"  # the llama-cpp-python version whose protocol `labkit.devices.rpc_protocol` implements
MAX_DEVICES = 16  # llama_max_devices()
_GPU_KINDS = ("GPU", "IGPU")


class ModelDevices:
    """The devices of one model, from before it is loaded until it is freed."""

    def __init__(self, endpoints: list[Endpoint | str], *, has_gpu: bool, served: Sequence[ServedDevice] = ()) -> None:
        self.names = tuple(str(endpoint) for endpoint in endpoints)  # in the order of the layers
        self.has_gpu = has_gpu  # one of them is known to be a GPU
        self._endpoints = endpoints
        self._connections: list[Connection] = []
        self._relays: dict[str, Relay] = {}
        self._kept: Any = None  # llama.cpp holds only its address
        self.in_use = False  # a model uses the devices; the model releases them
        self._served = served  # keep a reference: without one the device ends
        self._watched: list[tuple[Connection, Callable[[str], None]]] = []
        with contextlib.ExitStack() as stack:
            for endpoint in endpoints:
                if isinstance(endpoint, Endpoint):
                    connection = stack.enter_context(connect(endpoint))
                    relay = self._relays[str(endpoint)] = Relay(connection)
                    stack.callback(relay.close)
                    self._connections.append(connection)
            self._held = stack.pop_all()
        # an address may serve several
        self.n_devices = len(endpoints) + sum(connection.n_devices - 1 for connection in self._connections)

    @property
    def renames(self) -> dict[str, str]:
        """Relay's address -> device's address, for llama.cpp's log."""
        return {relay.address: name for name, relay in self._relays.items()}

    def native(self) -> Any:
        """Return the list for ``llama_model_params.devices``; call it in the model's thread."""
        handles: list[int] = []
        for endpoint in self._endpoints:
            handles += _devices_at(self._relays[str(endpoint)]) if isinstance(endpoint, Endpoint) else [_local_gpu(endpoint)]
        self._kept = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
        return self._kept

    @property
    def has_local_gpu(self) -> bool:
        """Whether one of them is a GPU of this llama.cpp."""
        return any(isinstance(endpoint, str) for endpoint in self._endpoints)

    @property
    def serves_here(self) -> bool:
        """Whether llama.cpp waits for the calling thread: a relay's."""
        return Relay.is_here()

    def set_aside(self) -> None:
        """Close the connections: without layers, the devices are not needed."""
        self._held.close()
        self._connections.clear()
        self._endpoints = []

    def watch(self, notify: Callable[[str], None]) -> None:
        """Call ``notify(message)`` when a device is lost."""
        self.in_use = True
        for connection in self._connections:

            def lost(reason: str, endpoint: Endpoint = connection.endpoint) -> None:
                notify(f"the device at {endpoint} was lost ({reason})")

            self._watched.append((connection, lost))
            connection.watch(lost)

    def waited_for(self, limit_s: float) -> str | None:
        """Return a device that has not answered for ``limit_s`` seconds, or None."""
        late = (connection for connection in self._connections if connection.busy_s() > limit_s)
        return next((str(connection.endpoint) for connection in late), None)

    def abandon(self, limit_s: float) -> None:
        """Mark devices as lost that have not answered for ``limit_s`` seconds and that no other model uses."""
        for connection in self._connections:
            if connection.busy_s() > limit_s and connection.n_users == 1:
                connection.lose("it did not answer, and the model was closed")

    def release(self) -> None:
        """Release all devices; safe to call twice."""
        for connection, notify in self._watched:
            connection.unwatch(notify)
        self._watched.clear()
        self._held.close()


def borrow_devices(devices: Any, build: EngineBuild) -> ModelDevices:
    """Check the ``devices`` argument of ``load_model``, and connect."""
    if isinstance(devices, (str, bytes, ServedDevice, Mapping)) or not isinstance(devices, Iterable):
        raise ArgumentTypeError(
            f"devices must be a list of addresses or names, such as ['127.0.0.1:50052'], not {shown(devices)}"
        )
    given = list(devices)
    if not 0 < len(given) <= MAX_DEVICES:
        raise ArgumentError(
            f"devices has {len(given):,} entries: give 1 to {MAX_DEVICES}, or omit it to use no other device"
        )
    named = [_read(f"devices[{index}]", device, build) for index, device in enumerate(given)]
    for index, endpoint in enumerate(named):
        if endpoint in named[:index]:
            raise ArgumentError(f"devices[{index}] is {endpoint} again: give each device once")
    if any(isinstance(endpoint, Endpoint) for endpoint in named):
        check_rpc(build)
        _check_protocol(build.version)
    served = [device for device in given if isinstance(device, ServedDevice)]
    has_gpu = any(isinstance(endpoint, str) for endpoint in named) or any(device.kind in _GPU_KINDS for device in served)
    return ModelDevices(named, has_gpu=has_gpu, served=served)


@lru_cache(maxsize=1)
def _check_protocol(version: str) -> None:
    """Refuse a llama.cpp with another RPC protocol than the relay's: it would abort the process in the handshake."""
    if version != TESTED:
        try:
            start_device().close()  # it uses the same build
        except ModelLoadError as error:
            raise ModelLoadError(
                f"llama-cpp-python {version} uses another RPC protocol than this labkit: install {TESTED}, or a newer labkit"
            ) from error


def _read(name: str, device: Any, build: EngineBuild) -> Endpoint | str:
    if isinstance(device, ServedDevice):
        return parse_endpoint(device.endpoint).reachable
    own = [candidate.name for candidate in build.devices if candidate.kind in _GPU_KINDS]
    if isinstance(device, str) and ":" not in device:
        if device in own:
            return device
        have = f"which has {', '.join(own)}" if own else "which has no GPU"
        raise ArgumentError(
            f"{name}={one_line(repr(device), 60)} is neither an address such as '127.0.0.1:50052' nor a GPU of this "
            f"llama.cpp, {have}"
        )
    return parse_endpoint(device, name=name)


def _local_gpu(name: str) -> int:
    return int(ggml_function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(name.encode()))


def _devices_at(relay: Relay) -> list[int]:
    """Have llama.cpp list the devices behind a relay."""
    count = ggml_function("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)
    get = ggml_function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    add_server = rpc_function("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    registry = add_server(relay.address.encode())
    if not registry:
        raise ModelLoadError("llama.cpp found no device at its relay: please report this")
    return [get(registry, index) for index in range(count(registry))]
