"""The README and the pages in docs/ are consistent: links have targets, pictures have alt texts, code compiles."""

import re
import shlex
from pathlib import Path

import pytest

import labkit
from labkit.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_links_have_targets(page: Path) -> None:
    """Every link to a file has a target; every picture has an alt text."""
    for is_picture, text, target in LINK.findall(page.read_text(encoding="utf-8")):
        assert text.strip(), target
        if is_picture:
            assert len(text) > 20, target
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_code_compiles_and_names_exist(page: Path) -> None:
    """Python code compiles, and labkit's functions and commands in it exist."""
    text, parser = page.read_text(encoding="utf-8"), _parser()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if ">>>" not in code:  # the doctests run sessions
            compile(code, page.name, "exec")
        for name in re.findall(r"\blabkit\.([a-z_]+)\(", code):
            assert hasattr(labkit, name), name
    for shell in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"^(?:uv run )?labkit (.*)$", shell, re.MULTILINE):
            parser.parse_args(shlex.split(line, comments=True))  # a wrong one raises SystemExit
