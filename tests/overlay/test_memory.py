# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vllm.sm12x.loading.facts import filesystem, memory


def write(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(f"{value}\n", encoding="ascii")


def test_reclaimable_page_cache_of_a_v2_group_counts_as_available(tmp_path: Path) -> None:
    stat = "anon 300\nactive_file 40\ninactive_file 50\nslab_reclaimable 10"
    write(tmp_path, memory_max=1000, memory_high="max", memory_current=400, memory_stat=stat)
    assert memory.cgroup_headroom(tmp_path) == 700


def test_the_high_limit_of_a_v2_group_bounds_it_too(tmp_path: Path) -> None:
    write(tmp_path, memory_max=1000, memory_high=600, memory_current=100)
    assert memory.cgroup_headroom(tmp_path) == 500


def test_reclaimable_page_cache_of_a_v1_group_counts_with_its_children(tmp_path: Path) -> None:
    stat = "active_file 1\ninactive_file 2\ntotal_active_file 40\ntotal_inactive_file 60"
    write(tmp_path, memory_limit_in_bytes=1000, memory_usage_in_bytes=400, memory_stat=stat)
    assert memory.cgroup_headroom(tmp_path) == 700


def test_a_group_above_its_limit_has_no_room(tmp_path: Path) -> None:
    write(tmp_path, memory_max=100, memory_current=150)
    assert memory.cgroup_headroom(tmp_path) == 0


@pytest.mark.parametrize("files", [{}, {"memory_max": "max", "memory_current": 5}])
def test_a_group_without_a_limit_bounds_nothing(
    tmp_path: Path, files: dict[str, int | str]
) -> None:
    write(tmp_path, **files)
    assert memory.cgroup_headroom(tmp_path) is None


def proc(folder: Path, memberships: str, mounts: str) -> dict[str, Path]:
    """Files as in /proc, for a host with 2000 KiB available."""
    texts = {
        "meminfo": "MemTotal: 9000 kB\nMemFree: 5 kB\nMemAvailable:    2000 kB\n",
        "cgroup": memberships,
        "mountinfo": mounts,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in texts}


def v2_mount(root: str, point: Path) -> str:
    escaped = str(point).replace(" ", r"\040")
    return f"31 23 0:28 {root} {escaped} rw - cgroup2 cgroup2 rw\n"


def test_the_host_is_the_bound_where_no_group_is_tighter(tmp_path: Path) -> None:
    files = proc(tmp_path, "0::/a\n", v2_mount("/", tmp_path / "cg"))
    write(tmp_path / "cg" / "a", memory_max=2048001, memory_current=0)
    assert memory.measure(**files) == memory.Memory(available_bytes=2048000, bound_by="host")


def test_a_limit_on_a_parent_group_counts(tmp_path: Path) -> None:
    top = tmp_path / "c g"
    files = proc(tmp_path, "0::/slice/pod/app\n", v2_mount("/", top))
    write(top / "slice" / "pod" / "app", memory_max="max", memory_current=10)
    write(top / "slice", memory_max=1000, memory_current=100)
    bound = memory.Memory(available_bytes=900, bound_by=str(top / "slice"))
    assert memory.measure(**files) == bound


def test_in_a_container_the_mount_may_start_at_its_own_group(tmp_path: Path) -> None:
    files = proc(tmp_path, "0::/docker/1/app\n", v2_mount("/docker/1", tmp_path / "cg"))
    write(tmp_path / "cg" / "app", memory_max=500, memory_current=0)
    measured = memory.measure(**files)
    assert measured is not None
    assert measured.available_bytes == 500


@pytest.mark.parametrize(("path", "root"), [("/../other", "/"), ("/elsewhere", "/docker/1")])
def test_a_group_out_of_sight_is_judged_by_what_is_mounted(
    tmp_path: Path, path: str, root: str
) -> None:
    files = proc(tmp_path, f"0::{path}\n", v2_mount(root, tmp_path / "cg"))
    write(tmp_path / "cg", memory_max=500, memory_current=0)
    measured = memory.measure(**files)
    assert measured is not None
    assert measured.available_bytes == 500


def test_v1_and_v2_side_by_side_both_count(tmp_path: Path) -> None:
    v1 = f"35 31 0:32 / {tmp_path / 'v1'} rw - cgroup cgroup rw,memory\n"
    cpu = f"36 31 0:33 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu\n"
    files = proc(
        tmp_path,
        "4:cpu:/c\n3:hugetlb,memory:/m\n1:name=systemd:/s\n0::/u\n",
        cpu + v1 + v2_mount("/", tmp_path / "v2"),
    )
    folders = memory.cgroup_folders(
        files["cgroup"].read_text(encoding="utf-8"), filesystem.read_mounts(files["mountinfo"])
    )
    places = [tmp_path / "v1" / "m", tmp_path / "v1", tmp_path / "v2" / "u", tmp_path / "v2"]
    assert folders == places


def test_a_kernel_that_does_not_tell_leaves_memory_unknown(tmp_path: Path) -> None:
    files = proc(tmp_path, "0::/\n", "")
    files["meminfo"].write_text("MemTotal: 9000 kB\n", encoding="ascii")
    assert memory.measure(**files) is None
    assert memory.measure(meminfo=tmp_path / "missing") is None


def test_this_machines_memory_is_bounded_by_what_it_has() -> None:
    measured = memory.measure()
    assert measured is not None
    assert 0 < measured.available_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


GROUPS = Path("/sys/fs/cgroup/memory")
MEASURE = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
from vllm.sm12x.loading.facts.memory import measure
found = measure()
print(found.available_bytes, found.bound_by)
"""


def test_a_limit_on_a_real_group_above_is_found() -> None:
    if not os.access(GROUPS / "memory.limit_in_bytes", os.W_OK):
        pytest.skip(f"needs {GROUPS}, a version 1 memory group that may be written to")
    found = memory.measure()
    if found is None or found.available_bytes < 4 << 30:
        pytest.skip("needs 4 GiB of memory, so that a limit of 3 GiB is the tighter one")
    outer = GROUPS / f"sm12x-test-{os.getpid()}"
    inner = outer / "inner"
    outer.mkdir()
    try:
        inner.mkdir()
        (outer / "memory.limit_in_bytes").write_text(str(3 << 30), encoding="ascii")
        root = Path(memory.__file__).parents[3]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(inner)], check=True, capture_output=True,
            text=True, env=environment,
        )  # fmt: skip
    finally:
        if inner.is_dir():
            inner.rmdir()
        outer.rmdir()
    available, bound_by = done.stdout.split()
    assert bound_by == str(outer)
    assert 1 << 30 < int(available) <= 3 << 30
