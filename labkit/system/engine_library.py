"""Find llama.cpp's libraries, try them once in a subprocess, and import them: one error if that does not work.

A library that was built for another processor, or is damaged, can end the process that loads it. So an engine that has not
worked on this machine before computes something in a subprocess first, which takes about half a second; what worked is
cached, and tried again when one of its files changes.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import logging
import mmap
import os
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labkit.cache import file_identity, recall, record_name, remember
from labkit.checks import one_line
from labkit.children import ChildEndedError, ask_child
from labkit.errors import EngineError
from labkit.prebuilt import VARIABLE, prebuilt_folder, why_not_prebuilt
from labkit.system.cgroups import read_text
from labkit.system.install import OLDEST, TOO_NEW, engine_command, unset_command, version_text
from labkit.system.library_file import ILLEGAL, explain_fault, library_files, main_library, wrong_with

_CHILD = Path(__file__).with_name("engine_child.py")
_LIMIT_S = 120.0  # some 200 times as long as needed on an idle machine
_LONGEST = 1200  # characters of a message, most of them the command
_VERSION = r"(?m)^__version__ *= *[\"'](\d+(?:\.\d+)*)"

_IN_NAMES = (string.ascii_lowercase + string.digits + "-.").encode()
_LONGEST_BEFORE = 24  # characters that can come before a name where the linker stores it as the end of a longer one


@functools.lru_cache(maxsize=1)
def load_engine() -> Any:
    """Return the module ``llama_cpp``, which works here.

    Raises
    ------
    EngineError
        When llama.cpp is not installed or cannot be loaded.
    """
    folder = check_engine()
    try:
        with _without_collections():
            import llama_cpp
    except Exception as error:  # ctypes and llama-cpp-python raise many types
        raise _error(f"{type(error).__name__}: {error}", _package(), folder) from error
    # Keep the backends' startup messages off stderr (a CUDA build reports its GPUs): llama-cpp-python prints everything
    # until the first Llama. The new level is that of Llama(verbose=False); a level that is already set stays.
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return llama_cpp


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the garbage collector, and let it regard what was made meanwhile as old: 20 ms of an import without garbage."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()  # into the oldest generation, which is seldom read
        gc.enable()


def check_engine() -> Path:
    """Return the folder of libraries that work on this machine, without loading them into this process, or refuse them."""
    package, folder = _package(), library_folder()
    words = _identity(package, folder)
    if words and recall("engine", *words) == "works":
        return folder
    _check_package(package)
    fault = _try()
    if fault:
        raise _error(fault, package, folder)
    if words:
        remember("engine", "works", *words)
    return folder


def trial_record(host: str) -> dict[str, str]:
    """Return the cache's record that the engine works, for processes here that see another host name: its name and text."""
    try:
        package, folder = _package(), check_engine()
    except EngineError:
        return {}
    words = _identity(package, folder, host)
    return {f"engine/{record_name(*words)}": '"works"'} if words else {}


def library_folder() -> Path:
    """Return the folder that llama-cpp-python loads its libraries from."""
    return given_folder() or _package() / "lib"


def given_folder() -> Path | None:
    """Return the folder of ``LLAMA_CPP_LIB_PATH``; None if it is not set.

    It is made absolute in the environment, so that it means the same in each process: it can be in a home folder as ``~``,
    relative, or empty.
    """
    given = os.environ.get(VARIABLE, "")
    if not given.strip():
        os.environ.pop(VARIABLE, None)
        return None
    os.environ[VARIABLE] = os.path.abspath(os.path.expanduser(given))  # noqa: PTH100, PTH111 - links stay, ~nobody too
    return Path(os.environ[VARIABLE])


@functools.lru_cache(maxsize=64)
def engine_knows(architecture: str) -> bool:
    """Return whether the installed llama.cpp has a name of this architecture; True where its library is not found.

    Notes
    -----
    The library stores the names as C strings. A linker may store one as the end of another ("bert" in "neo-bert").
    """
    name = architecture.encode("utf-8", "replace") + b"\0"
    file = _library()
    if file is None:
        return True
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(name)
        while at >= 0:
            before = content[max(0, at - _LONGEST_BEFORE) : at].rstrip(_IN_NAMES)
            if before.endswith(b"\0"):
                return True
            at = content.find(name, at + 1)
    return False


def _library() -> Path | None:
    """Return llama.cpp's main library; None where it is missing or damaged."""
    try:
        file = main_library(library_folder())
    except EngineError:
        return None
    return None if file is None or wrong_with(file) else file


def _package() -> Path:
    """Return the folder of llama-cpp-python."""
    with contextlib.suppress(ImportError, ValueError):  # the latter: a module without a specification
        spec = importlib.util.find_spec("llama_cpp")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    raise EngineError(f"llama.cpp is not installed (there is no package llama_cpp): {engine_command()}")


def _identity(package: Path, folder: Path, host: str | None = None) -> tuple[str, ...]:
    """Return strings that change with the machine, llama-cpp-python and its libraries; none if a file is missing."""
    machine: Any = (
        os.uname() if sys.platform != "win32" else (os.environ.get("COMPUTERNAME"), os.environ.get("PROCESSOR_IDENTIFIER"))
    )
    machine = (machine[0], host or machine[1], *machine[2:])
    libraries = library_files(folder)
    files = [package / "__init__.py", package / "llama_cpp.py", *libraries]
    try:
        words = (*map(str, machine), sys.version, *(word for file in files for word in file_identity(file)))
    except OSError:
        return ()
    return words if libraries else ()


def _check_package(package: Path) -> None:
    """Refuse another version of llama-cpp-python, and another module of the same name."""
    if not (package / "llama_cpp.py").is_file():
        raise EngineError(
            f"llama.cpp cannot be loaded, because {str(package)!r} is not llama-cpp-python, but has its name llama_cpp: "
            "rename it, or start Python in another folder"
        )
    found = re.search(_VERSION, read_text(package / "__init__.py"))
    if found and not OLDEST <= tuple(map(int, found[1].split("."))) < TOO_NEW:
        raise EngineError(
            f"llama-cpp-python {found[1]} is installed, but labkit needs {version_text(OLDEST)} or newer and older than "
            f"{version_text(TOO_NEW)}: {engine_command()}"
        )


def _try() -> str:
    """Load the engine and compute in a subprocess; return what went wrong, or nothing."""
    import subprocess

    try:
        return str(ask_child(_CHILD, {}, _LIMIT_S)["fault"])
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_LIMIT_S:g} s"
    except OSError:  # no subprocess can be started: the import decides
        return ""
    except ChildEndedError as ended:
        return str(ended)


def _error(fault: str, package: Path, folder: Path) -> EngineError:
    """Return the error for a fault: its reason, and the command that fixes it."""
    own, given = package / "lib", VARIABLE in os.environ and folder != prebuilt_folder()
    fix = engine_command(for_this_processor=fault in ILLEGAL)
    if given and main_library(own):
        fix = f"{unset_command(VARIABLE)} (llama-cpp-python has libraries too)"
    elif given:
        fix = f"set {VARIABLE} to the folder of libllama, or {unset_command(VARIABLE)} and {fix}"
    elif why_not := why_not_prebuilt():
        return EngineError(one_line(f"llama.cpp cannot be loaded: {why_not}", _LONGEST))
    where = f" with {VARIABLE}={str(folder)!r}" if given else ""
    return EngineError(
        one_line(f"llama.cpp cannot be loaded{where}, because {explain_fault(fault, folder)}: {fix}", _LONGEST)
    )
