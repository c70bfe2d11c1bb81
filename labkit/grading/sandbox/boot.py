"""The first program in a sandbox: sets resource limits, drops privileges, and becomes the notebook's kernel.

It prints ``ready``, then reads one line of JSON: ``limits`` (of `resource`, by name), ``user`` (a user id or null),
``place`` (the folder for its sockets), ``home``, ``files`` (texts to write there, by name), ``arguments`` of the kernel. It
is run by path, before any file of the student exists.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


def _confine(request: dict[str, Any]) -> None:
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    for folder in (request["place"], request["home"]):
        Path(folder).mkdir(mode=0o700, exist_ok=True)
    os.chdir(request["home"])
    for name, text in request["files"].items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


def _become_kernel(arguments: list[str]) -> None:
    from ipykernel.kernelapp import IPKernelApp  # type: ignore[import-not-found,unused-ignore]

    null_device = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null_device, stream)
    IPKernelApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    print("ready", flush=True)
    given = json.loads(sys.stdin.readline() or sys.exit("the grader exited"))
    sys.path[:] = [folder for folder in sys.path if folder and Path(folder) != Path(__file__).parent]
    sys.argv = ["kernel"]
    _confine(given)
    _become_kernel(given["arguments"])
