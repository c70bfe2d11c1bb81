"""llama.cpp's libraries from llama-cpp-py-sync: used only if they fit, and the versions that fit really do."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.prebuilt import SOUND, VARIABLE
from tests.test_project import PROJECT, ROOT

(ENGINE, LIBRARIES) = list(SOUND.items())[-1]
PLATFORMS = ("x86_64-manylinux_2_28", "windows", "aarch64-apple-darwin", "x86_64-apple-darwin")
# llama-cpp-python 0.3.36 leaves the last field out of this struct, which is for training
INCOMPLETE = {"llama_opt_params": "optimizer_type"}


def _install(folder: Path, distribution: str, version: str, package: str) -> None:
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8")


def _seen(folder: Path, **environment: str) -> list[str]:
    """Import labkit with the packages in a folder; return `VARIABLE` and the reason for not using the libraries."""
    inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
    code = f"import os, labkit, labkit.prebuilt as p; print(os.environ.get('{VARIABLE}')); print(p.why_not_prebuilt())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**inherited, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **environment},
    )
    return done.stdout.splitlines()


def test_libraries_that_fit_are_used(tmp_path: Path) -> None:
    """llama_cpp without libraries gets those of llama-cpp-py-sync; the user's own setting and own libraries are kept."""
    _install(tmp_path, "llama-cpp-python", ENGINE, "llama_cpp")
    assert _seen(tmp_path) == ["None", ""]
    _install(tmp_path, "llama-cpp-py-sync", LIBRARIES, "llama_cpp_py_sync")
    assert _seen(tmp_path) == [str(tmp_path / "llama_cpp_py_sync"), ""]
    assert _seen(tmp_path, **{VARIABLE: "mine"}) == ["mine", ""]
    (tmp_path / "llama_cpp" / "lib").mkdir()
    assert _seen(tmp_path) == ["None", ""]


@pytest.mark.parametrize(("engine", "libraries"), [(ENGINE, "0.11548"), (ENGINE, "0.1"), ("0.3.35", LIBRARIES)])
def test_other_versions_are_refused_in_one_line(engine: str, libraries: str, tmp_path: Path) -> None:
    """Libraries of another llama.cpp are not used; one line names both versions and the command that fits."""
    _install(tmp_path, "llama-cpp-python", engine, "llama_cpp")
    _install(tmp_path, "llama-cpp-py-sync", libraries, "llama_cpp_py_sync")
    found, reason = _seen(tmp_path)
    assert found == "None"
    assert reason.startswith(f"llama-cpp-py-sync {libraries} is not used, because")
    assert f"llama-cpp-python {engine}: pip install" in reason
    assert f'"llama-cpp-python=={ENGINE}" "llama-cpp-py-sync=={LIBRARIES}"' in reason


def test_one_version_everywhere() -> None:
    """The table, the extra, the pins and the hashes are of the same version."""
    wanted = f"llama-cpp-py-sync=={LIBRARIES}"
    assert PROJECT["project"]["optional-dependencies"]["prebuilt"] == [wanted]
    assert {wanted, f"llama-cpp-python=={ENGINE}"} <= set((ROOT / "constraints.txt").read_text("utf-8").splitlines())
    assert re.findall(r"^(llama\S+)", (ROOT / "prebuilt.txt").read_text("utf-8"), re.MULTILINE) == [wanted]


@pytest.fixture(scope="module", params=PLATFORMS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download the libraries for a platform; uv checks their hash."""
    uv, folder = os.environ.get("UV") or shutil.which("uv"), tmp_path_factory.mktemp("prebuilt")
    assert uv, "this test needs uv: pip install uv"
    command = [uv, "pip", "install", "-q", "--no-deps", "--require-hashes", "--python", sys.executable]
    command += ["--python-platform", request.param, "--target", str(folder), "-r", str(ROOT / "prebuilt.txt")]
    done = subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"})
    assert done.returncode == 0, "uv failed"  # its output would name the package index
    return folder / "llama_cpp_py_sync"


@pytest.mark.thorough
def test_structs_have_the_same_layout(package: Path) -> None:
    """Every struct of llama.h that llama_cpp declares has the fields, offsets and size of the libraries' header."""
    import llama_cpp.llama_cpp as bindings
    from cffi import FFI

    assert importlib.metadata.version("llama-cpp-python") in SOUND
    header = FFI()
    (declarations,) = re.findall(
        r'_LLAMA_H_CDEF = """(.*?)"""', (package / "_cffi_bindings.py").read_text("utf-8"), re.DOTALL
    )
    header.cdef(declarations)
    structs = [kind for kind in vars(bindings).values() if isinstance(kind, type) and issubclass(kind, ctypes.Structure)]
    structs = [kind for kind in structs if kind.__module__ == bindings.__name__]
    assert len(structs) >= 20
    for kind in structs:
        declared = _declared(header, kind.__name__)
        if last := INCOMPLETE.get(kind.__name__):
            assert declared[0].popitem()[0] == last
        else:
            assert ctypes.sizeof(kind) == declared[1], kind
        assert _bound(kind) == declared[0], kind


def _declared(header: Any, name: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Return a struct's fields in the header, name -> (offset, size), and its size; an unnamed union is "value"."""
    kind = header.typeof(f"struct {name}")
    unnamed = {field for field in ("val_i64", "val_f64", "val_bool", "val_str") if name == "llama_model_kv_override"}
    fields = {field: (about.offset, header.sizeof(about.type)) for field, about in kind.fields if field not in unnamed}
    if unnamed:
        (offset,) = {about.offset for field, about in kind.fields if field in unnamed}
        fields["value"] = (offset, max(header.sizeof(about.type) for field, about in kind.fields if field in unnamed))
    return fields, header.sizeof(kind)


def _bound(kind: Any) -> dict[str, tuple[int, int]]:
    return {
        field[0]: (getattr(kind, field[0]).offset, getattr(kind, field[0]).size) for field in getattr(kind, "_fields_", ())
    }


@pytest.mark.thorough
def test_every_bound_function_is_exported(package: Path) -> None:
    """The library's table of names has every function that llama_cpp or labkit binds."""
    import llama_cpp

    source = (Path(llama_cpp.__file__).parent / "llama_cpp.py").read_text(encoding="utf-8")
    bound = set(re.findall(r'@ctypes_function\(\s*"(\w+)"', source))
    assert len(bound) > 200
    library = next(path for path in package.glob("*llama.*") if path.suffix in (".so", ".dylib", ".dll")).read_bytes()
    assert {name for name in bound if name.encode() + b"\0" not in library} == set()
    ggml = b"".join(path.read_bytes() for path in package.iterdir() if "ggml" in path.name)
    rooms = ("system", "engine", "devices", "quantize", "roofline", "memory")
    texts = [path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / "labkit" / room).glob("*.py")]
    used = set(re.findall(r'"(ggml_\w+)"', "".join(texts)))
    assert len(used) > 5
    assert {name for name in used if name.encode() not in ggml} == set()
