"""A Python kernel alone: no network, no files but Python's own and labkit, an end when its starter ends.

Notes
-----
bubblewrap gives it namespaces of its own and a file system of read-only binds and small file systems in memory. Its sockets
stand in there too, and are reached through ``/proc/PID/root``: nothing on this machine's disks can be written from inside.
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

from labkit.errors import GradingError
from labkit.grading.sandbox.bubblewrap import environment, file_options, walls
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.seccomp import system_call_filter

__all__ = ["Confined", "ending_all", "refuse_without_isolation", "start_confined"]

_BOOT = Path(__file__).resolve().with_name("boot.py")  # not imported: it is a program, and needs what Windows lacks
_OPEN: set[Confined] = set()
_ENDING = threading.Event()
_USERS = itertools.count(os.getpid() % 1_000_000 * 400)


@dataclasses.dataclass(eq=False)
class Confined:
    """A process in a sandbox.

    Parameters
    ----------
    process : Popen
        Of bubblewrap, or of Python itself where there is no sandbox.
    first : int
        The process whose end is the end of all others in the sandbox.
    sockets : Path
        The beginning of the paths of the kernel's sockets, as this process reaches them.
    folder : Path or None
        To remove in the end.
    """

    process: subprocess.Popen[bytes]
    first: int
    sockets: Path
    folder: Path | None = None

    def __post_init__(self) -> None:
        _OPEN.add(self)
        if _ENDING.is_set():
            self.kill()

    def kill(self) -> None:
        """End it and everything that it started, and leave the rest to who started it."""
        for number in {self.first, self.process.pid}:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.folder is not None:
            _end_group(self.process.pid)

    def end(self) -> None:
        """End it and everything that it started, and put everything away."""
        self.kill()
        _OPEN.discard(self)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def ending_all() -> Iterator[None]:
    """End all sandboxes of this process, and those that threads start within."""
    _ENDING.set()
    try:
        for confined in list(_OPEN):
            confined.kill()
        yield
    finally:
        _ENDING.clear()


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


@functools.cache
def refuse_without_isolation() -> None:
    """Try a sandbox.

    Raises
    ------
    GradingError
        When this machine has none that works: grading never goes on without one by itself.
    """
    program = shutil.which("bwrap")
    advice = "grade on Linux with bubblewrap, or pass --unsafe-no-sandbox for notebooks that you trust"
    if program is None:
        raise GradingError(f"no sandbox: the program bwrap is not there ('apt install bubblewrap'): {advice}")
    command = [program, *walls(), *file_options((), 1 << 20), "--", sys.executable, "-c", "import os"]
    try:
        result = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GradingError(f"no sandbox: bwrap does not run ({type(error).__name__}): {advice}") from None
    if result.returncode:
        reason = " ".join(result.stderr.decode(errors="replace").split())[:200]
        raise GradingError(f"no sandbox: bwrap fails here ({reason}): {advice}")


def start_confined(
    arguments: Sequence[str],
    limits: Limits,
    *,
    files: Mapping[str, str] | None = None,
    hidden: Sequence[Path] = (),
    unsafe: bool = False,
) -> Confined:
    """Start a kernel with these arguments; its sockets get the numbers that they name.

    Parameters
    ----------
    arguments : sequence of str
        Of the kernel, but for where its sockets stand.
    limits : Limits
    files : mapping of str to str, optional
        Texts that stand in its working directory, by name.
    hidden : sequence of Path
        Folders that must not be seen inside, wherever they are.
    unsafe : bool
        Without a sandbox, in a folder of its own.

    Raises
    ------
    GradingError
        When the sandbox does not start.
    """
    if unsafe:
        return _start_unsafe(arguments, limits, files or {})
    refuse_without_isolation()
    place = Path("/tmp", f"kernel-{secrets.token_hex(8)}")  # noqa: S108  # the sandbox's own
    request = _request(arguments, limits, place, files or {}, user=_free_user())
    filters = system_call_filter()
    given, told = os.pipe(), os.pipe()
    options = ["--info-fd", str(told[1]), *(["--seccomp", str(given[0])] if filters else [])]
    command = [str(shutil.which("bwrap")), *walls(), *file_options(hidden, limits.file_bytes), *options, "--", *_python()]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(given[0], told[1])
    )
    os.write(given[1], filters or b"")
    for number in (*given, told[1]):
        os.close(number)
    first = _first_process(told[0], process)
    _tell(process, request, limits.start_s)
    return Confined(process, first, Path(f"/proc/{first}/root{place}/socket"))


def _start_unsafe(arguments: Sequence[str], limits: Limits, files: Mapping[str, str]) -> Confined:
    if sys.platform == "win32":
        raise GradingError("grading needs Linux, or macOS for notebooks that you trust: on Windows use WSL")
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    process = subprocess.Popen(
        _python(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **environment(str(folder))},
        start_new_session=True,
    )
    _tell(process, _request(arguments, limits, folder, files, user=None), limits.start_s)
    return Confined(process, process.pid, folder / "socket", folder)


def _python() -> list[str]:
    return [sys.executable, "-s", "-X", "utf8", str(_BOOT)]


def _request(arguments: Sequence[str], limits: Limits, place: Path, files: Mapping[str, str], *, user: int | None) -> bytes:
    most = {
        "RLIMIT_AS": limits.address_bytes,
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_CPU": int(limits.total_s * 2) + 1,
        "RLIMIT_NPROC": limits.processes,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }
    inside = place.name.startswith("kernel-")
    if not inside:  # without a namespace of its own the count is of all the user's processes
        del most["RLIMIT_NPROC"]
    home = str((place.parent if inside else place) / "home")
    kernel = [*arguments, f"--ip={place / 'socket'}"]
    request = {"limits": most, "user": user, "place": str(place), "home": home, "files": dict(files), "arguments": kernel}
    return json.dumps(request).encode() + b"\n"


def _free_user() -> int | None:
    """Return a user's number for this sandbox alone, where that is ours to choose: Linux does not limit root's processes."""
    return 1_000_000_000 + next(_USERS) if os.geteuid() == 0 else None


def _tell(process: subprocess.Popen[bytes], request: bytes, limit_s: float) -> None:
    """Tell `boot` what to do, once it is there.

    By then bubblewrap's inner process has tied its life to the outer one's, and that one's to ours. Were the request sent
    earlier, a grader killed in between would leave a kernel that nobody ends.
    """
    assert process.stdin is not None  # noqa: S101  # they are pipes
    assert process.stdout is not None  # noqa: S101
    with process.stdin, process.stdout, contextlib.suppress(BrokenPipeError):
        if select.select([process.stdout], [], [], limit_s)[0] and process.stdout.readline():
            process.stdin.write(request)
            process.stdin.flush()


def _first_process(told: int, process: subprocess.Popen[bytes]) -> int:
    with os.fdopen(told) as stream:
        text = stream.read()
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        _, errors = process.communicate()
        raise GradingError(
            f"the sandbox does not start: {' '.join(errors.decode(errors='replace').split())[:200]}"
        ) from None
