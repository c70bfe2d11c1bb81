"""Large blocks of memory are in pages of 2 MiB where Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import bundled_model_path, load_model
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


def test_system_without_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere the setting is unknown, and a request does nothing."""
    monkeypatch.setattr(huge_pages, "_SWITCH", tmp_path / "enabled")
    assert huge_pages_setting() is None
    (tmp_path / "enabled").write_text("always madvise [never]\n", encoding="utf-8")
    assert huge_pages_setting() == "never"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)  # would raise
    huge_pages.request_huge_pages(LARGE_BYTES)
