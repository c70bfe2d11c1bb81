"""Options for bubblewrap: namespaces, mounts, environment."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from labkit.prebuilt import VARIABLE
from labkit.system.engine_library import given_folder
from labkit.system.library_file import library_files

HOST = "sandbox"
HOME = "/tmp/home"  # noqa: S108  # in the sandbox's own file system
_PACKAGE = Path(__file__).resolve().parents[2]
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/fonts")
_KEPT = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # without them, OpenBLAS gives wrong results on some machines


def isolation_options(*, switches_user: bool) -> list[str]:
    """Return the options for namespaces and capabilities; ``switches_user`` if `boot` drops root's user id itself."""
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", HOST, "--cap-drop", "ALL"]
    if switches_user:  # to an unused user id, which drops these two
        return [*options, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*options, "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]


def file_options(hidden: Sequence[Path], file_bytes: int) -> list[str]:
    """Return the options for mounts: Python, labkit and the system's libraries read-only, a small writable tmpfs.

    ``hidden`` folders are hidden although a parent is visible.
    """
    folders = _visible_folders()
    libraries = {file: file.resolve() for file in _given_libraries(folders)}
    paths = [*folders, *dict.fromkeys(libraries.values())]
    options = ["--perms", "1777", "--size", str(file_bytes), "--tmpfs", "/tmp"]  # noqa: S108  # the sandbox's
    for path in dict.fromkeys(parent for shown in (*paths, *libraries) for parent in reversed(shown.parents)):
        if path not in paths and path.as_posix() not in ("/", "/tmp"):  # noqa: S108
            options += ["--perms", "0755", "--dir", str(path)]
    options += [text for path in paths for text in ("--ro-bind", str(path), str(path))]
    options += [text for file, real in libraries.items() if file != real for text in ("--symlink", str(real), str(file))]
    small = ("--size", str(max(file_bytes // 4, 4096)), "--tmpfs")
    options += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", *small, "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    for path in (item.resolve() for item in hidden):
        if path.is_dir() and any(path.is_relative_to(folder.resolve()) for folder in folders):
            options += ["--size", "4096", "--tmpfs", str(path), "--remount-ro", str(path)]
    for name, value in environment(HOME).items():
        options += ["--setenv", name, value]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108


def _visible_folders() -> list[Path]:
    """Return the readable folders: the system's, Python's and this package, no other files of the user."""
    own = [Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("purelib")), _PACKAGE]
    paths = [*map(Path, _SYSTEM), *(path for item in own for path in (item, item.resolve()))]
    return [path for path in dict.fromkeys(paths) if path.exists()]


def _given_libraries(folders: Sequence[Path]) -> list[Path]:
    """Return the libraries of llama.cpp that the user has chosen, unless they are in one of these folders."""
    given = given_folder()
    if given is None or any(given.is_relative_to(folder) for folder in folders):
        return []
    return library_files(given)


def environment(home: str) -> dict[str, str]:
    """Return the complete environment of the sandbox."""
    given = given_folder()
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LABKIT_CACHE": f"{home}/cache",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # notebooks run in parallel: spinning threads would slow each other down
        "TERM": "dumb",
        "USER": "student",
        "LOGNAME": "student",
        **({VARIABLE: str(given)} if given else {}),
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
    }
