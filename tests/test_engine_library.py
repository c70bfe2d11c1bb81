"""An engine that does not load: one line with the reason and the command that fixes it, and everything else works."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.system import install, library_file
from labkit.system.engine_library import engine_knows
from tests import broken_engine as broken
from tests.broken_engine import ILLEGAL, environment, in_function, on_load, replace_bytes, set_field
from tests.test_system import write_files

MACHINE = platform.machine()
linux_only = pytest.mark.skipif(not broken.is_linux, reason="edits libraries for Linux")
needs_code = pytest.mark.skipif(MACHINE not in ILLEGAL or not broken.is_linux, reason="no machine code for this processor")
TRY = """
import json, labkit
try:
    labkit.load_model
    print(json.dumps(["loaded", *labkit.engine_build().backends]))
except labkit.EngineError as error:
    print(json.dumps([str(error)]))
"""


def _try(cwd: Path | None = None, **where: str | Path | None) -> str:
    """Return what a process says that uses an engine: one line, whatever happens to it."""
    child = subprocess.run(
        [sys.executable, "-c", TRY],
        env=environment(**where),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (child.returncode, child.stderr) == (0, "")
    (line,) = child.stdout.splitlines()
    said = " ".join(json.loads(line))
    assert "\n" not in said
    return said


NOT_HERE = "it uses an instruction that this processor does not have (signal 4)"
UNSET = "unset LLAMA_CPP_LIB_PATH"
ILLEGAL_CODE = ILLEGAL.get(MACHINE, b"")
# name -> (library, edit, what the reason says)
EDITS: dict[str, tuple[str, Callable[[bytearray], bytearray | bytes | None], str]] = {
    "a text file": ("libllama", lambda _: b"version https://git-lfs.github.com/spec/v1\n", "libllama.so is a text file"),
    "an empty file": ("libllama", lambda _: b"", "libllama.so is empty"),
    "random bytes": ("libllama", lambda _: bytes(range(256)) * 40, "libllama.so is a damaged file"),
    "another processor": ("libllama", set_field(18, 243), "was built for riscv processors, and this Python for"),
    "32 bits": ("libllama", lambda data: data[:4] + b"\x01" + data[5:18] + b"\x03\0" + data[20:], "x86 processors"),
    "cut in half": ("libllama", lambda data: data[: len(data) // 2], "libllama.so is cut off"),
    "cut in its header": ("libllama", lambda data: data[:40], "libllama.so is cut off"),
    "for Windows": ("libllama", lambda _: b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0\x64\x86", "was built for Windows"),
    "for macOS": ("libllama", lambda _: b"\xcf\xfa\xed\xfe\x0c\0\0\x01" + bytes(90), "was built for macOS"),
    "libggml is a text file": ("libggml", lambda _: b"moved", "libggml.so is a text file"),
    "libggml for another processor": ("libggml-base", set_field(18, 21), "libggml-base.so was built for ppc64"),
    "a newer C library": ("libllama", broken.newer_c_library, "needs GLIBC_9.99, and this system has"),
    "a newer C++ library": ("libggml-base", replace_bytes(b"GLIBCXX_3.4\0", b"GLIBCXX_9.9\0"), "GLIBCXX_9.9"),
    "without a function": ("libllama", replace_bytes(b"\0llama_decode\0", b"\0llama_decade\0"), "llama_decode is missing"),
    "mixed versions": ("libggml-base", replace_bytes(b"\0ggml_nbytes\0", b"\0ggml_nbites\0"), "ggml_nbites is missing"),
}  # fmt: skip
CODE = {
    "illegal instruction on load": ("libggml-cpu", on_load(ILLEGAL_CODE), NOT_HERE),
    "illegal instruction in the first product": (
        "libggml-cpu", in_function("ggml_graph_plan", ILLEGAL_CODE), NOT_HERE,
    ),
    "illegal instruction in libllama": ("libllama", on_load(ILLEGAL_CODE), NOT_HERE),
    "illegal instruction at the start": (
        "libllama", in_function("llama_backend_init", ILLEGAL_CODE), NOT_HERE,
    ),
}  # fmt: skip
X86_CODE = {
    "ends on load": ("libggml", on_load(b"\xf4"), "it ends the process that loads it (signal 11)"),  # hlt
    "structures of another size": (
        "libllama", in_function("llama_model_quantize_default_params", broken.WRITES_FAR),
        "llama_model_quantize_params has 520 bytes instead of",
    ),
}  # fmt: skip


def _says_of_edited(folder: Path, kind: tuple[str, Callable[[bytearray], bytearray | bytes | None], str]) -> str:
    library, edit, _ = kind
    broken.change(broken.copy_libraries(folder), library, edit)
    return _try(libraries=folder)


@linux_only
@pytest.mark.parametrize("name", EDITS)
def test_damaged_libraries_have_a_reason(name: str, tmp_path: Path) -> None:
    """A library that is damaged, foreign, too new or of another version is named, with the command."""
    said = _says_of_edited(tmp_path / "with spaces", EDITS[name])
    assert EDITS[name][2] in said
    assert UNSET in said


@needs_code
@pytest.mark.parametrize("name", CODE)
def test_an_illegal_instruction_does_not_reach_this_process(name: str, tmp_path: Path) -> None:
    """A library for another processor is found out in a subprocess, on loading and on computing."""
    assert CODE[name][2] in _says_of_edited(tmp_path / "lib", CODE[name])


@needs_code
@pytest.mark.skipif(MACHINE != "x86_64", reason="machine code for x86-64")
@pytest.mark.parametrize("name", X86_CODE)
def test_a_crash_or_another_layout_does_not_reach_this_process(name: str, tmp_path: Path) -> None:
    """So is one that crashes, and one whose structures have other sizes than llama-cpp-python's."""
    assert X86_CODE[name][2] in _says_of_edited(tmp_path / "lib", X86_CODE[name])


@linux_only
@pytest.mark.parametrize("name", ["libggml-base", "libggml", "libggml-cpu"])
def test_a_missing_library_is_named(name: str, tmp_path: Path) -> None:
    """Libraries that libllama needs are looked for next to it."""
    broken.remove(broken.copy_libraries(tmp_path / "lib"), name)
    assert f"the library {name}.so.0 is missing" in _try(libraries=tmp_path / "lib")


@linux_only
def test_files_that_are_no_library_are_named(tmp_path: Path) -> None:
    """A folder with the library's name, a link to nothing or to itself, and a library without llama.cpp's functions."""
    folder = broken.copy_libraries(tmp_path / "lib")
    library = folder / "libllama.so"
    library.unlink()
    library.mkdir()
    assert "libllama.so cannot be read (Is a directory)" in _try(libraries=folder)
    library.rmdir()
    library.symlink_to("nothing.so")
    assert "libllama.so cannot be read (No such file" in _try(libraries=folder)
    library.unlink()
    library.symlink_to("libllama.so")
    assert "libllama.so cannot be read" in _try(libraries=folder)
    library.unlink()
    library.write_bytes((broken.LIBRARIES / "libggml-base.so").read_bytes())
    assert "llama_max_devices is missing" in _try(libraries=folder)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    """LLAMA_CPP_LIB_PATH can be missing, empty, a file, relative, or begin with a home folder."""
    (tmp_path / "an empty folder").mkdir()
    (tmp_path / "file").write_text("")
    assert "there is no library 'llama'" in _try(libraries=tmp_path / "an empty folder")
    assert "is missing" in _try(libraries=tmp_path / "no such folder")
    assert "is not a folder" in _try(libraries=tmp_path / "file")
    assert f"'{tmp_path / 'relative'}' is missing" in _try(cwd=tmp_path, libraries="relative")
    assert f"'{tmp_path / 'mine'}' is missing" in _try(
        libraries=str(Path("~") / "mine"), HOME=str(tmp_path), USERPROFILE=str(tmp_path)
    )


def test_a_right_folder_works(tmp_path: Path) -> None:
    """LLAMA_CPP_LIB_PATH can be a folder with spaces, relative, in the home folder, or empty."""
    folder = broken.copy_libraries(tmp_path / "my libraries") if broken.is_linux else broken.LIBRARIES
    for given in (folder, os.path.relpath(folder, tmp_path), Path("~") / os.path.relpath(folder, tmp_path), "", " "):
        said = _try(cwd=tmp_path, libraries=given, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
        assert said.startswith("loaded"), said
        assert "CPU" in said


# name -> (files of a package llama_cpp, what the reason says)
INIT, BINDINGS = "llama_cpp/__init__.py", {"llama_cpp/llama_cpp.py": ""}
PACKAGES: dict[str, tuple[dict[str, str], str]] = {
    "too old": ({INIT: '__version__ = "0.2.90"', **BINDINGS}, "llama-cpp-python 0.2.90 is installed, but labkit needs 0.3"),
    "too new": ({INIT: '__version__ = "0.4.0"', **BINDINGS}, "llama-cpp-python 0.4.0 is installed, but labkit needs"),
    "a student's file": ({"llama_cpp.py": "print('hello')"}, "is not llama-cpp-python"),
    "another package": ({INIT: ""}, "is not llama-cpp-python"),
    "an empty file": ({INIT: "", **BINDINGS}, "AttributeError"),
    "a syntax error": ({INIT: "import (", **BINDINGS}, "SyntaxError"),
    "an exit": ({INIT: "raise SystemExit(3)", **BINDINGS}, "(exit status 3)"),
    "no standard error": ({"diskcache.py": "raise ImportError('no diskcache')"}, "no diskcache"),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wrong_package_is_named(name: str, tmp_path: Path) -> None:
    """Another version, a file of the same name, and a package that cannot be imported."""
    files, reason = PACKAGES[name]
    said = _try(path=write_files(tmp_path, files))
    assert reason in said
    assert ("rename it" if "is not llama-cpp-python" in reason else "llama-cpp-python") in said


def test_a_package_without_libraries_is_installed_again(tmp_path: Path) -> None:
    """llama-cpp-python as pure Python: the command installs libraries, and LLAMA_CPP_LIB_PATH alone is enough too."""
    path = broken.copy_package(tmp_path)
    said = _try(path=path)
    assert "lib' is missing" in said
    assert said.endswith(install.engine_command())
    assert _try(path=path, libraries=broken.LIBRARIES).startswith("loaded")


WANTED = '"llama-cpp-python>=0.3.34,<0.4"'
WHEELS = "install --force-reinstall --only-binary llama-cpp-python --extra-index-url " + install.WHEELS
BUILD = f"install --force-reinstall --no-cache-dir --no-binary llama-cpp-python {WANTED}"
# system, processor, pip, programs in the PATH -> the beginning and the end of the command
MACHINES = [
    ("linux", "x86-64", "pip", {"g++"}, "CMAKE_ARGS=", f"pip {BUILD}"),
    ("linux", "x86-64", "pip", {"apt-get"}, "pip install", f"{WHEELS}cpu {WANTED}"),
    ("linux", "arm64", "uv pip", set(), "uv pip install", f"{WHEELS}cpu {WANTED}"),
    ("darwin", "arm64", "pip", set(), "pip install", f"{WHEELS}metal {WANTED}"),
    ("win32", "x86-64", "pip", set(), "pip install", f"{WHEELS}cpu {WANTED}"),
    ("win32", "x86-64", "pip", {"cl"}, "$env:CMAKE_ARGS=", f"; pip {BUILD}"),
    ("win32", "arm64", "pip", set(), "install a C++ compiler (winget install", f"pip {BUILD}"),
    ("linux", "riscv64", "pip", {"apk"}, "install a C++ compiler (sudo apk add g++ linux-headers), then: ", BUILD),
    ("linux", "riscv64", "pip", set(), "install a C++ compiler (g++ or clang++), then: ", f"pip {BUILD}"),
]  # fmt: skip


@pytest.mark.parametrize(("system", "processor", "pip", "programs", "begin", "end"), MACHINES)
def test_the_command_fits_the_machine(
    system: str, processor: str, pip: str, programs: set[str], begin: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built here where there is a compiler, else upstream's wheel if there is one, else with a compiler's installation."""
    monkeypatch.setattr("labkit.system.install.sys.platform", system)
    monkeypatch.setattr(install, "this_machine", lambda: processor)
    monkeypatch.setattr(install, "_pip", lambda: pip)
    monkeypatch.setattr("labkit.system.install.shutil.which", lambda name: name if name in programs else None)
    monkeypatch.setattr("labkit.system.install.sys.prefix", "/nothing")
    monkeypatch.setattr("labkit.system.install.__file__", "/site-packages/labkit/system/install.py")
    monkeypatch.delenv("CXX", raising=False)
    command = install.engine_command()
    assert command.startswith(begin)
    assert command.endswith(end)
    if not programs & {"g++", "cl"}:
        assert install.engine_command(for_this_processor=True).startswith("install a C++ compiler")


def test_conda_and_a_clone_have_their_own_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a conda environment without a compiler conda installs it; in a clone that uv set up, uv builds it."""
    monkeypatch.setattr(install, "_has_compiler", lambda: False)
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr("labkit.system.install.sys.prefix", str(tmp_path))
    assert install.engine_command() == f"conda install --force-reinstall -c conda-forge {WANTED}"
    monkeypatch.setattr(install, "_has_compiler", lambda: True)
    monkeypatch.setattr(install, "_pip", lambda: "uv pip")
    assert install.engine_command() == "uv sync --reinstall-package llama-cpp-python"


def test_an_engine_is_tried_once(tmp_path: Path) -> None:
    """The second process does not start another to try it; a changed file does; a fault is not remembered."""
    code = (
        "from labkit.system import engine_library as library\n"
        "asked, ask = [], library.ask_child\n"
        "library.ask_child = lambda *given: asked.append(1) or ask(*given)\n"
        "try:\n    library.check_engine()\nexcept library.EngineError: pass\n"
        "print(len(asked))"
    )

    def tries(**where: str | Path) -> int:
        env = environment(LABKIT_CACHE=str(tmp_path / "cache"), **where)
        return int(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout)

    assert [tries(), tries()] == [1, 0]
    (tmp_path / "empty").mkdir()
    assert [tries(libraries=tmp_path / "empty"), tries(libraries=tmp_path / "empty")] == [1, 1]
    path = broken.copy_package(tmp_path / "copy")
    with_copy = {"path": path, "libraries": broken.LIBRARIES}
    assert [tries(**with_copy), tries(**with_copy)] == [1, 0]
    (path / "llama_cpp" / "llama_cpp.py").touch()
    assert tries(**with_copy) == 1


def test_importing_the_engine_leaves_the_garbage_collector_as_it_was() -> None:
    """What was imported counts as old, so the next small collection does not read it; objects frozen before stay so."""
    code = (
        "import gc\n{before}\nfrom labkit.system import load_engine\nload_engine()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0, len(gc.get_objects(generation=0)) < 3000)"
    )
    for before, expected in (("", "True False True"), ("gc.freeze()", "True True"), ("gc.disable()", "False False")):
        run = [sys.executable, "-c", code.format(before=before)]
        assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.startswith(expected), before


@pytest.mark.parametrize("content", [None, b"", b"a text"])
def test_a_header_is_read_next_to_a_damaged_library(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the engine knows an architecture is only asked of a library that is one."""
    if content is not None:
        for name in ("libllama.so", "libllama.dylib", "llama.dll"):
            (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    engine_knows.cache_clear()
    try:
        assert engine_knows("no such architecture")
    finally:
        engine_knows.cache_clear()


def test_a_library_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that this user may not read; root may read everything, so the refusal is made here."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "libllama.so"
    path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(Path, "open", refuse)
    assert library_file.wrong_with(path) == "cannot be read (Permission denied)"
