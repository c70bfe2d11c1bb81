"""The sandbox works for root of an unprivileged container, which has few user ids."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.grading import why_no_sandbox

# Runs a command as root of a new user namespace that has the first N ids.
IN_NAMESPACE = """
import ctypes, os, sys
mine, theirs = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        os._exit(77)
    os.write(mine[1], b"x")
    os.read(theirs[0], 1)
    os.execv(sys.argv[2], sys.argv[2:])
os.read(mine[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write(f"0 0 {sys.argv[1]}")
os.write(theirs[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
IN_SANDBOX = """
from labkit.grading.sandbox.kernel import Kernel
from labkit.grading.sandbox.limits import Limits
from labkit.grading.sandbox.start import require_sandbox
require_sandbox()
with Kernel(Limits()) as kernel:
    print(kernel.execute("import os\\nprint(os.getuid(), os.getgid(), os.getgroups())", 10).output.strip())
    print(kernel.execute("os.setuid(0)", 10).status)
"""


@pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "sandbox works")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root maps other users' ids")
@pytest.mark.parametrize("n_ids", [65_536, 1])
def test_root_of_a_container_grades(n_ids: int) -> None:
    """With all usual ids, or with root's alone, code runs as an unused user who cannot become root."""
    command = [sys.executable, "-c", IN_NAMESPACE, str(n_ids), sys.executable, "-c", IN_SANDBOX]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip("no user namespaces here")
    ids, status = done.stdout.splitlines()
    user, group = map(int, ids.split()[:2])
    assert user == group
    assert (user == 65_534) if n_ids == 1 else (1000 < user < 65_534)
    assert ids.endswith("[]")
    assert status == "error", done.stderr
