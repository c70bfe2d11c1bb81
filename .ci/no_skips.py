"""Fail if a test was skipped in CI; the last line has the counts.

Two reasons are accepted, and printed: bubblewrap is installed, but the machine allows no sandbox, as in some containers;
or the npm registry, which the documentation site gets Python for the browser from, cannot be reached.
"""

import sys
import xml.etree.ElementTree as ElementTree  # the report is from our own pytest
from pathlib import Path

ACCEPTED = ("no sandbox: bwrap fails here", "no Pyodide: ")

cases = list(ElementTree.fromstring(Path(sys.argv[1]).read_text(encoding="utf-8")).iter("testcase"))  # noqa: S314
skipped = [case for case in cases if case.find("skipped") is not None]
accepted = [case for case in skipped if any(reason in str(case.find("skipped").get("message")) for reason in ACCEPTED)]
failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
for case in skipped:
    if case not in accepted:
        print(f"skipped, but must run in CI: {case.get('classname')}::{case.get('name')}")
for reason in sorted({str(case.find("skipped").get("message")) for case in accepted}):
    print(f"some tests did not run: {reason}")
print(f"{len(cases) - len(skipped) - len(failed)} passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(1 if len(skipped) > len(accepted) or failed or not cases else 0)
