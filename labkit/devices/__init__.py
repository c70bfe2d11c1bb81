"""A model's layers in other processes or on other machines, over llama.cpp's RPC; imported only for ``devices=``.

::

    serve         serve a device from a child process (serve_child): start_device, serve_device
    borrow        the devices of load_model(devices=…)
    endpoints     host:port, and free ports
    connection    the connection to a device
    rpc_protocol  llama.cpp's RPC protocol: commands, and the length of each answer
    relay         proxy between llama.cpp and a device, so that a lost device does not abort this process
"""

from labkit.devices.serve import ServedDevice, serve_device, start_device

__all__ = ["ServedDevice", "serve_device", "start_device"]
