"""Names, addresses and paths as people paste them; the right file of a repository; unfinished downloads."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.errors import DownloadError, GGUFError, ModelNotFoundError
from labkit.model_info import _address
from labkit.models import resolve_model
from labkit.models.pasted import hub_reference, unwrap
from labkit.models.reference import choose_file, parse_reference
from labkit.models.resolve import first_part
from tests import hub as hub_module
from tests.gguf_models import llama
from tests.test_gguf_file import split
from tests.tiny_models import write_tiny_model

REPOSITORY, FILE = "org/Some-Model-GGUF", "Some-Model-Q4_K_M.gguf"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="backslashes are separators on Windows")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path / "my models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    path = tmp_path / "my models" / "a model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize(
    "form",
    ["{}", " {}\n", '"{}"', "'{}'", "“{}”", "`{}`", "<{}>", "\ufeff{}", "~/my models/a model.gguf", "$MODELS/a model.gguf",
     "${{MODELS}}/a model.gguf", "'~/my models/a model.gguf' ", "FILE_URI"],
)  # fmt: skip
def test_pasted_paths_are_found(form: str, file: Path) -> None:
    """Quotes, blanks, the home folder, variables and file:// addresses lead to the file."""
    text = file.as_uri() if form == "FILE_URI" else form.format(file)
    assert resolve_model(text) == file


@POSIX
def test_backslashes_of_shells_and_of_windows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal escapes blanks when a file is dropped on it; Windows separates folders by backslashes."""
    assert resolve_model(str(file).replace(" ", "\\ ")) == file
    monkeypatch.chdir(file.parent.parent)
    assert resolve_model("my models\\a model.gguf") == Path("my models/a model.gguf")


def test_a_file_wins_over_what_its_name_could_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name has quotes or a dollar is found by that name."""
    monkeypatch.chdir(tmp_path)
    name = "'$HOME'.gguf"
    Path(name).write_bytes(b"GGUF")
    assert resolve_model(name) == Path(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://huggingface.co/{REPOSITORY}", (REPOSITORY, None, None)),
        (f"https://huggingface.co/{REPOSITORY}/", (REPOSITORY, None, None)),
        (f"https://huggingface.co/{REPOSITORY}/tree/main", (REPOSITORY, None, None)),
        (f"https://huggingface.co/{REPOSITORY}/tree/main/BF16", (REPOSITORY, None, None)),
        (f"https://huggingface.co/{REPOSITORY}/blob/main/{FILE}", (REPOSITORY, FILE, None)),
        (f"https://huggingface.co/{REPOSITORY}/resolve/main/{FILE}?download=true", (REPOSITORY, FILE, None)),
        (f"https://huggingface.co/{REPOSITORY}/resolve/main/sub/a%20b.gguf", (REPOSITORY, "sub/a b.gguf", None)),
        (f"https://huggingface.co/{REPOSITORY}?show_file_info={FILE}", (REPOSITORY, FILE, None)),
        (f"huggingface.co/{REPOSITORY}", (REPOSITORY, None, None)),
        (f"hf.co/{REPOSITORY}:Q8_0", (REPOSITORY, None, "Q8_0")),
        (f"ollama run hf.co/{REPOSITORY}:Q8_0", (REPOSITORY, None, "Q8_0")),
        (f"-hf {REPOSITORY}:Q8_0", (REPOSITORY, None, "Q8_0")),
        (f"./llama-server -hf {REPOSITORY}:Q8_0", (REPOSITORY, None, "Q8_0")),
        (f"llama serve -hf {REPOSITORY}", (REPOSITORY, None, None)),
        (f"hf download {REPOSITORY} {FILE}", (REPOSITORY, FILE, None)),
        (f"https://huggingface.co/{REPOSITORY}/discussions/3", (REPOSITORY, None, None)),
        (f"{REPOSITORY}/", (REPOSITORY, None, None)),
        (f"hf://{REPOSITORY}/{FILE}", (REPOSITORY, FILE, None)),
        (f"hf://{REPOSITORY}", (REPOSITORY, None, None)),
        (f'"{REPOSITORY}:Q8_0" \n', (REPOSITORY, None, "Q8_0")),
    ],
)
def test_hub_addresses_are_references(text: str, expected: tuple[str | None, ...]) -> None:
    """The pages that people copy, and other programs' spellings, name the repository and its file."""
    assert parse_reference(text)[:3] == expected


def test_another_revision_is_refused() -> None:
    """An address of a fixed revision is not answered with the newest one."""
    with pytest.raises(ModelNotFoundError, match="revision 'abc123'"):
        parse_reference(f"https://huggingface.co/{REPOSITORY}/blob/abc123/{FILE}")
    assert hub_reference("https://example.org/org/repo/blob/main/a.gguf") is None


@given(st.text(max_size=60))
def test_any_text_is_found_or_not(text: str) -> None:
    """Whatever is pasted: unwrapping ends, and the text leads to a file or is not found."""
    assert unwrap(unwrap(text)) is not None
    with contextlib.suppress(ModelNotFoundError):
        assert resolve_model(text).is_file()


FILES = ["m-Q4_0.gguf", "m-Q8_0.gguf"]
COMPANIONS = ["mmproj-m-Q8_0.gguf", "m-mmproj-F16.gguf", "mtp-m-Q4_K_M.gguf", "MTP/m-Q8_0-MTP.gguf", "m-nextn-Q8_0.gguf",
              "eagle3-m-F16.gguf", "m-dflash-Q8_0.gguf", "m-draft-Q8_0.gguf", "m-assistant-Q8_0.gguf", "m.imatrix.gguf",
              "m-imatrix.gguf", "m-lora-F16.gguf", "m-dspark-Q4_0.gguf"]  # fmt: skip


@given(st.permutations(FILES + COMPANIONS), st.sampled_from(["Q8_0", "q8_0", "Q4_0"]))
def test_the_tag_picks_the_model(files: list[str], tag: str) -> None:
    """Whatever accompanies a model, and in whatever order, the tag means the model itself."""
    assert choose_file(parse_reference(f"x/m-GGUF:{tag}"), files) == f"m-{tag.upper()}.gguf"


@given(st.lists(st.sampled_from(COMPANIONS), unique=True), st.sampled_from(["m-Q4_0.gguf", "BF16/m-BF16.gguf", "m.gguf"]))
def test_one_model_needs_no_tag(others: list[str], model: str) -> None:
    """The only model of a repository is chosen whatever else is there."""
    assert choose_file(parse_reference("x/m-GGUF"), [*others, model]) == model


@pytest.mark.parametrize("tag", ["Q4_K_M", "IQ1_S"])
def test_what_is_not_there_is_listed(tag: str) -> None:
    """A draft of the wanted type does not answer for the model."""
    with pytest.raises(DownloadError, match=rf"no {tag} file.*m-Q8_0"):
        choose_file(parse_reference(f"x/m-GGUF:{tag}"), FILES + COMPANIONS)


def test_other_spellings_of_a_tag_are_known() -> None:
    """F16 is also called FP16, and Ollama's "latest" is not a tag."""
    for tag, name in itertools.product(("f16", "FP16"), ("m-fp16.gguf", "m-F16.gguf")):
        assert choose_file(parse_reference(f"x/m-GGUF:{tag}"), [*FILES, name, "m-BF16.gguf"]) == name
    assert parse_reference("hf.co/x/m-GGUF:latest") == parse_reference("x/m-GGUF")


def test_words_of_the_repository_mean_nothing() -> None:
    """A model that is called assistant, or a repository of drafts, has its files under that name."""
    assert (
        choose_file(parse_reference("x/Open-Assistant-GGUF:Q8_0"), ["open-assistant-Q8_0.gguf"])
        == "open-assistant-Q8_0.gguf"
    )
    assert choose_file(parse_reference("x/m-EAGLE3-GGUF"), ["m-eagle3-F16.gguf"]) == "m-eagle3-F16.gguf"


def test_what_was_fetched_is_found_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every spelling that fetch_model takes is then known to get_model_info, also without a network; the choice is said."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    content = write_tiny_model(tmp_path / "m.gguf").read_bytes()
    with hub_module.serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for name in (FILE, "Some-Model-Q8_0.gguf", "mmproj-F16.gguf"):
            hub.add(REPOSITORY, name, content)
        spellings = (
            REPOSITORY,
            f"{REPOSITORY}:q8_0",
            f"{hub.address}/{REPOSITORY}/blob/main/{FILE}",
            f"hf.co/{REPOSITORY}:Q8_0",
        )
        assert _address(spellings[2]) == f"{hub.address}/{REPOSITORY}/resolve/main/{FILE}"  # what get_model_info reads
        with pytest.raises(ModelNotFoundError, match="fetch_model"):
            resolve_model(spellings[1])
        paths = [labkit.fetch_model(spelling) for spelling in spellings]
        assert f"{FILE} (the default, Q4_K_M of 2 models)" in capfd.readouterr().err
        assert [resolve_model(spelling) for spelling in spellings] == paths
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [labkit.fetch_model(spelling, progress=False) for spelling in spellings] == paths
    assert labkit.get_model_info(f"{REPOSITORY}:Q8_0").path == str(paths[1])


def test_parts_in_the_hubs_cache_keep_their_names(tmp_path: Path) -> None:
    """Any part leads to the first, by its name and not by the blob that it links to."""
    first = tmp_path / "snapshots" / "m-00001-of-00002.gguf"
    first.parent.mkdir()
    for number in (1, 2):
        blob = tmp_path / hashlib.sha256(bytes(number)).hexdigest()
        blob.write_bytes(b"GGUF")
        try:
            first.with_name(f"m-0000{number}-of-00002.gguf").symlink_to(blob)
        except OSError:
            pytest.skip("links need a privilege here")
    assert first_part(first.with_name("m-00002-of-00002.gguf")) == first
    assert resolve_model(str(first.with_name("m-00002-of-00002.gguf"))) == first
    for name, target in (("second.gguf", "m-00002-of-00002.gguf"), ("again.gguf", "second.gguf")):
        first.with_name(name).symlink_to(target)  # a link that does not have a part's name leads to the parts
        assert first_part(first.with_name(name)) == first


@pytest.mark.parametrize(
    "name", ["m.gguf.part", "m.gguf.crdownload", "m.gguf.incomplete", "m.gguf.download", "m.gguf.opdownload"]
)
def test_an_unfinished_download_is_named(name: str, tmp_path: Path) -> None:
    """The part itself, and the file that it will become, are called an unfinished download."""
    part = tmp_path / name
    part.write_bytes(write_tiny_model(tmp_path / "whole.gguf").read_bytes()[:9000])
    for call in (labkit.get_model_info, labkit.load_model, labkit.estimate_memory_usage):
        with pytest.raises(GGUFError, match="unfinished download"):
            call(part)
        with pytest.raises(ModelNotFoundError, match="download is not finished"):
            call(str(tmp_path / "m.gguf"))


def test_a_file_of_full_size_can_be_unfinished(tmp_path: Path) -> None:
    """aria2 gives a file its size at once, and removes its note at the end."""
    path = write_tiny_model(tmp_path / "m.gguf")
    note = tmp_path / "m.gguf.aria2"
    note.write_bytes(b"")
    with pytest.raises(GGUFError, match="not finished"):
        labkit.get_model_info(path)
    note.unlink()
    assert labkit.get_model_info(path).architecture == "llama"


@pytest.mark.parametrize("empty_first", [False, True])
def test_a_split_model_works_by_any_part_through_links(empty_first: bool, tmp_path: Path) -> None:
    """In the hub's cache, any part loads, quantizes, and is laid out by llama.cpp, also if the first part has no tensors."""
    for index, file in enumerate(split(tmp_path, llama(), 2, empty_first=empty_first)):
        snapshot = tmp_path / "snapshots" / f"some model-F32-0000{index + 1}-of-00002.gguf"
        snapshot.parent.mkdir(exist_ok=True)
        file.rename(blob := tmp_path / f"blob{index}")
        try:
            snapshot.symlink_to(blob)
        except OSError:
            pytest.skip("links need a privilege here")
    size = llama().write(tmp_path / "whole.gguf").stat().st_size
    for part in sorted((tmp_path / "snapshots").iterdir()):
        assert labkit.get_model_info(part).file_size_bytes >= size
        assert labkit.estimate_memory_usage(part, 256, method="simulate").method == "simulate"
        target = tmp_path / f"{part.stem}-Q8_0.gguf"
        assert labkit.quantize_model(part, target, "Q8_0").quantization == "Q8_0"
        with labkit.load_model(part, n_ctx=256) as model, labkit.load_model(target, n_ctx=256):
            assert labkit.generate_text(model, "a", 2, temperature=0)
