"""Write the syllabus from the notebooks, and slides for its two paths.

::

    uv run tools/syllabus.py                       # writes docs/syllabus.md
    uv run tools/syllabus.py --slides short.html   # ten slides for the short path, one file, offline
    uv run tools/syllabus.py --slides whole.html --path whole
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "syllabus.md"
TEMPLATE = ROOT / "tools" / "syllabus_page.md"
# The short path: these chapters, without the steps that say SKIPPED, and with these exercises; the others are homework.
SHORT = ("00", "01", "04", "06", "07")
SKIPPED = "*Skip on the short path.*"
SHORT_EXERCISES = ("writing_speed", "seconds_to_answer", "weight_bits", "token_cache", "median_speed")
SLIDES = {
    "short": [("00",), ("00",), ("01",), ("01",), ("04",), ("04",), ("06",), ("06",), ("07",)],
    "whole": [("00", "01"), ("02",), ("03",), ("04",), ("05",), ("06",), ("07", "08"), ("09", "12"), ("10", "11")],
}
_EXERCISE = re.compile(r"\*\*Exercise\*\* \((\d+) minutes.*?^check\(\"(\w+)\"", re.MULTILINE | re.DOTALL)
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #fff; --soft: #555; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eee; --page: #181818; --soft: #bbb; }
  .labkit-picture { filter: invert(.95) hue-rotate(180deg) brightness(1.2); }
}
html { scroll-snap-type: y proximity; }
body { margin: 0; font: clamp(1rem, min(2.9vh, 1.75vw), 2rem)/1.4 system-ui, sans-serif; color: var(--ink);
  background: var(--page); }
section { min-height: 100vh; box-sizing: border-box; padding: 3vh 5vw; scroll-snap-align: start; display: flex;
  flex-direction: column; gap: 1rem; }
section > div { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem; }
@media (min-width: 50rem) { section > div:has(img) { grid-template-columns: 3fr 4fr; } }
h1, h2 { margin: 0; line-height: 1.15; } ul { margin: 0 0 0.5em; padding-left: 1.2em; } p { margin: 0 0 0.5em; }
img { background: #fff; width: 100% !important; max-height: 74vh; object-fit: contain; object-position: left top; }
table { border-collapse: collapse; } td, th { padding: 0 1em 0 0; text-align: left; }
footer { margin-top: auto; font-size: 0.9rem; color: var(--soft); }
@media print { section { height: 100vh; page-break-after: always; } @page { size: A4 landscape; margin: 0; } }
"""
_SCRIPT = """
addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    const slides = [...document.querySelectorAll("section")];
    const now = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > innerHeight / 2);
    slides[Math.max(0, Math.min(slides.length - 1, now + step))].scrollIntoView();
  }
});
"""


@dataclasses.dataclass(frozen=True)
class Chapter:
    """What a notebook says about itself."""

    number: str
    file: str
    title: str
    outcomes: tuple[str, ...]
    minutes: int
    needs: str
    before: str  # the chapter to do first
    exercises: int
    points: int
    steps: dict[int, int]  # minutes
    short: dict[int, int]  # minutes of the steps of the short path, without homework
    short_exercises: tuple[str, ...]
    questions: tuple[str, ...]  # of its prediction boxes
    recap: tuple[str, ...]
    pictures: tuple[str, ...]  # img elements, without the comparisons of guesses


def read_chapter(path: Path) -> Chapter:
    """Return what a notebook says about itself; a notebook that does not is an error."""
    cells: list[Any] = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    first, everything = texts[0], "\n".join(cell.source for cell in cells)
    title = re.match(r"# (\d\d) · (.+)", first)
    stated = re.search(r"\*\*Time:\*\* (\d+) minutes.*?\*\*Needs:\*\* (.*?)\.(?=\s|$)", first, re.DOTALL)
    if title is None or stated is None:
        raise SystemExit(f"{path.name}: its first cell needs “# NN · Title”, **Time:** N minutes and **Needs:**")
    before = re.search(r"Do \[(\d\d)[^\]]*\]\([^)]*\) first", first)
    marks = [cell.metadata.get("nbgrader", {}) for cell in cells]
    shown = [html_of(output) for cell in cells for output in cell.get("outputs", ())]
    pictures = [image for text in shown for image in re.findall(r'<img alt="[^"]*"[^>]*src="data:[^>]*>', text)]
    sections = re.split(r"^## ", everything, flags=re.MULTILINE)
    parts = {int(number[0]): part for part in sections if (number := re.match(r"\d+(?=\. )", part))}
    tasks = {step: {name: int(time) for time, name in _EXERCISE.findall(part)} for step, part in parts.items()}
    steps = {step: int(re.findall(r"· (\d+) min$", part.splitlines()[0])[0]) for step, part in parts.items()}
    recaps = [text for text in texts if text.startswith("## Recap")]
    return Chapter(
        number=title[1],
        file=path.name,
        title=title[2],
        outcomes=tuple(line.rstrip(",.") for line in re.findall(r"^- (.+)$", first, re.MULTILINE)),
        minutes=int(stated[1]),
        needs=stated[2],
        before=before[1] if before else "",
        exercises=sum(bool(mark.get("solution")) for mark in marks),
        points=sum(int(mark.get("points", 0)) for mark in marks if mark.get("grade")),
        steps=steps,
        short={
            step: steps[step] - sum(time for name, time in tasks[step].items() if name not in SHORT_EXERCISES)
            for step, part in parts.items()
            if SKIPPED not in part
        },
        short_exercises=tuple(name for each in tasks.values() for name in each if name in SHORT_EXERCISES),
        questions=tuple(text for _, text in re.findall(r"predict\(\s*(['\"])(.+?)\1", everything)),
        recap=tuple(re.findall(r"^- (.+)$", recaps[-1], re.MULTILINE)) if recaps else (),
        pictures=tuple(image for image in pictures if "no guess yet" not in image),
    )


def html_of(output: Any) -> str:
    """Return an output's HTML, or an empty text."""
    return "".join(output.get("data", {}).get("text/html", ""))


def read_course(folder: Path = ROOT / "notebooks") -> list[Chapter]:
    """Return all chapters, in order."""
    return [read_chapter(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def short_minutes(chapters: list[Chapter]) -> dict[str, int]:
    """Return the minutes of each chapter of the short path."""
    return {each.number: sum(each.short.values()) for each in chapters if each.number in SHORT}


def syllabus(chapters: list[Chapter]) -> str:
    """Return the page."""
    rows = "\n".join(
        f"| [{each.number} {each.title}](../notebooks/{each.file}) | {'; '.join(each.outcomes)} | {each.minutes} | "
        f"{each.exercises} | {each.points} | {each.before or '–'} |"
        for each in chapters
    )
    minutes, points = sum(each.minutes for each in chapters), sum(each.points for each in chapters)
    short = short_minutes(chapters)
    path = "\n".join(
        f"| {each.number} {each.title} | {', '.join(map(str, each.short))} | `{'`, `'.join(each.short_exercises)}` | "
        f"{short[each.number]} |"
        for each in chapters
        if each.number in short
    )
    needs = "\n".join(f"| {each.number} | {each.needs} |" for each in chapters)
    return TEMPLATE.read_text(encoding="utf-8").format(
        rows=rows,
        minutes=minutes,
        hours=round(minutes / 60),
        points=points,
        n_exercises=sum(c.exercises for c in chapters),
        path=path, short=sum(short.values()), needs=needs,
    )  # fmt: skip


def slides(chapters: list[Chapter], path: str) -> str:
    """Return a page with ten slides: the chapters' outcomes, questions to predict, pictures and recaps."""
    known = {each.number: each for each in chapters}
    groups = [[known[number] for number in group if number in known] for group in SLIDES[path]]
    used = [each for each in chapters if any(each in group for group in groups)]
    rows = "".join(f"<tr><th>{each.number}</th><td>{html.escape(each.title)}</td></tr>" for each in used)
    sections = [f"<section><h1>The llama.cpp lab</h1><p>Predict, measure, explain.</p><table>{rows}</table></section>"]
    seen: set[str] = set()
    for group in filter(None, groups):
        parts = "".join(_part(each, again=each.number in seen, brief=len(group) > 1) for each in group)
        title = ", ".join(f"{each.number} · {each.title}" for each in group)
        seen |= {each.number for each in group}
        sections.append(f"<section><h2>{html.escape(title)}</h2><div>{parts}</div></section>")
    numbered = [
        text.replace("</section>", f"<footer>{number} of {len(sections)}</footer></section>")
        for number, text in enumerate(sections, start=1)
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The llama.cpp lab: slides</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(numbered)}<script>{_SCRIPT}</script></body></html>\n"
    )


def _part(chapter: Chapter, *, again: bool, brief: bool) -> str:
    """Return a chapter's part of a slide: outcomes and questions first, picture and recap the second time."""
    picture = next(iter(chapter.pictures[-1:] if again else chapter.pictures[:1]), "")
    heading = "To remember" if again else f"{chapter.title}: you will be able to" if brief else "You will be able to"
    lines = (chapter.recap if again else chapter.outcomes)[: 4 if brief else 6]
    questions = () if again else chapter.questions[: 1 if brief else 2]
    text = f"<p><strong>{heading}</strong></p><ul>{''.join(f'<li>{_inline(line)}</li>' for line in lines)}</ul>"
    text += "".join(f"<p><em>Predict:</em> {html.escape(one)}</p>" for one in questions)
    return f"<div>{text}</div>" + (f"<div>{picture}</div>" if picture and not brief else "")


def _inline(text: str) -> str:
    """Return a line of Markdown as HTML: code, emphasis, links as their text."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", html.escape(text, quote=False))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text))


def main() -> None:
    """Write the page, or slides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, metavar="FILE", help="write slides into this file")
    parser.add_argument("--path", choices=tuple(SLIDES), default="short")
    args = parser.parse_args()
    target, text = (args.slides, slides(read_course(), args.path)) if args.slides else (PAGE, syllabus(read_course()))
    target.write_text(text, encoding="utf-8")
    print(f"{target}: {len(text.encode()) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
