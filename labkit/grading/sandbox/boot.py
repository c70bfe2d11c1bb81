"""The first program in a sandbox: takes on the limits, drops what rights it has, and becomes the notebook's kernel.

It says that it is there, and reads a line of JSON: ``limits`` (of `resource`, by name), ``user`` (a number, or null),
``place`` of its sockets, ``home``, ``files`` that are put there (texts, by name), ``arguments`` of the kernel. Run as a file
by its path, before anything of a student's is there.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

__all__: list[str] = []


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
        Path(name).write_text(text, encoding="utf-8")


def _become_kernel(arguments: list[str]) -> None:
    from ipykernel.kernelapp import IPKernelApp  # type: ignore[import-not-found,unused-ignore]

    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    IPKernelApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    print("ready", flush=True)
    asked = json.loads(sys.stdin.readline() or sys.exit("the grader has ended"))
    sys.path[:] = [folder for folder in sys.path if folder and Path(folder) != Path(__file__).parent]
    sys.argv = ["kernel"]
    _confine(asked)
    _become_kernel(asked["arguments"])
