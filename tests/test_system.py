"""The machine's limits for this process, in containers too, and llama.cpp's build are detected correctly."""

import contextlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit import system
from labkit.errors import ArgumentError, LabkitError
from labkit.system import build, cores, load, profile, ram
from labkit.system.cgroups import MemoryLimit, cpu_quota, memory_limits

V2_MOUNT = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "33 30 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "34 30 0:30 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux kernel files")


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def version_2(root: Path, group: str, files: Mapping[str, str], mounted: str = "/") -> Path:
    own = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2_MOUNT.format(root=mounted)}
    return write_files(root, {**own, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def version_1(root: Path, group: str, files: Mapping[str, str], mounted: str = "/") -> Path:
    lines = f"12:pids:{group}\n4:memory:{group}\n3:cpu,cpuacct:{group}\n1:name=systemd:{group}\n"
    own = {"proc/self/cgroup": lines, "proc/self/mountinfo": V1_MOUNTS.format(root=mounted)}
    return write_files(root, {**own, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def siblings(*groups: str) -> dict[str, str]:
    folder = "sys/devices/system/cpu"
    return {
        f"{folder}/cpu{cpu}/topology/thread_siblings_list": f"{group}\n"
        for group in groups
        for cpu in cores.parse_cpu_list(group)
    }


@pytest.mark.parametrize(("text", "expected"), [("150000 100000", 1.5), ("max 100000", None), ("", None), ("0 0", None)])
def test_quota_reads_version_2(tmp_path: Path, text: str, expected: float | None) -> None:
    """cpu.max is quota and period; "max" means no limit."""
    assert cpu_quota(version_2(tmp_path, "/", {"cpu.max": text})) == expected


def test_lowest_quota_of_all_parents_applies(tmp_path: Path) -> None:
    """A limit of any parent group applies."""
    limits = {"a.slice/cpu.max": "300000 100000", "a.slice/b.scope/cpu.max": "max 100000"}
    assert cpu_quota(version_2(tmp_path, "/a.slice/b.scope", limits)) == 3.0


def test_quota_reads_version_1(tmp_path: Path) -> None:
    """cfs_quota_us over cfs_period_us, under a mount that serves two controllers."""
    files = {"cpu,cpuacct/box/cpu.cfs_quota_us": "250000", "cpu,cpuacct/box/cpu.cfs_period_us": "100000"}
    assert cpu_quota(version_1(tmp_path, "/box", files)) == 2.5


def test_quota_unlimited_in_version_1_is_none(tmp_path: Path) -> None:
    """-1 means no limit."""
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    assert cpu_quota(version_1(tmp_path, "/", files)) is None


@pytest.mark.parametrize("version", [version_1, version_2])
def test_quota_is_found_where_a_container_mounts_only_its_own_group(tmp_path: Path, version: Callable[..., Path]) -> None:
    """Without a cgroup namespace the path names the group on the host, and the mount has that group as its root."""
    files = {
        "cpu.max": "200000 100000",
        "cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    assert cpu_quota(version(tmp_path, "/docker/abc", files, mounted="/docker/abc")) == 2.0


@pytest.mark.parametrize("group", ["/../../other", "/outside"])
def test_group_outside_the_mount_falls_back_to_its_top(tmp_path: Path, group: str) -> None:
    """A path outside the container's view is not followed out of the tree."""
    mounted = "/" if ".." in group else "/inside"
    assert cpu_quota(version_2(tmp_path, group, {"cpu.max": "100000 100000"}, mounted=mounted)) == 1.0


def test_limits_are_none_without_control_groups(tmp_path: Path) -> None:
    """macOS, Windows and an empty tree have no limit."""
    assert cpu_quota(tmp_path) is None
    assert memory_limits(tmp_path) == ()


def test_memory_limit_leaves_out_the_file_cache(tmp_path: Path) -> None:
    """A mapped model file in the file cache counts as free memory."""
    files = {
        "box/memory.max": "8000",
        "box/memory.high": "max",
        "box/memory.current": "5000",
        "box/memory.stat": "anon 1900\nactive_file 1000\ninactive_file 2000\n",
        "memory.max": "max",
    }
    (limit,) = memory_limits(version_2(tmp_path, "/box", files))
    assert limit == MemoryLimit(limit_bytes=8000, used_bytes=2000)
    assert limit.available_bytes == 6000


def test_memory_limit_reads_version_1(tmp_path: Path) -> None:
    """The largest 63-bit page count means no limit; subtree totals count, not the group's own figures."""
    files = {
        "memory/box/memory.limit_in_bytes": "9000",
        "memory/box/memory.usage_in_bytes": "4000",
        "memory/box/memory.stat": "active_file 1\ninactive_file 1\ntotal_active_file 500\ntotal_inactive_file 500\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert memory_limits(version_1(tmp_path, "/box", files)) == (MemoryLimit(9000, 3000),)


def test_memory_high_counts_as_a_limit(tmp_path: Path) -> None:
    """memory.high counts as a limit, because the kernel throttles a process above it."""
    files = {"box/memory.max": "8000", "box/memory.high": "6000", "box/memory.current": "0"}
    assert memory_limits(version_2(tmp_path, "/box", files))[0].limit_bytes == 6000


def test_ram_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    """The container's limit applies if it is lower."""
    files = {"box/memory.max": str(300 * 2**20), "box/memory.current": str(100 * 2**20)}
    root = version_2(tmp_path, "/box", files)
    assert ram.total_ram_bytes(root) == 300 * 2**20
    assert ram.available_ram_bytes(root) == 200 * 2**20
    assert ram.available_ram_bytes() <= ram.total_ram_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no ulimit on Windows")
def test_ram_respects_the_address_space_limit() -> None:
    """After `ulimit -v`, at most the rest of the address space is free."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, -1))\n"
        "from labkit.system import available_ram_bytes; print(available_ram_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 0 < int(done.stdout) < 2**30


def allow(monkeypatch: pytest.MonkeyPatch, cpus: str) -> None:
    monkeypatch.setattr(cores, "allowed_cpus", lambda: cores.parse_cpu_list(cpus))
    monkeypatch.delattr(os, "process_cpu_count", raising=False)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [("0-7", 4), ("0-3", 4), ("0,4", 1), ("0,1,4", 2), ("2", 1)],
)
def test_physical_cores_count_siblings_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, expected: int
) -> None:
    """Of four cores with two threads each, those allowed by affinity are counted."""
    allow(monkeypatch, allowed)
    root = write_files(tmp_path, siblings("0,4", "1,5", "2,6", "3,7"))
    assert system.physical_cores_available(root) == expected
    assert system.logical_cores_available(root) == len(cores.parse_cpu_list(allowed))


@pytest.mark.parametrize(("quota", "expected"), [("400000", 4), ("350000", 3), ("100000", 1), ("20000", 1), ("max", 8)])
def test_physical_cores_respect_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    """A container's CPU quota is respected, rounded down, but at least one."""
    allow(monkeypatch, "0-7")
    root = version_2(tmp_path, "/", {"cpu.max": f"{quota} 100000"})
    write_files(root, siblings(*"01234567"))
    assert system.physical_cores_available(root) == expected


def test_performance_cores_leave_out_efficiency_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a hybrid of two fast cores with two threads and four slow ones, two are fast and six are physical."""
    allow(monkeypatch, "0-7")
    root = write_files(tmp_path, {**siblings("0-1", "2-3", *"4567"), "sys/devices/cpu_core/cpus": "0-3\n"})
    assert system.physical_cores_available(root) == 6
    assert system.performance_cores_available(root) == 2


def test_physical_cores_without_topology_use_the_machines_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not report which threads share a core, psutil's ratio is applied to the allowed CPUs."""
    allow(monkeypatch, "0-7")
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 16 if logical else 8)
    assert system.physical_cores_available(tmp_path) == 4


@linux_only
def test_physical_cores_follow_affinity_of_a_real_process() -> None:
    """A process bound to one CPU counts one core."""
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first}}})\n"
        "from labkit.system import *; print(physical_cores_available(), logical_cores_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["1", "1"]


@linux_only
def test_peak_can_be_reset() -> None:
    """After a reset the peak starts at the current RSS and includes an allocation freed since."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, low, high = pool.apply(measure_peaks)
    assert before >= low
    assert high - low >= 60 * 2**20


def measure_peaks() -> tuple[int, int, int]:
    bytearray(64 * 2**20)
    before = system.peak_resident_bytes()
    system.reset_peak_resident()
    low = system.peak_resident_bytes()
    bytearray(64 * 2**20)
    return before, low, system.peak_resident_bytes()


def test_peak_works_without_the_kernels_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VmHWM, the peak comes from getrusage or Windows."""
    monkeypatch.setattr(ram, "status_bytes", lambda name: None)
    assert system.peak_resident_bytes() >= system.resident_bytes() // 2 > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | F16C = 0 | REPACK = 1 | ", ("SSE3", "AVX2", "REPACK")),
        (
            "MTL : EMBED_LIBRARY = 1 | CPU : NEON = 1 | SVE_CNT = 32 | ACCELERATE = 1 | ",
            ("NEON", "SVE_CNT=32", "ACCELERATE"),
        ),
        ("CPU : NEON = 1 | CUDA : ARCHS = 900 | USE_GRAPHS = 1 | ", ("NEON",)),
        ("", ()),
    ],
)
def test_system_info_yields_the_cpus_features(text: str, expected: tuple[str, ...]) -> None:
    """Only the enabled CPU features are kept, not those of other backends."""
    assert build.parse_system_info(text) == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("AVX2 REPACK", "Q4_0 Q4_K IQ4_NL MXFP4"),
        ("AVX2 AVX512 REPACK", "Q4_0 Q4_K Q2_K IQ4_NL MXFP4"),
        ("AVX2 AVX512", ""),
        ("NEON DOTPROD REPACK", "Q4_0 Q4_K Q5_K Q6_K IQ4_NL MXFP4 Q8_0 Q1_0"),
        ("NEON MATMUL_INT8 REPACK", "Q4_0 Q4_K Q5_K Q6_K Q8_0 Q1_0"),
        ("NEON REPACK", ""),
        ("SSE3 REPACK", ""),
        ("AVX2 AVX512 AMX_INT8 REPACK", "Q4_0 Q4_K Q2_K Q5_K Q6_K IQ4_NL MXFP4 Q8_0 Q4_1 IQ4_XS F16"),
    ],
)
def test_repacked_types_follow_the_cpu(features: str, expected: str) -> None:
    """Each kind of CPU repacks the types in llama.cpp's table."""
    assert build.repacked_types(features.split()) == tuple(expected.split())


@pytest.mark.parametrize(
    ("type_name", "rows", "columns", "features", "expected"),
    [
        ("Q4_0", 12, 64, "AVX2 REPACK", False),
        ("Q4_0", 16, 64, "AVX2 REPACK", True),
        ("Q4_0", 12, 64, "NEON DOTPROD REPACK", True),
        ("Q4_K", 12, 256, "NEON DOTPROD REPACK", False),
        ("F16", 16, 64, "AVX2 REPACK", False),
        ("Q4_1", 64, 576, "AMX_INT8", True),
        ("Q4_1", 48, 576, "AMX_INT8", False),
        ("no such type", 64, 64, "AVX2 REPACK", False),
    ],
)
def test_repacking_depends_on_the_shape(type_name: str, rows: int, columns: int, features: str, expected: bool) -> None:
    """Rows that do not divide into the interleaved groups are not repacked."""
    assert build.is_repacked(type_name, rows, columns, features.split()) is expected


def test_engine_build_describes_the_installation() -> None:
    """The installed llama.cpp has a CPU backend and device; RPC alone does not count as a GPU."""
    info = system.engine_build()
    assert re.match(r"\d+\.\d+", info.version)
    assert "CPU" in info.backends
    assert [device.kind for device in info.devices].count("CPU") == 1
    assert info.has_gpu == any(device.kind in ("GPU", "IGPU") for device in info.devices)
    assert info.repacked_types == build.repacked_types(info.features)
    json.dumps(info.to_dict())


def test_profile_without_bandwidth() -> None:
    """With bandwidth=False the bandwidth is None; the rest is complete and JSON-ready."""
    found = system.measure_system(bandwidth=False)
    assert (found.read_bytes_per_second, found.bandwidth_threads, found.bandwidth_method) == (None, None, None)
    assert 1 <= found.physical_cores <= found.logical_cores
    assert 0 < found.ram_available_bytes <= found.ram_total_bytes
    assert found.cpu
    json.dumps(found.to_dict())


def test_profile_measures_the_bandwidth() -> None:
    """A short measurement gives a realistic rate and its method."""
    found = system.measure_system(seconds=0.1)
    assert 1e8 < found.read_bytes_per_second < 1e13
    assert f"{found.bandwidth_threads} threads" in found.bandwidth_method


def test_bandwidth_reads_every_byte_of_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is all bytes divided by the best pass, not one thread's part."""
    clock = itertools.count(0.0, 0.5)
    monkeypatch.setattr("labkit.system.bandwidth._read_once", lambda readers: 2.0 if len(readers) == 2 else 0.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert system.measure_read_bandwidth(2, size_bytes=4096, seconds=1.0) == 2048.0


@pytest.mark.parametrize("wrong", [{"n_threads": 0}, {"n_threads": 4, "size_bytes": 8}, {"seconds": 0}])
def test_bandwidth_rejects_zero(wrong: dict[str, int]) -> None:
    """Zero threads, bytes or time is an error, not a division by zero."""
    with pytest.raises(ArgumentError, match="positive"):
        system.measure_read_bandwidth(**wrong)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@linux_only
def test_idle_time_is_that_of_the_allowed_cpus() -> None:
    """All CPUs together and the first alone: idle and iowait as psutil reads them, before and after."""
    for cpus in (frozenset(range(os.cpu_count() or 1)), frozenset([0])):
        before, found, after = _idle_by_psutil(cpus), load._idle_on_linux(cpus), _idle_by_psutil(cpus)
        rounding_s = 0.02 * len(cpus)
        assert before - rounding_s <= found <= after + rounding_s


def _idle_by_psutil(cpus: frozenset[int]) -> float:
    times = psutil.cpu_times(percpu=True)
    return float(sum(times[cpu].idle + times[cpu].iowait for cpu in cpus))


def test_busy_cores_are_busy_until_the_block_ends() -> None:
    """Each process uses CPU time, has its own session, and is gone after the block."""
    before = set(psutil.Process().children())
    with system.busy_cores(2, seconds=60):
        processes = set(psutil.Process().children()) - before
        assert len(processes) == 2
        deadline_s = time.monotonic() + 60
        while min(map(_cpu_s, processes)) < 0.2 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert min(map(_cpu_s, processes)) >= 0.2
        if hasattr(os, "getsid"):
            assert len({os.getsid(0), *(os.getsid(process.pid) for process in processes)}) == 3
    assert not any(process.is_running() for process in processes)


def test_busy_cores_end_by_themselves() -> None:
    """After its time a process has ended, though the block still runs."""
    before = set(psutil.Process().children())
    with system.busy_cores(1, seconds=0.1):
        (process,) = set(psutil.Process().children()) - before
        process.wait(30)


def test_busy_cores_end_with_a_killed_process() -> None:
    """A process that is killed inside the block leaves no busy process behind, as a killed kernel."""
    code = (
        "import labkit, psutil, time\nwith labkit.busy_cores(1, 600):\n"
        " print(psutil.Process().children()[0].pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        busy = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline_s = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):
        while busy.status() != psutil.STATUS_ZOMBIE:  # no init in a container removes it
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


@pytest.mark.parametrize(("name", "value"), [("n", -1), ("n", 1.5), ("seconds", -1), ("seconds", "10")])
def test_busy_cores_refuse_wrong_arguments(name: str, value: Any) -> None:
    """A wrong argument is an error at the call, before anything starts."""
    with pytest.raises(LabkitError, match=f"^{name}"):
        system.busy_cores(**{name: value})


def test_importing_system_is_cheap() -> None:
    """Neither llama_cpp nor NumPy nor psutil is imported before it is needed."""
    code = "import sys, labkit.system; print({'llama_cpp', 'numpy', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_cpu_name_is_never_empty() -> None:
    """If ggml has no name, the standard library's is used."""
    nameless = system.engine_build().replace(devices=())
    assert profile._cpu_name(nameless)


_EQUAL, _MHZ = [1024] * 8, 1000


@pytest.mark.parametrize(
    ("capacities", "frequencies", "fast"),
    [
        ([414] * 4 + [1024] * 4, [1800 * _MHZ] * 4 + [2400 * _MHZ] * 4, 4),  # RK3588
        (
            [250] * 4 + [768] * 3 + [1024],
            [1800 * _MHZ] * 4 + [2420 * _MHZ] * 3 + [2840 * _MHZ],
            4,
        ),  # Snapdragon
        ([300] * 6 + [1024] * 2, [2000 * _MHZ] * 8, 2),  # equal frequencies, unequal cores
        ([718] * 4 + [1024] * 4, [2800 * _MHZ] * 4 + [3900 * _MHZ] * 4, 8),  # NVIDIA GB10: eight are faster than four
        (_EQUAL, [2400 * _MHZ] * 8, 8),
        (_EQUAL, [5100 * _MHZ, 5000 * _MHZ, 4800 * _MHZ, 4700 * _MHZ] * 2, 8),  # favoured cores of one kind
        (None, [5100 * _MHZ] * 4 + [3300 * _MHZ] * 4, 4),  # Zen 5 and Zen 5c: frequencies only
        (_EQUAL, [1800 * _MHZ] * 4 + [2400 * _MHZ] * 4, 4),  # a kernel that reports every core as equal
        (None, None, 8),
        ([1024] * 4 + [None] * 4, None, 8),  # not for every core
    ],
)
def test_slow_cores_are_told_by_capacity_and_frequency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacities: Any, frequencies: Any, fast: int
) -> None:
    """ARM's kernels report capacities, others frequencies; small differences are within one kind of core."""
    allow(monkeypatch, "0-7")
    folder = "sys/devices/system/cpu/cpu"
    files = siblings(*"01234567")
    files |= {f"{folder}{cpu}/cpu_capacity": f"{n}\n" for cpu, n in enumerate(capacities or ()) if n}
    files |= {f"{folder}{cpu}/cpufreq/cpuinfo_max_freq": f"{n}\n" for cpu, n in enumerate(frequencies or ())}
    root = write_files(tmp_path, files)
    assert (system.performance_cores_available(root), system.physical_cores_available(root)) == (fast, 8)


def test_slow_cores_count_if_a_process_may_use_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cpuset of slow cores, all of them are as fast as it gets; siblings still count once."""
    allow(monkeypatch, "0-3")
    files = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": f"{414 if cpu < 4 else 1024}\n" for cpu in range(8)}
    root = write_files(tmp_path, {**siblings("0-1", "2-3", *"4567"), **files})
    assert system.performance_cores_available(root) == 2


@pytest.mark.parametrize(
    ("running", "fewest", "n_looks"),
    [([1], 1, 1), ([3, 2, 1, 2], 1, 3), ([2, 3, 2, 4, 2, 1], 2, 5), ([2, 0], 0, 2)],
    ids=["idle", "a short service", "a busy program", "a container without its own threads"],
)
def test_running_threads_are_the_least_of_some_looks(
    running: list[int], fewest: int, n_looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an idle machine one look is enough; a service that runs for a moment is not a busy program."""
    looks = iter(running)
    monkeypatch.setattr(load, "read_text", lambda path: f"0.10 0.20 0.30 {next(looks)}/300 4242\n")
    assert load._running_threads() == fewest
    assert len(running) - len(list(looks)) == n_looks
