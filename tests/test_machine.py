"""What the machine says it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cierzo.machine import allowed_cpus, free_memory_bytes, physical_cores, total_memory_bytes


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    machine = free_memory_bytes(tmp_path)  # no such files: no container
    assert machine > 0
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 700\n")
    assert free_memory_bytes(tmp_path) == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes(tmp_path) == pytest.approx(machine, rel=0.5)


def test_a_containers_limit_is_all_the_memory_it_has(tmp_path: Path) -> None:
    machine = total_memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("3000\n")
    assert total_memory_bytes(tmp_path) == 3000 < machine
    (tmp_path / "memory.max").write_text("max\n")
    assert total_memory_bytes(tmp_path) == machine


@dataclass
class FakeRoot:
    """A /sys and /proc: `cpus` says of each CPU its (package, core)."""

    path: Path

    def cpus(self, *cores: tuple[int, int]) -> set[int]:
        for cpu, (package, core) in enumerate(cores):
            self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", package)
            self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", core)
        return set(range(len(cores)))

    def write(self, name: str, value: object) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path)


def test_hyperthreads_of_a_core_count_once(root: FakeRoot) -> None:
    cpus = root.cpus((0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1))
    assert physical_cores(cpus, root.path) == 4
    assert physical_cores({0, 4}, root.path) == 1
    assert physical_cores({0, 2, 3, 7}, root.path) == 3


def test_without_topology_each_cpu_counts(root: FakeRoot) -> None:
    assert physical_cores({0, 1, 5}, root.path) == 3
    assert 1 <= physical_cores() <= len(allowed_cpus())


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("1000 100000", 1), ("max 100000", 4), ("?", 4)]
)
def test_a_quota_of_version_2_limits(root: FakeRoot, quota: str, cores: int) -> None:
    cpus = root.cpus((0, 0), (0, 1), (0, 2), (0, 3))
    root.write("proc/self/cgroup", "0::/user.slice/job")
    root.write("sys/fs/cgroup/user.slice/cpu.max", quota)  # the parent's binds too
    root.write("sys/fs/cgroup/user.slice/job/cpu.max", "max 100000")
    assert physical_cores(cpus, root.path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(250000, 3), (-1, 4)])
def test_a_quota_of_version_1_limits(root: FakeRoot, quota: int, cores: int) -> None:
    cpus = root.cpus((0, 0), (0, 1), (0, 2), (0, 3))
    root.write("proc/self/cgroup", "3:cpuset:/\n2:cpu,cpuacct:/docker/of-the-host\n0::/")
    root.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    root.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    assert physical_cores(cpus, root.path) == cores
