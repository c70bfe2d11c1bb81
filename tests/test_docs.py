"""The pages in docs/ and the README hold together: links lead somewhere, pictures have texts, code compiles."""

import re
import shlex
from pathlib import Path

import pytest

import labkit
from labkit.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file names one that is there; every picture says what it shows."""
    for is_picture, text, target in LINK.findall(page.read_text(encoding="utf-8")):
        assert text.strip(), target
        if is_picture:
            assert len(text) > 20, target
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_code_compiles_and_names_what_exists(page: Path) -> None:
    """Python compiles, labkit's names and commands in it are real."""
    text, parser = page.read_text(encoding="utf-8"), _parser()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if ">>>" not in code:  # sessions are run by the doctests
            compile(code, page.name, "exec")
        for name in re.findall(r"\blabkit\.([a-z_]+)\(", code):
            assert hasattr(labkit, name), name
    for shell in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"^(?:uv run )?labkit (.*)$", shell, re.MULTILINE):
            parser.parse_args(shlex.split(line, comments=True))  # a wrong one ends in SystemExit
