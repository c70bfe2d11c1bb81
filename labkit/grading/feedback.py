"""One feedback page per student: points, check output and answers, but not the inputs used for grading."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from labkit.grading.adjustments import Adjustment
from labkit.grading.gradebook import Grade, adjusted
from labkit.grading.html import render
from labkit.output_files import write_atomic

_BODY = """
{% for grade in grades %}
<section>
<h2>{{ grade.notebook }}: {{ "%g"|format(points[grade.notebook]) }} of {{ "%g"|format(grade.of_points) }} points</h2>
{% for item in adjustments[grade.notebook] %}
<p>Adjusted: × {{ "%g"|format(item.factor) }}, then {{ "%+g"|format(item.points) }} points. {{ item.reason|visible }}</p>
{% endfor %}
{% if grade.problems %}
<h3>Problems with the file</h3>
<ul>
{% for problem in grade.problems %}
<li>{{ problem|visible }}</li>
{% endfor %}
</ul>
{% endif %}
<div class="scroll" role="region" aria-label="exercises of {{ grade.notebook }}" tabindex="0">
<table>
<caption>Exercises</caption>
<thead><tr><th scope="col">exercise</th><th scope="col">points</th><th scope="col">result</th></tr></thead>
<tbody>
{% for item in grade.exercises %}
<tr><th scope="row">{{ item.name }}</th><td>{{ "%g"|format(item.points) }} of {{ "%g"|format(item.of_points) }}</td>
<td>{{ item.message|visible }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% for item in grade.exercises %}
<h3>{{ item.name }}</h3>
{% if item.answer %}
<pre tabindex="0" aria-label="your answer to {{ item.name }}">{{ item.answer|visible }}</pre>
{% else %}
<p>Not answered.</p>
{% endif %}
{% if item.check %}
<p>Output of the check:</p>
<pre tabindex="0" aria-label="output of the check of {{ item.name }}">{{ item.check|visible }}</pre>
{% endif %}
{% endfor %}
</section>
{% endfor %}
"""


def write_feedback(out: Path, grades: Sequence[Grade], adjustments: Sequence[Adjustment]) -> None:
    """Write ``feedback/STUDENT.html`` for each student; grades must be sorted by student."""
    for student, group in groupby(grades, key=lambda grade: grade.student):
        own = list(group)
        changes = {
            grade.notebook: [item for item in adjustments if (item.student, item.notebook) == (student, grade.notebook)]
            for grade in own
        }
        points = {grade.notebook: adjusted(grade, adjustments) for grade in own}
        page = render(_BODY, title=f"Feedback: {own[0].display_name}", grades=own, points=points, adjustments=changes)
        write_atomic(out / "feedback" / f"{student}.html", page)
