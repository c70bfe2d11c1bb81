"""Books that import: a roster keeps its shape, no match is a guess, and importers' rules accept the result.

`canvas_import` and `moodle_import` apply the rules of the learning systems' own importers, written from their sources.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.grading.adjustments import read_adjustments
from labkit.grading.csv_files import read_csv
from labkit.grading.roster import FilledRoster, Roster
from labkit.grading.submissions import Student

NOTEBOOKS = ("05_sampling", "07_benchmarking")
CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,05_sampling (4711),07_benchmarking (4712),Essay (9),Final Score\r\n"
    ",,,,,,Manual Posting,,\r\n"
    "    Points Possible,,,,,4.00,6.00,10.00,(read only)\r\n"
    '"Doe, Jane",12,u12,jdoe,"A and ""B""",,1.00,7.50,33.30\r\n'
    '"Roe, John",13,u13,jroe,A,2.00,EX,N/A,20.00\r\n'
    '"Müller, Jäne",14,u14,jmueller,A,,,,\r\n'
    '"Student, Test",15,,0d7e,A,,,,\r\n'
)
MOODLE = (
    '"First name","Last name","ID number","Email address","Assignment: 05_sampling (Real)",'
    '"Assignment: 05_sampling (Percentage)","Assignment: 07_benchmarking (Real)","Course total (Real)","Last downloaded"\n'
    "Jane,Doe,4001,jane@example.edu,-,-,-,-,1727776800\n"
    "John,Roe,4002,john@example.edu,2.50,62.50 %,-,2.50,1727776800\n"
    "Jane,Doe,4003,jane.doe@example.edu,-,-,-,-,1727776800\n"
)
POINTS = {
    ("jane", NOTEBOOKS[0]): (3.5, 4.0),
    ("jane", NOTEBOOKS[1]): (6.0, 6.0),
    ("john", NOTEBOOKS[0]): (0.0, 4.0),
    ("john", NOTEBOOKS[1]): (1.0, 6.0),
    ("jane", "total"): (9.5, 10.0),
    ("john", "total"): (1.0, 10.0),
}


def student(key: str, name: str, *ids: str) -> Student:
    return Student(key, name, name, frozenset(ids), ())


def fill(folder: Path, text: str | bytes, *students: Student, **options: object) -> tuple[FilledRoster, bytes]:
    """Fill a roster; return the result and the bytes of the written file."""
    path = folder / "export.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    filled = Roster(path, NOTEBOOKS, **options).fill(folder / "grades", students, POINTS)  # type: ignore[arg-type]
    assert Path(filled.file) == folder / "grades" / "import-export.csv"
    return filled, Path(filled.file).read_bytes()


def canvas_import(text: str, users: Mapping[int, str], assignments: Mapping[int, str]) -> dict[tuple[int, int], str]:
    """Return the changed grades by user and assignment, by the rules of Canvas's lib/gradebook_importer.rb."""
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip(" ;,") for cell in row)]
    header = rows[0]
    assert len(header) > 3, "invalid header row"
    assert "Student" in header[0], "invalid header row"
    assert "ID" in header[1], "invalid header row"
    info = 3 + (2 if header[2] == "SIS User ID" and header[3] == "SIS Login ID" else header[2] == "SIS Login ID")
    assert "Section" in header[info - 1], "invalid header row"
    columns = {}
    for index, name in enumerate(header):
        if index >= info and not re.search(r"Current|Final|Override", name):
            found = re.search(r"\((\d+)\)$", name)
            assert found, f"{name} would become a new assignment"
            assert int(found[1]) in assignments, f"{name} would become a new assignment"
            columns[index] = int(found[1])
    grades = {}
    for row in rows[1:]:
        if "Points Possible" in row[0] or all(re.fullmatch(r"\s*(Muted|Manual Posting.*)?\s*", cell) for cell in row):
            continue
        assert int(row[1]) in users, f"{row[0]} would be a missing student"
        for index, assignment in columns.items():
            assert re.fullmatch(r"-?[0-9.,]+%?|EX|N/A|", row[index], re.IGNORECASE), row[index]
            grades[int(row[1]), assignment] = row[index]
    return grades


def moodle_import(
    text: str, emails: Mapping[str, int], items: Mapping[str, int], most: float
) -> dict[tuple[int, int], float]:
    """Return the grades by user and item, by the rules of Moodle's grade/import/csv, mapped by e-mail address."""
    header, *rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in header]
    by = header.index("Email address")
    grades = {}
    for row in rows:
        assert len(row) == len(header), "csv_import_reader refuses rows of another length"
        assert row[by] in emails, f"no user has the e-mail address {row[by]}"  # case-sensitive
        for name, item in items.items():
            value = row[header.index(name)]
            if value not in ("", "-"):
                assert re.fullmatch(r"-?\d+([.,]\d+)?", value), "bad grade"
                assert float(value.replace(",", ".")) <= most, "grade value too big"
                grades[emails[row[by]], item] = float(value.replace(",", "."))
    return grades


def test_canvas_export_goes_round(tmp_path: Path) -> None:
    """Canvas's export gets grades in its own columns, imports, and is unchanged elsewhere; EX and N/A are kept."""
    jane, john = student("jane", "doejane", "Canvas user 12"), student("john", "roejohn", "Canvas user 13")
    filled, content = fill(tmp_path, CANVAS, jane, john)
    grades = canvas_import(content.decode(), {12: "", 13: "", 14: "", 15: ""}, {4711: "", 4712: "", 9: ""})
    assert {key: value for key, value in grades.items() if key[0] < 14} == {
        (12, 4711): "3.5", (12, 4712): "6", (12, 9): "7.50", (13, 4711): "0", (13, 4712): "EX", (13, 9): "N/A",
    }  # fmt: skip
    expected = CANVAS.replace('"A and ""B""",,1.00', '"A and ""B""",3.5,6').replace("A,2.00,EX", "A,0,EX")
    assert content.decode() == expected
    assert filled.without_submission == ("Müller, Jäne", "Student, Test")
    assert filled.cells == 3
    assert filled.problems == ("Roe, John, '07_benchmarking (4712)': the roster has EX, which was kept",)


def test_moodle_export_goes_round(tmp_path: Path) -> None:
    """Moodle's export gets grades in its own columns of points, and imports by e-mail address."""
    jane, john = student("jane", "Jane Doe", "jane@example.edu"), student("john", "John Roe", "JOHN@example.edu")
    filled, content = fill(tmp_path, b"\xef\xbb\xbf" + MOODLE.encode(), jane, john)
    assert content.startswith(b"\xef\xbb\xbf")
    emails = {"jane@example.edu": 1, "john@example.edu": 2, "jane.doe@example.edu": 3}
    items = {f"Assignment: {name} (Real)": number for number, name in enumerate(NOTEBOOKS)}
    assert moodle_import(content.decode("utf-8-sig"), emails, items, 100) == {(1, 0): 3.5, (1, 1): 6, (2, 0): 0, (2, 1): 1}
    assert filled.without_submission == ("Jane Doe",)
    assert "62.50 %,1,2.50,1727776800" in content.decode()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (student("jane", "Jane Doe", "Participant 4002"), "no id in the roster"),  # John's id number, by chance
        (student("jane", "Jane Doe", "Participant 7"), "line 2 has the same name"),
        (student("jane", "jane", "jane"), "no id in the roster matches"),  # the beginning of an address
        (student("jane", "Jane Doe", "4001", "4003"), "lines 2, 4 of the roster match"),
    ],
)
def test_nobody_is_matched_by_a_guess(tmp_path: Path, one: Student, words: str) -> None:
    """Neither numbers of another kind, nor names, nor parts of ids match; what was not filled is reported."""
    filled, content = fill(tmp_path, MOODLE, one)
    assert filled.cells == 0
    assert content.decode() == MOODLE
    assert words in filled.problems[0]


def test_numbers_of_canvas_are_not_numbers_of_the_registry(tmp_path: Path) -> None:
    """A user's number in Canvas matches the column ID only, although the SIS may use the same numbers."""
    text = CANVAS.replace("u13", "12")
    filled, _ = fill(tmp_path, text, student("jane", "doejane", "Canvas user 12"))
    assert filled.cells == 2
    assert "12" not in " ".join(filled.problems)


def test_moodle_participant_matches_with_its_name(tmp_path: Path) -> None:
    """A participant's number matches an id number of the same name, or Moodle's worksheet; names match on request."""
    both = student("jane", "Jane Doe", "Participant 4001"), student("john", "John Roe", "Participant 9")
    assert fill(tmp_path, MOODLE, *both)[0].cells == 2
    assert fill(tmp_path, MOODLE, *both, match_names=True)[0].cells == 4
    worksheet = (
        'Identifier,"Full name",Status,Grade\nParticipant 9,John Roe,Submitted,\nParticipant 10,John Roe,Submitted,\n'
    )
    filled, content = fill(tmp_path, worksheet, *both, columns=["07_benchmarking=Grade"])
    assert content.decode() == worksheet.replace("Submitted,\nP", "Submitted,1\nP")
    assert filled.without_submission == ("John Roe",)


def test_two_students_of_one_row_are_not_filled(tmp_path: Path) -> None:
    """If two folders belong to one row of the roster, neither is filled."""
    filled, content = fill(tmp_path, CANVAS, student("jane", "Jane", "jdoe"), student("john", "J.", "u12"))
    assert content.decode() == CANVAS
    assert filled.problems[0].startswith("Jane and J.: all match line 4 of the roster; not filled")


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_any_class_list_is_filled(tmp_path: Path, codec: str) -> None:
    """A plain list gets missing columns; encoding, delimiter, line ends and the comma in numbers stay as they are."""
    text = "name;login;05_sampling\r\nJäne;jdoe;\r\nJohn;jroe;0,5\r\n"
    _, content = fill(tmp_path, text.encode(codec), student("jane", "x", "jdoe"))
    assert content.decode(codec) == "name;login;05_sampling;07_benchmarking\r\nJäne;jdoe;3,5;6\r\nJohn;jroe;0,5\r\n"


@pytest.mark.parametrize(
    "text",
    [
        '"Last Name","First Name","Username","05_sampling [Total Pts: 4 Score] |123","07_benchmarking [Total Pts: 6] |9"\n'
        '"Doe","Jane","jdoe",,\n',
        "OrgDefinedId,05_sampling Points Grade <Numeric MaxPoints:4>,07_benchmarking Points Grade <Numeric>,End-of-Line "
        "Indicator\n#jdoe,,,#\n",
    ],
)
def test_other_systems_columns_are_filled(tmp_path: Path, text: str) -> None:
    """The headers of Blackboard and the headers and ids of Brightspace are recognized: no column is added."""
    filled, content = fill(tmp_path, text, student("jane", "Jane Doe", "jdoe"))
    assert filled.cells == 2
    assert content.decode() == text.replace(",,", ",3.5,6", 1).replace("6#", "6,#")


def test_columns_can_be_named(tmp_path: Path) -> None:
    """--column names the column of a notebook, or of the total; an unknown or ambiguous one is an error."""
    text = "id,Sampling,Sum\njdoe,,\n"
    _, content = fill(tmp_path, text, student("jane", "x", "jdoe"), columns=["05_sampling=Sampling", "total=Sum"])
    assert content == b"id,Sampling,Sum,07_benchmarking\njdoe,3.5,9.5,6\n"
    for columns in (["05_sampling=Nothing"], ["6=Sum"], ["Sum"]):
        with pytest.raises(labkit.ArgumentError, match="NOTEBOOK=HEADER"):
            fill(tmp_path, text, columns=columns)
    with pytest.raises(labkit.GradingError, match="are columns of 05_sampling"):
        fill(tmp_path, "id,05_sampling (1),05 Sampling (2)\n")
    with pytest.raises(labkit.GradingError, match="has no id column"):
        fill(tmp_path, "name,05_sampling\n")
    with pytest.raises(labkit.GradingError, match="has no column for"):
        fill(tmp_path, "Student,ID,Section,Essay (9)\n")


def test_other_full_points_and_read_only_columns_are_reported(tmp_path: Path) -> None:
    """A column whose points possible differ is filled unscaled and reported; a read-only one is not filled."""
    text = CANVAS.replace("4.00,6.00", "100.00,(read only)")
    filled, _ = fill(tmp_path, text, student("jane", "x", "jdoe"))
    assert filled.cells == 1
    assert "05_sampling has 4 points, the column '05_sampling (4711)' 100.00: not scaled" in filled.problems
    assert "the column '07_benchmarking (4712)' is read-only in Canvas: not filled" in filled.problems


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=8)


@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_csv_files_keep_their_bytes(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str) -> None:
    """What Python's csv module writes is read as the same cells, and written back as the same bytes."""
    text = io.StringIO(newline="")
    rows = [[f"a{delimiter}b", *(["x"] * 9)], *rows]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(text.getvalue().encode())
    file = read_csv(path)
    assert file.content() == path.read_bytes()
    assert file.delimiter == delimiter
    assert file.rows == rows


def adjust(folder: Path, text: str | bytes) -> list[tuple[object, ...]]:
    """Write and read adjustments."""
    (folder / "adjustments.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    read = read_adjustments(folder, {"jane-1": "jane-1", "Jäne Doe": "jane-1"}, {"hw"})
    return [dataclasses.astuple(item) for item in read]


HEADER = "student,notebook,factor,points,reason\n"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_adjustments_are_read_in_any_encoding(tmp_path: Path, codec: str) -> None:
    """Files of any spreadsheet are read, by the student's name or file name, with semicolons and commas in numbers, too."""
    text = "student;notebook;factor;points;reason\r\nJäne Doe;hw.ipynb;0,8;;zwei Tage spät\r\n;;;;\r\njane-1;hw;;-1,5;\r\n"
    assert adjust(tmp_path, text.encode(codec)) == [
        ("jane-1", "hw", 0.8, 0.0, "zwei Tage spät"),
        ("jane-1", "hw", 1.0, -1.5, ""),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jane,hw,1,,", r"line 3: no student 'jane' \(did you mean 'jane-1'\?\)"),
        ("jane-1,hw2,1,,", r"line 3: no notebook 'hw2' \(did you mean 'hw'\?\)"),
        ("jane-1,hw,nan,,", "line 3: factor 'nan' must be a finite number"),
        ("jane-1,hw,,inf,", "line 3: points 'inf' must be a finite number"),
        ("jane-1,hw,-1,,", "at least 0"),
        ("jane-1,hw,half,,", "line 3: factor 'half'"),
        ('jane-1,hw,1,,"open', "line 3: a quoted cell does not end"),
        ("jane-1,hw,0,5,,late", "line 3: more cells than columns"),
    ],
)
def test_wrong_adjustments_name_their_line(tmp_path: Path, line: str, words: str) -> None:
    """A line that matches no one, or has no finite numbers, is an error that names the line."""
    with pytest.raises(labkit.GradingError, match=words):
        adjust(tmp_path, f"{HEADER}jane-1,hw,0.5,,ok\n{line}\n")


def test_adjustments_with_other_columns_are_refused(tmp_path: Path) -> None:
    """Student and notebook are needed, a mistyped column is not skipped; a missing file is created with all columns."""
    for header, words in (("student,factor", "no column notebook"), ("student,notebook,factr", "unknown column 'factr'")):
        with pytest.raises(labkit.GradingError, match=words):
            adjust(tmp_path, f"{header}\njane-1,hw,0.5\n")
    (tmp_path / "adjustments.csv").unlink()
    assert read_adjustments(tmp_path, {}, ()) == []
    assert (tmp_path / "adjustments.csv").read_text() == HEADER
    for text in ("", "student,points\n"):
        with pytest.raises(labkit.GradingError, match="has no column"):
            adjust(tmp_path, text)
