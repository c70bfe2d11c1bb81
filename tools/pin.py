"""Pin the tested versions: resolve again, then write constraints.txt and the same list for uv in pyproject.toml.

Run ``uv run tools/pin.py`` after changing a dependency, or to update versions; then run the tests.
pip reads constraints.txt (``pip install -c constraints.txt -e .``), uv reads pyproject.toml.
"""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "# --- written by tools/pin.py: the versions that were tested ---\n"
END = "# --- end of what tools/pin.py wrote ---\n"


def main() -> None:
    """Resolve in a copy without the old pins and write both files."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    unpinned = re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), "", text, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        (copy / "pyproject.toml").write_text(unpinned, encoding="utf-8")
        for name in ("README.md", "LICENSE"):
            (copy / name).touch()
        (copy / "labkit").mkdir()
        (copy / "labkit" / "__init__.py").write_text('__version__ = "0"', encoding="utf-8")
        command = [
            "uv",
            "export",
            "--quiet",
            "--no-hashes",
            "--no-emit-project",
            "--no-annotate",
            "--no-header",
            "--all-groups",
            "--all-extras",
        ]
        pins = subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True).stdout.splitlines()
    # what uv leaves out (override-dependencies in pyproject.toml) is pinned too, because pip installs it
    lines = [
        re.sub(r" ;.* or sys_platform == 'never'|( ;| and) sys_platform == 'never'", "", pin.strip())
        for pin in pins
        if pin.strip()
    ]
    header = "# The versions that were tested, for pip: pip install -c constraints.txt -e .  (written by tools/pin.py)\n"
    (ROOT / "constraints.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    listed = "".join(f"    {pin!r},\n" if '"' in pin else f'    "{pin}",\n' for pin in lines)
    block = f"{BEGIN}constraint-dependencies = [\n{listed}]\n{END}"
    (ROOT / "pyproject.toml").write_text(unpinned.rstrip("\n") + "\n\n" + block, encoding="utf-8")


if __name__ == "__main__":
    main()
