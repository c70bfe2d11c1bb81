"""A port to serve on: free, or a clear word that it is not."""

from __future__ import annotations

import errno
import socket
import sys
import time

from labkit.engine.endpoints import Endpoint
from labkit.errors import LabkitError

__all__ = ["free_port"]

_LET_GO_S = 0.5  # what a process that was just ended may take to leave its port


def free_port(endpoint: Endpoint) -> int:
    """Return the endpoint's port if it can be served on; for port 0 one that the system chooses.

    Raises
    ------
    LabkitError
        When the port is taken, may not be used, or the address is not this machine's.
    """
    deadline = time.monotonic() + _LET_GO_S
    while True:
        try:
            return _try(endpoint)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise LabkitError(f"nothing can be served at {endpoint}: {_why(error)}") from error
            time.sleep(0.02)


def _try(endpoint: Endpoint) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if sys.platform == "win32":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # there, others may share a port otherwise
        else:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        trial.bind((endpoint.host, endpoint.port))
        trial.listen(1)
        return int(trial.getsockname()[1])


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already: choose another port, or port 0 for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address: use 127.0.0.1, or one of this machine's own"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "the system does not allow that port: choose one of 1,024 or more"
    if isinstance(error, socket.gaierror):
        return "the host is unknown: give an IP address of this machine"
    return str(error.strerror or error)
