"""Layers of a model on other processes and machines, over llama.cpp's RPC; opened only with ``devices=``.

::

    serve         a device lent by a child process (serve_child): start_device, serve_device
    borrow        what load_model(devices=…) borrows
    endpoints     host:port, and a free port to serve on
    connection    the wire to a device
    rpc_protocol  what is asked on it, and how long each answer is
    relay         between llama.cpp and a device, so that one that dies does not take this process with it
"""

from __future__ import annotations

from labkit.devices.serve import ServedDevice, serve_device, start_device

__all__ = ["ServedDevice", "serve_device", "start_device"]
