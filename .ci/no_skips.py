"""Fail when a test that must run here was skipped; close with the counts on a line of their own."""

import sys
import xml.etree.ElementTree as ElementTree  # our own pytest's report
from pathlib import Path

cases = list(ElementTree.fromstring(Path(sys.argv[1]).read_text(encoding="utf-8")).iter("testcase"))  # noqa: S314
skipped = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None]
failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
for name in skipped:
    print(f"skipped, but must run in CI: {name}")
print(f"{len(cases) - len(skipped) - len(failed)} passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(1 if skipped or failed or not cases else 0)
