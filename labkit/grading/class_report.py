"""The class report, one page: score distribution, hardest exercises, most common wrong results, grading time."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labkit.grading.adjustments import Adjustment
from labkit.grading.gradebook import Grade, adjusted
from labkit.grading.html import render
from labkit.output_files import write_atomic

_BODY = """
<p>{{ n_students }} students, {{ n_grades }} notebooks.
{% if times %}
Grading took {{ "%.1f"|format(median) }} s per notebook (median), {{ "%.1f"|format(times|max) }} s at most.
{% endif %}
</p>
<table class="wide">
<caption>Score distribution</caption>
<thead><tr><th scope="col">score</th><th scope="col">notebooks</th><th scope="col" aria-hidden="true"></th></tr></thead>
<tbody>
{% for score, count in distribution %}
<tr><th scope="row">{{ score }}</th><td>{{ count }}</td>
<td aria-hidden="true"><div class="bar" style="width: {{ "%.1f"|format(100 * count / (n_grades or 1)) }}%"></div></td></tr>
{% endfor %}
</tbody>
</table>
<div class="scroll" role="region" aria-label="exercises, hardest first" tabindex="0">
<table>
<caption>Exercises, hardest first</caption>
<thead><tr><th scope="col">exercise</th><th scope="col">full points</th><th scope="col">mean score</th>
<th scope="col">not answered</th><th scope="col">most common wrong results</th></tr></thead>
<tbody>
{% for item in items %}
<tr><th scope="row">{{ item.notebook }}: {{ item.name }}</th><td>{{ "%.0f %%"|format(100 * item.solved) }}</td>
<td>{{ "%.0f %%"|format(100 * item.mean) }}</td><td>{{ item.blank }}</td>
<td>{% for text, count in item.wrong %}{{ count }} × <code>{{ text|visible }}</code><br>{% endfor %}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
<h2>Submissions: what was chosen, skipped or missing</h2>
<ul>
{% for note in notes %}
<li>{{ note|visible }}</li>
{% else %}
<li>One file per student and notebook, and nothing else.</li>
{% endfor %}
</ul>
<h2>Problems with submitted files</h2>
<ul>
{% for grade in grades if grade.problems %}
<li>{{ grade.display_name|visible }}, {{ grade.notebook }}: {{ grade.problems|join(" ")|visible }}</li>
{% else %}
<li>None.</li>
{% endfor %}
</ul>
"""


def write_report(out: Path, grades: Sequence[Grade], adjustments: Sequence[Adjustment], notes: Sequence[str]) -> None:
    """Write ``report.html``; ``notes`` are about submissions and the roster."""
    times = list(_times(out))
    scores = [adjusted(grade, adjustments) / grade.of_points for grade in grades if grade.of_points]
    tenths = Counter(min(9, int(score * 10)) for score in scores)
    page = render(
        _BODY,
        title="Class report",
        grades=grades,
        notes=notes,
        n_students=len({grade.student for grade in grades}),
        n_grades=len(grades),
        times=times,
        median=statistics.median(times) if times else 0.0,
        distribution=[(f"{tenth * 10}–{tenth * 10 + 10} %", tenths[tenth]) for tenth in range(10)],
        items=sorted(_items(grades), key=lambda item: float(item["mean"])),
    )
    write_atomic(out / "report.html", page)


def _times(out: Path) -> Iterator[float]:
    """Yield the seconds that grading each notebook took."""
    for path in sorted((out / "times").glob("*/*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # a file of an older version, or cut off by a power cut
            yield float(json.loads(path.read_text(encoding="utf-8")))


def _items(grades: Sequence[Grade]) -> Iterator[dict[str, Any]]:
    """Yield statistics of each exercise: fractions, and the most common wrong results with their counts."""
    names = {(grade.notebook, item.name): None for grade in grades for item in grade.exercises}
    for notebook, name in names:
        own = [item for grade in grades if grade.notebook == notebook for item in grade.exercises if item.name == name]
        scores = [item.points / item.of_points if item.of_points else 1.0 for item in own]
        yield {
            "notebook": notebook,
            "name": name,
            "solved": sum(score == 1 for score in scores) / len(own),
            "mean": statistics.mean(scores),
            "blank": sum(not item.answer.strip() for item in own),
            "wrong": Counter(item.wrong for item in own if item.wrong).most_common(3),
        }
