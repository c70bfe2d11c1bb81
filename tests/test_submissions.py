"""Submissions: every student is found and none is invented, whatever the download looks like."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import unicodedata
import zipfile
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.grading.archives import Entry
from labkit.grading.student_level import student_level
from labkit.grading.submissions import Class, find_submissions
from tests.grading import NAME, source_notebook

BOTH = ("05_sampling", "07_benchmarking")
MARKS = {
    NAME: frozenset({"solve-softmax_at", "check-softmax_at", "softmax_at", "count_min_p"}),
    "other": frozenset({"else"}),
}
Tree = Mapping[str, str | bytes]


def zipped(files: Tree, stamp: tuple[int, ...] = (2024, 10, 1, 10, 0, 0)) -> bytes:
    """Return a zip of files by path, all of one local time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path, stamp), content)  # type: ignore[arg-type]
    return out.getvalue()


def place(folder: Path, files: Tree, stamp: float = 1_727_776_800.0) -> Path:
    """Write files by path, all of one time."""
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.utime(target, (stamp, stamp))
    return folder


def who(found: Class) -> dict[str, set[str]]:
    """Return the notebooks of each student, by shown name."""
    students: dict[str, set[str]] = {}
    for item in found.submissions:
        students.setdefault(item.display_name, set()).add(item.notebook)
    return students


def moodle(chapter: str, numbers: Mapping[str, int]) -> bytes:
    """Return Moodle's download of an assignment."""
    return zipped({f"{name}_{number}_assignsubmission_file_/{chapter}.ipynb": "{}" for name, number in numbers.items()})


THREE = {"alice": {"05_sampling"}, "bob": {"05_sampling"}, "carol": {"05_sampling"}}
JANE = {"Jane Doe": set(BOTH), "John Roe": set(BOTH), "Ana Li": set(BOTH)}
DAYS = {"Monday A": "alice", "Mittwoch": "bob", "24.12.2025": "carol"}
FLAT = {f"{name}/05_sampling.ipynb": "{}" for name in ("alice", "bob", "carol")}
GRADESCOPE = b"""---
submission_501:
  :submitters:
  - :name: Jane Doe
    :sid: '77'
    :email: jane@example.edu
  - :name: John Roe
    :sid: '78'
    :email: john@example.edu
  :created_at: 2024-10-01 10:00:00.5 Z
  :results: !ruby/hash:ActiveSupport::HashWithIndifferentAccess
    score: 1.0
submission_502:
  :submitters:
  - :name: Ana Li
    :sid:
    :email: ana@example.edu
  :created_at: 2024-10-01 11:00:00.0 Z
"""


@pytest.mark.parametrize(
    ("files", "students"),
    [
        ({f"submissions/{path}": text for path, text in FLAT.items()}, THREE),
        ({"all.zip": zipped({f"submissions/{path}": text for path, text in FLAT.items()})}, THREE),
        ({f"week {1 + (name == 'bob')}/{name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({f"group-a/{name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({f"2024-10-0{n}/{name}/05_sampling.ipynb": "{}" for n, name in enumerate(THREE)}, THREE),
        ({f"{day}/{name}/05_sampling.ipynb": "{}" for day, name in DAYS.items()}, {one: {BOTH[0]} for one in DAYS.values()}),
        ({f"{one}/{v}05_sampling.ipynb": "{}" for one in THREE for v in ("", "venv/lib/site-packages/x/notebooks/")}, THREE),
        ({f"red/{name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({f"red/{one}/05_sampling.ipynb": "{}" for one in ("70311", "70312")}, {"70311": {BOTH[0]}, "70312": {BOTH[0]}}),
        ({f"red/{one}/05_sampling.ipynb": "{}" for one in ("Newman", "Oldf")}, {"Newman": {BOTH[0]}, "Oldf": {BOTH[0]}}),
        ({f"{one}/{v}/05_sampling.ipynb": "{}" for one in THREE for v in (f"2024-10-0{len(one)}", f"{one} old")}, THREE),
        ({f"{name}/my work {name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({f"{name}.zip": zipped({f"hw of {name}/05_sampling.ipynb": "{}"}) for name in THREE}, THREE),
        ({f"2024/week1/groupB/{name}/src/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({f"05_sampling/{name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        ({**FLAT, "carol/old/05_sampling.ipynb": "{}", "bob/attempt 1/05_sampling.ipynb": "{}"}, THREE),
        ({f"submitted/{one}/ps1/05_sampling.ipynb": "{}" for one in THREE} | {"source/ps1/05_sampling.ipynb": "{}"}, THREE),
        (
            {f"course/submitted/{name}/05_sampling/Untitled.ipynb": "{}" for name in THREE}
            | {"course/autograded/alice/05_sampling/05_sampling.ipynb": "{}", "course/gradebook.db": "x"},
            THREE,
        ),
        ({f"group {one}/05_sampling.ipynb": "{}" for one in "ab"}, {f"group {one}": {"05_sampling"} for one in "ab"}),
        ({f"{chapter}.zip": moodle(chapter, dict.fromkeys(JANE, 1) | {"Ana Li": 3}) for chapter in BOTH}, JANE),
        ({f"L-{c}-{i}.zip": moodle(c, {one: i * 50 + n for n, one in enumerate(JANE)}) for i, c in enumerate(BOTH)}, JANE),
        ({"all.zip": zipped({f"{chapter}.zip": moodle(chapter, dict.fromkeys(JANE, 4)) for chapter in BOTH})}, JANE),
        (
            {f"Jane Doe_{number}_assignsubmission_file_/05_sampling.ipynb": "{}" for number in (1, 2)},
            {"Jane Doe 1": {"05_sampling"}, "Jane Doe 2": {"05_sampling"}},
        ),
        (
            {"doejane_LATE_12_900_05_sampling-1.ipynb": "{}", "doejane_12_880_07_benchmarking.ipynb": "{}"},
            {"doejane 12": set(BOTH)},
        ),
        ({"c.zip": zipped({"doe_j_12_900_work.zip": zipped({"x/05_sampling.ipynb": "{}"})})}, {"doe_j 12": {BOTH[0]}}),
        ({f"hw_5_{one}_attempt_2026-11-2{n}-10-00-00_05_sampling.ipynb": "{}" for n in (0, 1) for one in THREE}, THREE),
        (
            {f"12-{n}0 - Ann-Li O'Hara - {day} 1000 AM/05_sampling.ipynb": "{}"
             for n, day in enumerate(("Nov 20, 2026", "21 November, 2026"))},
            {"Ann-Li O'Hara 12": {BOTH[0]}},
        ),
        ({"anon_x7kQz_900_05_sampling.ipynb": "{}"}, {"anon x7kQz": {"05_sampling"}}),
        ({f"week_3_10_chapter/{name}/05_sampling.ipynb": "{}" for name in THREE}, THREE),
        (
            {f"hw-20241001T100000Z-00{number}.zip": zipped({f"hw/{name}/05_sampling.ipynb": "{}"})
             for number, name in enumerate(THREE)},
            THREE,
        ),
        (
            {"a.zip": moodle(BOTH[0], {"Jane  Doe ": 1}), "b.zip": moodle(BOTH[1], {"Jane Doe": 9})},
            {"Jane Doe": set(BOTH)},
        ),
        (
            {"download.zip": moodle(BOTH[0], {"Jane Doe": 1}), "slides/talk.pdf": "", "slides/try.ipynb": "{}"},
            {"Jane Doe": {BOTH[0]}},
        ),
        (
            {f"assignment_9_export/{path}": text for path, text in (
                ("submission_metadata.yml", GRADESCOPE), ("submission_501/05_sampling.ipynb", "{}"),
                ("submission_502/a/05_sampling.ipynb", "{}"))},
            {"Jane Doe 77": {BOTH[0]}, "John Roe 78": {BOTH[0]}, "Ana Li ana@example.edu": {BOTH[0]}},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_zip", [False, True])
def test_students_are_found_at_any_depth(tmp_path: Path, files: Tree, students: dict[str, set[str]], as_zip: bool) -> None:
    """Weeks, groups, zips in zips and downloads of learning systems give the right students, in a folder and in a zip."""
    if as_zip:
        place(tmp_path, {"class.zip": zipped(files)})
    where = tmp_path / "class.zip" if as_zip else place(tmp_path / "class", files)
    assert who(find_submissions(where, BOTH)) == students


@pytest.mark.parametrize(
    "paths",
    [
        ["spring/alice/05_sampling.ipynb"],
        ["spring/alice/05_sampling.ipynb", "spring/bob/07_benchmarking.ipynb"],
        ["a/x/05_sampling.ipynb", "a/y/05_sampling.ipynb", "b/x/05_sampling.ipynb", "b/y/05_sampling.ipynb"],
        ["alice/05_sampling.ipynb", "red/bob/05_sampling.ipynb", "red/carol/05_sampling.ipynb"],
    ],
)
def test_ambiguous_level_stops(tmp_path: Path, paths: list[str]) -> None:
    """If a folder could be a student or a group of them, nothing is graded until --student-level says which."""
    place(tmp_path, dict.fromkeys(paths, "{}"))
    with pytest.raises(labkit.GradingError, match=r"^which folder names the student is ambiguous: .*--student-level 1 or 2"):
        find_submissions(tmp_path, BOTH)
    assert set(who(find_submissions(tmp_path, BOTH, level=1))) == {path.split("/")[0] for path in paths}
    assert set(who(find_submissions(tmp_path, BOTH, level=2))) == {p.split("/")[1] for p in paths if p.count("/") > 1}
    assert len(who(find_submissions(tmp_path, BOTH, level=0))) == 1


def test_grades_are_not_submissions(tmp_path: Path) -> None:
    """A folder of grades in the folder of submissions is not a student; it cannot be that folder itself."""
    place(tmp_path, {"alice/hw.ipynb": "{}", "books/grades/alice/hw.json": "{}", "books/feedback/alice.html": ""})
    found = find_submissions(tmp_path, {NAME}, out=tmp_path / "books")
    assert [student.student for student in found.students] == ["alice"]
    assert found.problems == ()
    with pytest.raises(labkit.ArgumentError, match="choose another folder for the grades"):
        find_submissions(tmp_path, {NAME}, out=tmp_path)


@pytest.mark.parametrize("folder", ["week 1", "05_sampling", "submissions"])
def test_files_named_like_students_stop(tmp_path: Path, folder: str) -> None:
    """If only files are named like students, nothing is graded: the folder is not one student with older versions."""
    notebook = json.dumps(source_notebook())
    place(tmp_path / "class", {f"{folder}/{name}.ipynb": notebook for name in THREE})
    words = rf"^no folder names the student: {folder} has {len(THREE)} files of hw"
    with pytest.raises(labkit.GradingError, match=words):
        find_submissions(tmp_path / "class", {*MARKS, folder}, MARKS)
    assert len(who(find_submissions(tmp_path / "class", MARKS, MARKS, level=1))) == 1


LETTERS = st.sampled_from(["ada", "bea", "cy", "dov", "eli", "fay", "gus"])


@given(
    students=st.sets(LETTERS, min_size=2),
    above=st.lists(st.sampled_from(["week 1", "group-b", "submissions", "2024 autumn"]), max_size=3),
    below=st.lists(st.sampled_from(["src", "notebooks", "final"]), max_size=2),
)
def test_one_level_names_the_students(students: set[str], above: list[str], below: list[str]) -> None:
    """For a class with one notebook, the folder that differs between submissions is the student's, at any depth."""
    files = [((*above, student, *below, f"{NAME}.ipynb"), NAME) for student in students]
    assert student_level(files, {NAME}) == len(above)


@pytest.mark.parametrize(
    "name",
    [
        "hw-Copy1",
        "Copy of hw",
        "hw 2",
        "hw (1)",
        "HW - Kopie",
        "hw - Copy (2)",
        "hw_copy",
        "Kopie von hw",
        "hw-1",
        "hw-Copy1-Copy2",
        "hw [1]",
        "hw_2",
        "hw – Kopie",
        "Kopie van hw",
        "hw.ipynb",
    ],
)
def test_copies_are_recognized_by_name(tmp_path: Path, name: str) -> None:
    """A file with a mark of a copy in its name is that notebook."""
    place(tmp_path, {f"alice/{name}.ipynb": "{}"})
    assert who(find_submissions(tmp_path, {NAME})) == {"alice": {NAME}}


@pytest.mark.parametrize("name", ["hw_jane", "Untitled", "my solution", "week5 FINAL final"])
def test_notebooks_are_recognized_by_their_cells(tmp_path: Path, name: str) -> None:
    """If the name says nothing, ids, marks or check calls of the cells do; a notebook with none of them is listed."""
    notebook = source_notebook()
    without_ids = copy.deepcopy(notebook)
    for item in without_ids["cells"]:
        item.pop("id")
        item["metadata"] = {}
    files = {"alice": json.dumps(notebook), "bob": json.dumps(without_ids), "carol": '{"cells": []}', "dave": "no JSON"}
    place(tmp_path, {f"{student}/{name}.ipynb": text for student, text in files.items()} | {"eve/hw.ipynb": "{}"})
    found = find_submissions(tmp_path, MARKS, MARKS)
    assert who(found) == {student: {NAME} for student in ("alice", "bob", "eve")}
    assert f"carol: no notebook to grade, only: {name}.ipynb" in found.problems


def test_other_files_are_listed_per_student(tmp_path: Path) -> None:
    """Exports, scripts, unopened archives, damaged zips and online text are named for each student; litter is not."""
    files: Tree = {
        "Jane_1_assignsubmission_file_/hw.ipynb": "{}",
        "Jane_1_assignsubmission_file_/hw.ipynb.txt": "",
        "Jane_1_assignsubmission_file_/data.rar": "",
        "Jane_1_assignsubmission_file_/.DS_Store": "",
        "Jane_1_assignsubmission_file_/__MACOSX/._hw.ipynb": "",
        "Jane_1_assignsubmission_file_/.ipynb_checkpoints/hw-checkpoint.ipynb": "{}",
        "Jane_1_assignsubmission_file_/docs/glossary.md": "",
        "Jane_1_assignsubmission_file_/guesses.json": "{}",
        "John_2_assignsubmission_onlinetext_/onlinetext.html": "",
        "John_2_assignsubmission_file_/hw.zip": b"PK\x03\x04 no zip",
        "roejo_5_text.html": "",
    }
    found = find_submissions(place(tmp_path, files), {NAME})
    assert who(found) == {"Jane": {NAME}}
    assert {student.display_name: student.other_files for student in found.students} == {
        "Jane": ("data.rar", "hw.ipynb.txt"),
        "John": ("hw.zip (not a valid zip (BadZipFile))", "onlinetext.html"),
        "roejo 5": ("roejo_5_text.html",),
    }
    assert "John: no notebook to grade, only: hw.zip (not a valid zip (BadZipFile)), onlinetext.html" in found.problems


def test_zips_of_windows_and_with_a_password(tmp_path: Path) -> None:
    """Backslashes separate folders, which are not files; what is encrypted is named, and not opened."""
    place(tmp_path, {"alice.zip": zipped({"work\\": "", "work\\hw.ipynb": "{}"}), "bob/hw.ipynb": "{}"})
    raw = bytearray(zipped({"hw.ipynb": "{}"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1  # as if it had been encrypted
    place(tmp_path, {"carol.zip": bytes(raw)})
    found = find_submissions(tmp_path, {NAME})
    assert who(found) == {"alice": {NAME}, "bob": {NAME}}
    assert found.problems == ("carol: no notebook to grade, only: hw.ipynb (encrypted)",)


def test_normal_forms_and_unflagged_names_are_one_student(tmp_path: Path) -> None:
    """A name in either of Unicode's forms, and in a zip whose UTF-8 names lack the flag, is one student."""
    name = "Jäne Müller"
    raw = zipped({f"{name}_1_assignsubmission_file_/05_sampling.ipynb": "{}"}).replace(
        b"\x00\x08\x00\x00", b"\x00\x00\x00\x00"
    )
    assert zipfile.ZipFile(io.BytesIO(raw)).namelist() != [f"{name}_1_assignsubmission_file_/05_sampling.ipynb"]
    other = zipped({f"{unicodedata.normalize('NFD', name)}_9_assignsubmission_file_/07_benchmarking.ipynb": "{}"})
    found = find_submissions(place(tmp_path, {"a.zip": raw, "b.zip": other}), BOTH)
    assert who(found) == {name: set(BOTH)}
    assert len({item.student for item in found.submissions}) == 1
    assert all(item.entry.read() == b"{}" for item in found.submissions)


def test_names_that_differ_by_case_get_files_that_differ(tmp_path: Path) -> None:
    """Two students whose names differ only by case have different files also where file names ignore case."""
    content = zipped({"Alice/hw.ipynb": "{}", "alice/hw.ipynb": "{}"})
    found = find_submissions(place(tmp_path, {"class.zip": content}) / "class.zip", {NAME})
    assert len({item.student.casefold() for item in found.submissions}) == 2


def test_latest_submission_counts(tmp_path: Path) -> None:
    """The newest file counts, and the choice is explained; then the system's number; then the number of the copy."""
    for name, stamp in (("hw.ipynb", 100), ("hw-1.ipynb", 300), ("hw (2).ipynb", 200)):
        place(tmp_path, {f"alice/{name}": name}, stamp)
    place(tmp_path, {"bob/hw.ipynb": "", "bob/hw (1).ipynb": "", "bob/hw (2).ipynb": "", "bob/hw (10).ipynb": ""})
    place(tmp_path, {"doejane_5_99_hw.ipynb": "", "doejane_5_100_hw.ipynb": "", "doejane_5_98_hw (3).ipynb": ""})
    found = find_submissions(tmp_path, {NAME})
    chosen = {item.display_name: item.entry.parts[-1] for item in found.submissions}
    assert chosen == {"alice": "hw-1.ipynb", "bob": "hw (10).ipynb", "doejane 5": "doejane_5_100_hw.ipynb"}
    alice, bob, doe = (next(line for line in found.problems if line.startswith(name)) for name in chosen)
    assert "alice/hw-1.ipynb counts: it is the newest, of 1970-01-01" in alice
    assert "older submissions, ignored: alice/hw (2).ipynb, alice/hw.ipynb" in alice
    assert "the latest copy by its name" in bob
    assert "the learning system's number of this one is the highest" in doe


@pytest.mark.parametrize(
    "name",
    [
        "hw_jane_attempt_2026-11-{}-09-30-00_05_sampling.ipynb",
        "12-3{0} - Jane Doe - Nov {0}, 2026 930 AM/05_sampling.ipynb",
        "12-3{0} - Jane Doe - {0} November, 2026 930 AM/05_sampling.ipynb",
    ],
)
def test_times_in_names_decide(tmp_path: Path, name: str) -> None:
    """Blackboard and Brightspace write the time of an attempt into its name; that of the file is that of the download."""
    place(tmp_path, {name.format(day): "{}" for day in ("22", "21", "9" if "-11-" not in name else "09")})
    (found,) = find_submissions(tmp_path, BOTH).submissions
    assert found.entry.parts[0] == name.format("22").partition("/")[0]


def test_times_of_zips_are_local(tmp_path: Path) -> None:
    """A zip's time is local to --timezone, unless the zip also has it in UTC."""
    stamp = datetime(2024, 10, 1, 9, 0, tzinfo=timezone.utc).timestamp()
    place(tmp_path, {"alice/hw.ipynb": "file, 09:00 UTC"}, stamp)
    place(tmp_path, {"alice/hw-1.zip": zipped({"hw.ipynb": "zip, 10:00 local"})})

    def chosen(hours: int) -> bytes:
        (item,) = find_submissions(tmp_path, {NAME}, zone=timezone(timedelta(hours=hours))).submissions
        return item.entry.read()

    assert chosen(0) == b"zip, 10:00 local"
    assert chosen(2) == b"file, 09:00 UTC"
    info = zipfile.ZipInfo("hw.ipynb", (2024, 10, 1, 10, 0, 0))
    info.extra = struct.pack("<HHBi", 0x5455, 5, 1, int(stamp) + 60)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, "zip, 09:01 UTC")
    place(tmp_path, {"alice/hw-1.zip": out.getvalue()})
    assert chosen(12) == b"zip, 09:01 UTC"


def test_gradescope_times_decide(tmp_path: Path) -> None:
    """On Gradescope the time of submission decides, not that of the file."""
    text = GRADESCOPE.replace(b"Ana Li\n    :sid:\n    :email: ana@", b"Jane Doe\n    :sid: '77'\n    :email: jane@")
    place(tmp_path, {"submission_metadata.yml": text, "submission_501/hw.ipynb": "old"}, 2e9)
    place(tmp_path, {"submission_502/hw.ipynb": "new"}, 1e9)
    found = find_submissions(tmp_path, {NAME})
    assert {item.display_name: item.entry.read() for item in found.submissions} == {
        "Jane Doe 77": b"new",
        "John Roe 78": b"old",
    }


def test_links_and_members_outside_are_skipped(tmp_path: Path) -> None:
    """Links are not followed, members of a zip that leave its folder are skipped, and both are reported."""
    place(tmp_path, {"alice/hw.ipynb": "{}", "bob/other.ipynb": "{}"})
    (tmp_path / "bob" / "hw.ipynb").symlink_to("/etc/passwd")
    (tmp_path / "carol").symlink_to("/etc")
    place(
        tmp_path,
        {"dave.zip": zipped({"../alice/hw.ipynb": "slipped", "hw.ipynb": "dave's"}), "eve.zip": b"PK\x03\x04 no zip"},
    )
    found = find_submissions(tmp_path, {NAME})
    assert {item.student: item.entry.read() for item in found.submissions} == {"alice": b"{}", "dave": b"dave's"}
    words = "\n".join(found.problems)
    for part in (
        "bob/hw.ipynb: a link",
        "carol: a link",
        "leaves the folder",
        "eve.zip: not a valid zip",
        "only: other.ipynb",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("path", "student"),
    [
        ("alice/hw.ipynb", "alice"),
        ("alice/hw/hw.ipynb", "alice"),
        ("submitted/alice/hw/anything.ipynb", "alice"),
        ("alice/HW (2).ipynb", "alice"),
        ("doejane_12345_67890_hw.ipynb", "doejane 12345"),
        ("doejane_LATE_12345_67890_hw-2.ipynb", "doejane 12345"),
        ("Jane Doe_123456_assignsubmission_file_/hw.ipynb", "Jane Doe"),
        ("Jane Doe_123456_assignsubmission_file_hw.ipynb", "Jane Doe"),
        ("Jane Doe_123456_assignsubmission_file/hw-1.ipynb", "Jane Doe"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_submissions_are_identified_by_name(tmp_path: Path, path: str, student: str, zipped: bool) -> None:
    """One folder per student, and the names of nbgrader, Moodle and Canvas, are recognized in folders and zips."""
    place = tmp_path / "class"
    if zipped:
        place = place.with_suffix(".zip")
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr(path, "{}")
    else:
        (place / path).parent.mkdir(parents=True)
        (place / path).write_text("{}")
    found = find_submissions(place, {NAME})
    assert [(item.display_name, item.notebook, item.entry.read()) for item in found.submissions] == [(student, NAME, b"{}")]
    assert found.problems == ()


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A member that unpacks to more than the limit is refused, regardless of its declared size."""
    with zipfile.ZipFile(tmp_path / "eve.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hw.ipynb", b" " * (50 << 20))
    (found,) = find_submissions(tmp_path, {NAME}).submissions
    with pytest.raises(labkit.GradingError, match="larger than 20 MB"):
        found.entry.read()


def test_zips_that_fill_memory_are_not_opened(tmp_path: Path) -> None:
    """A zip in a zip that would unpack to many times its size is named, and not opened."""
    with zipfile.ZipFile(tmp_path / "eve.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.zip", b"PK" + bytes(50 << 20))
        archive.writestr("hw.ipynb", "{}")
    found = find_submissions(tmp_path, {NAME})
    assert who(found) == {"eve": {NAME}}
    assert found.students[0].other_files == ("bomb.zip (a zip that is made to fill memory)",)


def test_damaged_zip_member_is_refused(tmp_path: Path) -> None:
    """A zip whose compressed data are damaged is listed, and reading it is an error with a reason."""
    with zipfile.ZipFile(tmp_path / "eve.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hw.ipynb", b"abc" * 1000)
    content = bytearray((tmp_path / "eve.zip").read_bytes())
    content[40:42] = bytes(255 - byte for byte in content[40:42])
    (tmp_path / "eve.zip").write_bytes(content)
    (found,) = find_submissions(tmp_path, {NAME}).submissions
    with pytest.raises(labkit.GradingError, match=r"eve/hw\.ipynb cannot be read"):
        found.entry.read()


def test_names_are_safe_for_files(tmp_path: Path) -> None:
    """Any student's name gives a plain, unique file name."""
    names = ("..", "a/b", "Jäne", "J ne", "x" * 300, "-rf", "\x1b[31m")
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        for name in names:
            archive.writestr(f"{name}_12_assignsubmission_file_/hw.ipynb", "{}")
    found = find_submissions(tmp_path / "class.zip", {NAME}).submissions
    assert len({item.student for item in found}) >= 5
    assert all(item.student.isascii() and item.student.replace("_", "").replace("-", "").isalnum() for item in found)


def test_label_is_the_path(tmp_path: Path) -> None:
    """An entry is shown by its path."""
    assert Entry(("a", "b"), 0.0, tmp_path / "a").label == "a/b"
