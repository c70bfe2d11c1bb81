"""Check one function of a file; `run.py` runs this as a program, with one line of JSON in and one out."""

import contextlib
import json
import runpy
import sys
import types
from pathlib import Path


def main() -> None:
    """Read the request, run the check, print the result as the last line."""
    request = json.loads(sys.stdin.readline())
    sys.path[:] = request["path"]
    from labkit.conformance.suite import check_module

    file = Path(request["file"])
    sys.path.insert(0, str(file.parent))
    answer = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # keep the file's own output out of the result
        try:
            module = types.SimpleNamespace(**runpy.run_path(str(file), run_name="implementation"))
        except Exception as error:
            hint = f"the file raised {type(error).__name__} when it was imported: {' '.join(str(error).split())[:200]}"
            report = {"status": "wrong", "hint": hint}
        else:
            report = dict(check_module(module, [request["name"]])[0])
    print(json.dumps({"status": report["status"], "hint": report["hint"]}), file=answer, flush=True)


if __name__ == "__main__":
    main()
