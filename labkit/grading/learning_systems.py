"""Students as learning systems name them in downloads: Moodle, Canvas, Blackboard, Brightspace, Gradescope and nbgrader.

References
----------
Moodle ``mod/assign/locallib.php`` (``download_submissions``), Canvas ``lib/content_zipper.rb``, Gradescope's export with
``submission_metadata.yml``, nbgrader's ``submitted/STUDENT/ASSIGNMENT/NOTEBOOK.ipynb``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from labkit.errors import GradingError
from labkit.grading.archives import Entry

_CANVAS = re.compile(r"^(?P<name>.+?)_(?:LATE_)?(?P<user>\d+)_(?:(?P<number>\d+)_(?P<file>.+)|(?:text|link)\.html)$")
_CANVAS_ANONYMOUS = re.compile(r"^(?:LATE_)?(?P<name>anon)_(?P<user>[A-Za-z0-9]{5})_(?P<number>\d+)_(?P<file>.+)$")
_MOODLE = re.compile(r"^(?P<name>[^_]+)_(?P<user>\d+)_assignsubmission_[a-z]+(?:_(?P<file>.*))?$")
# ASSIGNMENT_LOGIN_attempt_TIME_FILE, and USER-NUMBER - NAME - TIME, a folder per submission
_BLACKBOARD = re.compile(r"^.+_(?P<name>[^_]+)_attempt_(?P<time>\d{4}(?:-\d\d){5})(?:_(?P<file>.+)|\.txt)$")
_BRIGHTSPACE = re.compile(r"^(?P<user>\d+)-\d+ - (?P<name>.+) - (?P<time>\w+ \w+,? \d{4} \d{3,4} [AP]M)$")
_TIMES = ("%Y-%m-%d-%H-%M-%S", "%d %B %Y %I%M %p", "%B %d %Y %I%M %p", "%d %b %Y %I%M %p", "%b %d %Y %I%M %p")
_GRADESCOPE = re.compile(r"^submission_(?P<number>\d+)$")
METADATA = "submission_metadata.yml"
CANVAS = "Canvas user "  # before Canvas's number of a user
PARTICIPANT = "Participant "  # before Moodle's number of a student in one assignment, as in its grading worksheet
_NBGRADER = {"source", "release", "autograded", "feedback"}  # next to its folder submitted/


@dataclasses.dataclass(frozen=True)
class Person:
    """A student, as named by a learning system or by a folder."""

    name: str  # untrusted text
    number: str = ""  # the system's number; it tells apart students of one name
    ids: frozenset[str] = frozenset()  # what identifies the student in a roster
    download: tuple[str, ...] | None = None  # Moodle: where the number is valid; other assignments number anew


@dataclasses.dataclass(frozen=True)
class Found:
    """Who submitted a file, and what the learning system knows about it."""

    people: tuple[Person, ...]  # several for a group's submission on Gradescope
    level: int  # index of the part of its path that names them
    file_name: str  # as submitted
    number: int = 0  # of the submitted file: later ones are higher
    submitted_s: float | None = None  # since the epoch


class LearningSystems:
    """Identifies the students of a class's files."""

    def __init__(self, entries: Iterable[Entry], problems: list[str]) -> None:
        self._gradescope: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._courses: set[tuple[str, ...]] = set()  # nbgrader's course folders
        for entry in entries:
            if entry.parts[-1] == METADATA:
                self._gradescope[entry.parts[:-1]] = _metadata(entry, problems)
            if "submitted" in entry.parts[:-3]:
                self._courses.add(entry.parts[: entry.parts.index("submitted")])

    def find(self, entry: Entry) -> Found | None:
        """Return who submitted a file, by the outermost part of its path that a learning system made; None if unknown."""
        parts = entry.parts
        for level, part in enumerate(parts):
            if level < len(parts) - 1 and (match := _GRADESCOPE.match(part)) and parts[:level] in self._gradescope:
                return _on_gradescope(self._gradescope[parts[:level]].get(part), level, parts[-1], int(match["number"]))
            if match := _MOODLE.match(part):
                ids = frozenset({f"{PARTICIPANT}{match['user']}"})
                person = Person(" ".join(match["name"].split()), match["user"], ids, parts[:level])
                return Found((person,), level, parts[-1] if level < len(parts) - 1 else match["file"] or "")
            if match := _BRIGHTSPACE.match(part):
                return Found((Person(match["name"], match["user"]),), level, parts[-1], submitted_s=_seconds(match["time"]))
            is_file = level == len(parts) - 1 or level in entry.archives  # a folder may be called week_3_10_05
            if is_file and (match := _CANVAS_ANONYMOUS.match(part) or _CANVAS.match(part)):
                person = Person(match["name"], match["user"], frozenset({f"{CANVAS}{match['user']}"}))
                name = match["file"] if level == len(parts) - 1 else parts[-1]
                return Found((person,), level, name or part, int(match["number"] or 0))
            if is_file and (match := _BLACKBOARD.match(part)):
                name = match["file"] if level == len(parts) - 1 else parts[-1]
                person = Person(match["name"], ids=frozenset({match["name"]}))
                return Found((person,), level, name or "", submitted_s=_seconds(match["time"]))
            if part == "submitted" and parts[:level] in self._courses and level < len(parts) - 2:
                student = parts[level + 1]
                return Found((Person(student, ids=frozenset({student})),), level + 1, parts[-1])
        return None

    def is_instructors(self, parts: tuple[str, ...]) -> bool:
        """Return whether a file belongs to the instructor: another folder of nbgrader's course, or Gradescope's metadata."""
        others = any(parts[: len(place)] == place and parts[len(place)] in _NBGRADER for place in self._courses)
        return others or parts[-1] == METADATA


def _seconds(text: str) -> float | None:
    """Return a time in a name, in this machine's time zone; None if it is none."""
    for form in _TIMES:
        with contextlib.suppress(ValueError):
            return datetime.strptime(text.replace(",", ""), form).timestamp()  # local, as in zips
    return None


def _on_gradescope(known: Any, level: int, file_name: str, number: int) -> Found:
    known = known if isinstance(known, dict) else {}
    people = []
    for one in known.get(":submitters") or ():
        texts = (
            {key: str(one.get(f":{key}") or "").strip() for key in ("name", "sid", "email")} if isinstance(one, dict) else {}
        )
        if any(texts.values()):
            ids = frozenset(filter(None, (texts["sid"], texts["email"])))
            people.append(Person(texts["name"] or texts["email"] or texts["sid"], texts["sid"] or texts["email"], ids))
    created = known.get(":created_at")
    if isinstance(created, datetime):
        created = (created if created.tzinfo else created.replace(tzinfo=timezone.utc)).timestamp()
    submitted_s = created if isinstance(created, float) else None
    return Found(tuple(people) or (Person(f"submission_{number}"),), level, file_name, number, submitted_s)


def _metadata(entry: Entry, problems: list[str]) -> Mapping[str, Any]:
    """Read Gradescope's list of submissions; objects of Ruby become plain mappings."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # without types
        def plain(self, _: str, node: yaml.Node) -> Any:
            if isinstance(node, yaml.MappingNode):
                return self.construct_mapping(node, deep=True)
            return self.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value

    Loader.add_multi_constructor("!", Loader.plain)
    try:
        found = yaml.load(entry.read().decode("utf-8-sig"), Loader)  # noqa: S506  # a SafeLoader
    except (GradingError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{entry.label} cannot be read ({type(error).__name__}): students are named by their submission")
        return {}
    return found if isinstance(found, dict) else {}


def merge(people: Sequence[Person]) -> dict[Person, Person]:
    """Map each person to one that stands for the same student.

    Moodle numbers students anew for each assignment. There, equal full names are one student, unless a download has two
    students of that name: then only equal numbers are.
    """
    numbers: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for person in people:
        if person.download is not None:
            numbers.setdefault(person.name, {}).setdefault(person.download, set()).add(person.number)
    several = {name for name, places in numbers.items() if any(len(found) > 1 for found in places.values())}
    several.add(PARTICIPANT.strip())  # Moodle's name for everyone, if it hides names
    ids: dict[Person, frozenset[str]] = {}
    merged = {}
    for person in people:
        one = dataclasses.replace(person, ids=frozenset(), download=None)
        if person.download is not None and person.name not in several:
            one = dataclasses.replace(one, number="")
        merged[person] = one
        ids[one] = ids.get(one, frozenset()) | person.ids
    return {person: dataclasses.replace(one, ids=ids[one]) for person, one in merged.items()}
