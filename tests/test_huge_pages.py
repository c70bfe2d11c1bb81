"""Large blocks of memory are in pages of 2 MiB where Linux has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labkit import bundled_model_path, load_model
from labkit.roofline import predict
from labkit.roofline.kernels import MatrixJob
from labkit.system import huge_pages
from labkit.system.huge_pages import LARGE_BYTES, huge_pages_setting
from tests.test_system import linux_only

MAPS = """\
00400000-10400000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
7f0010000000-7f0013ff0000 rw-p 00000000 00:00 0
7f0020000000-7f0028000000 r--p 00000000 00:00 0
7f0030000000-7f0038000000 rw-s 00000000 00:01 0
7f0040000000-7f0048000000 rw-p 00000000 08:01 42                         /a model.gguf
7f0050000000-7f0054000000 rw-p 00000000 00:00 0
"""


def requested_bytes() -> int:
    """Return the bytes of this process's memory for which huge pages were requested, as the kernel reports them."""
    requested = size = 0
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if name == "Size":
            size = 1024 * int(rest.split()[0])
        elif name == "VmFlags" and "hg" in rest.split():
            requested += size
    return requested


def test_only_large_private_memory_is_chosen() -> None:
    """Blocks of that size and more: not the heap, a smaller block, a read-only or shared one, or a mapped file."""
    assert huge_pages._blocks(MAPS, LARGE_BYTES) == [(0x7F0000000000, 128 * 2**20), (0x7F0050000000, LARGE_BYTES)]


@linux_only
@pytest.mark.skipif(huge_pages_setting() is None, reason="this kernel has no huge pages")
def test_a_large_cache_is_in_huge_pages() -> None:
    """The kernel marks the KV cache of 4,096 tokens, 90 MiB, but none of 1,024; NumPy requests some, too."""
    with load_model(bundled_model_path(), n_ctx=1024):
        small = requested_bytes()
    with load_model(bundled_model_path(), n_ctx=4096):
        assert requested_bytes() - small >= 90 * 2**20


@linux_only
@pytest.mark.skipif(huge_pages_setting() is None, reason="this kernel has no huge pages")
def test_timed_kernels_have_the_pages_of_the_model() -> None:
    """To predict a model's speed, matrices of 68 MiB are in huge pages if `load_model` reads its weights into such pages."""
    code = (
        "from labkit.roofline.child import _Kernels\nfrom tests.test_huge_pages import requested_bytes\n"
        "kernels = _Kernels(1, 0.001)\nrun = kernels._run\n"
        "kernels._run = lambda *given: print(requested_bytes() - before) or run(*given)\n"
        "for huge in (False, True):\n"
        "    before = requested_bytes()\n"
        "    kernels.time(dict(kind='matrix', type=8, n_in=4096, n_out=4096, n_columns=1, n_copies=4, huge_pages=huge))\n"
    )
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    plain, huge = map(int, run.stdout.split())
    assert (plain, huge >= 68 * 2**20) == (0, True)


@pytest.mark.parametrize(("use_mmap", "expected"), [(False, {True}), (True, {False})])
def test_only_weights_that_are_read_are_timed_in_huge_pages(
    use_mmap: bool, expected: set[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs say whether the weights are read instead of mapped."""
    choose, asked = predict.choose_settings, []
    monkeypatch.setattr(predict, "choose_settings", lambda *given: choose(*given).replace(use_mmap=use_mmap))
    monkeypatch.setattr(predict, "time_kernels", lambda jobs, _: asked.extend(jobs) or dict.fromkeys(jobs, 1.0))
    predict.predict_speed(system=None, n_prompt=8)
    assert {job.huge_pages for job in asked if isinstance(job, MatrixJob) and job.n_copies > 1} == expected


def test_system_without_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere the setting is unknown, and a request does nothing."""
    monkeypatch.setattr(huge_pages, "_SWITCH", tmp_path / "enabled")
    assert huge_pages_setting() is None
    (tmp_path / "enabled").write_text("always madvise [never]\n", encoding="utf-8")
    assert huge_pages_setting() == "never"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)  # would raise
    huge_pages.request_huge_pages(LARGE_BYTES)
