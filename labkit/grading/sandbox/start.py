"""Start a sandboxed Python kernel: no network, no files except Python's and labkit's; it dies with the grader.

Notes
-----
bubblewrap gives it separate namespaces and a file system of read-only binds and small tmpfs mounts. Its sockets are inside
that file system and are reached through ``/proc/PID/root``, so nothing inside can write to this machine's disks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.errors import GradingError
from labkit.grading.sandbox.bubblewrap import HOST, environment, file_options, isolation_options
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.seccomp import system_call_filter
from labkit.system.engine_library import trial_record

BOOT = Path(__file__).resolve().with_name("boot.py")  # not imported: a program that needs modules missing on Windows
_RUNNING: set[SandboxedProcess] = set()
_KILLING = threading.Event()
_USER_IDS = itertools.count(os.getpid() % 1_000_000 * 400)
_FIRST_USER, _FEWEST_USERS = 1_000_000_000, 60_000


@dataclasses.dataclass(eq=False)
class SandboxedProcess:
    """A process in a sandbox."""

    process: subprocess.Popen[bytes]  # bubblewrap, or Python itself if there is no sandbox
    first: int  # id of the first process in the sandbox; killing it kills all others there
    sockets: Path  # prefix of the paths of the kernel's sockets, as seen by this process
    folder: Path | None = None  # to remove at the end; None in a sandbox

    def __post_init__(self) -> None:
        _RUNNING.add(self)
        if _KILLING.is_set():
            self.kill()

    def kill(self) -> None:
        """Kill it and everything that it started; `end` releases the rest."""
        for number in {self.first, self.process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if self.folder is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it and everything that it started, and release its resources."""
        self.kill()
        _RUNNING.discard(self)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def kill_sandboxes() -> Iterator[None]:
    """Kill all sandboxes of this process, and those that threads start inside the ``with`` block."""
    _KILLING.set()
    try:
        for sandbox in list(_RUNNING):
            sandbox.kill()
        yield
    finally:
        _KILLING.clear()


@functools.cache
def require_sandbox() -> None:
    """Raise `GradingError` if no sandbox works on this machine: grading never falls back to running without one."""
    program = shutil.which("bwrap")
    advice = "grade on Linux with bubblewrap, or pass --unsafe-no-sandbox for notebooks that you trust"
    if program is None:
        raise GradingError(f"no sandbox: bwrap is not installed ('apt install bubblewrap'): {advice}")
    user = _unused_user()
    switch = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})" if user else "import os"
    options = [*isolation_options(switches_user=user is not None), *file_options((), 1 << 20)]
    command = [program, *options, "--", sys.executable, "-c", switch]
    try:
        result = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GradingError(f"no sandbox: bwrap did not run ({type(error).__name__}): {advice}") from None
    if result.returncode:
        reason = " ".join(result.stderr.decode(errors="replace").split())[:200]
        raise GradingError(f"no sandbox: bwrap fails here ({reason}): {advice}")
    end_leftovers()


def end_leftovers() -> None:
    """End what a killed grader may have left: bubblewrap's inner process, which waits for the outer one without end.

    It is killed with the outer one only a moment after it starts. Until then, it runs no code of a notebook.
    """
    import psutil

    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = one.cmdline()
            is_ours = command[:1] and Path(command[0]).name == "bwrap" and str(BOOT) in command
            parent = one.parent() if is_ours else None
            if parent is not None and (parent.pid == 1 or parent.name() == "systemd") and not one.children():
                one.kill()


def start_sandboxed(
    arguments: Sequence[str], limits: Limits, *, files: Mapping[str, str], hidden: Sequence[Path], unsafe: bool
) -> SandboxedProcess:
    """Start a kernel in a sandbox, or without one (``unsafe``) in a temporary folder.

    Its ``arguments`` have the numbers of the sockets, but not their folder. ``files`` are texts to write in the working
    directory, by name; ``hidden`` folders are not visible in the sandbox.
    """
    if unsafe:
        return _start_unsafe(arguments, limits, files)
    require_sandbox()
    place = Path("/tmp", f"kernel-{secrets.token_hex(8)}")  # noqa: S108  # the sandbox's
    user = _unused_user()
    request = _request(arguments, limits, place, {**files, **_engine_record()}, user, inside=True)
    filters = system_call_filter()
    seccomp, info = os.pipe(), os.pipe()
    options = ["--info-fd", str(info[1]), *(["--seccomp", str(seccomp[0])] if filters else [])]
    isolation = isolation_options(switches_user=user is not None)
    command = [str(shutil.which("bwrap")), *isolation, *file_options(hidden, limits.file_bytes), *options]
    process = _start_python([*command, "--"], pass_fds=(seccomp[0], info[1]))
    os.write(seccomp[1], filters or b"")
    for number in (*seccomp, info[1]):
        os.close(number)
    first = _first_process(info[0], process)
    _send_request(process, request, limits.start_s)
    return SandboxedProcess(process, first, Path(f"/proc/{first}/root{place}/socket"))


def _engine_record() -> dict[str, str]:
    """Return the cache file for the sandbox, so that not every notebook tries llama.cpp in a subprocess first."""
    return {f"cache/{name}": text for name, text in trial_record(HOST).items()}


def _start_unsafe(arguments: Sequence[str], limits: Limits, files: Mapping[str, str]) -> SandboxedProcess:
    if sys.platform == "win32":
        raise GradingError("grading needs Linux, or macOS for notebooks that you trust: on Windows use WSL")
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    variables = {**os.environ, **environment(str(folder))}
    process = _start_python([], cwd=folder, env=variables, start_new_session=True)
    _send_request(process, _request(arguments, limits, folder, files, None, inside=False), limits.start_s)
    return SandboxedProcess(process, process.pid, folder / "socket", folder)


def _start_python(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    python = [sys.executable, "-s", "-X", "utf8", str(BOOT)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *python], stdin=pipe, stdout=pipe, stderr=pipe, **options)


def _unused_user() -> int | None:
    """Return a user id that no process has, to switch to from root; None for other users, and for root of a few ids.

    Linux does not limit root's processes. In an unprivileged container, root has only the ids that are mapped into it, often
    65,536; with fewer, bubblewrap's own user namespace has to do.
    """
    if os.geteuid() != 0:
        return None
    number, end = next(_USER_IDS), min(map(_mapped_ids, ("uid_map", "gid_map")))
    if end > 2 * _FIRST_USER:
        return _FIRST_USER + number
    return end - 2000 - number % (end // 2) if end >= _FEWEST_USERS else None


def _mapped_ids(name: str) -> int:
    """Return how many ids, from 0 on, this process's user namespace has."""
    with contextlib.suppress(OSError):
        rows = [tuple(map(int, line.split())) for line in Path("/proc/self", name).read_text().splitlines()]
        return sum(count for inside, _, count in sorted(rows) if inside < 2**32)
    return 0


def _request(
    arguments: Sequence[str], limits: Limits, place: Path, files: Mapping[str, str], user: int | None, *, inside: bool
) -> bytes:
    rlimits = {
        "RLIMIT_AS": limits.address_bytes,
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_CPU": int(limits.total_s * 2) + 1,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }
    if not inside:  # without a user namespace, Linux counts all processes of the user
        del rlimits["RLIMIT_NPROC"]
    home = str((place.parent if inside else place) / "home")
    kernel = [*arguments, f"--ip={place / 'socket'}"]
    request = {"limits": rlimits, "user": user, "place": str(place), "home": home, "files": dict(files), "arguments": kernel}
    return json.dumps(request).encode() + b"\n"


def _send_request(process: subprocess.Popen[bytes], request: bytes, limit_s: float) -> None:
    """Send the request to `boot` once it is ready.

    By then, bubblewrap's inner process dies with the outer one, and that one with ours. If the request were sent earlier, a
    grader killed in between would leave a running kernel behind.
    """
    assert process.stdin is not None  # noqa: S101  # they are pipes
    assert process.stdout is not None  # noqa: S101
    with process.stdin, process.stdout, contextlib.suppress(BrokenPipeError):
        if select.select([process.stdout], [], [], limit_s)[0] and process.stdout.readline():
            process.stdin.write(request)
            process.stdin.flush()


def _first_process(info: int, process: subprocess.Popen[bytes]) -> int:
    with os.fdopen(info) as stream:
        text = stream.read()
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        _, errors = process.communicate()
        raise GradingError(f"the sandbox did not start: {' '.join(errors.decode(errors='replace').split())[:200]}") from None
