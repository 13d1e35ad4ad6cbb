"""What this machine has for us. Imports nothing of ours, so that every layer may ask it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

_CGROUP_FILES = (  # limit, use, and the part of the use that is file cache; versions 2 and 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def total_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """All memory of the machine, or what its container may use if that is less."""
    total_bytes = int(psutil.virtual_memory().total)
    for limit, _, _ in _CGROUP_FILES:
        with suppress(OSError, ValueError):  # "max" when there is no limit
            total_bytes = min(total_bytes, int((cgroup / limit).read_text()))
    return total_bytes


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may still take: the machine's, or its container's if that is less."""
    free_bytes = int(psutil.virtual_memory().available)
    for limit, used, reclaimable in _CGROUP_FILES:
        try:
            limit_bytes = int((cgroup / limit).read_text())  # "max" when there is no limit
            used_bytes = int((cgroup / used).read_text())
            lines = (cgroup / used).with_name("memory.stat").read_text().splitlines()
            cached_bytes = int(dict(line.split() for line in lines)[reclaimable])
        except (OSError, ValueError, KeyError):
            continue
        free_bytes = min(free_bytes, max(0, limit_bytes - used_bytes + cached_bytes))
    return free_bytes


def allowed_cpus() -> set[int]:
    """The logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(cpus: set[int] | None = None, root: Path = Path("/")) -> int:
    """Cores among `cpus` (default: the allowed ones), no more than the CPU quota pays for.

    A CPU that does not say to which core it belongs counts as one.
    """
    cores = {_core_of(cpu, root) for cpu in (allowed_cpus() if cpus is None else cpus)}
    return max(1, math.ceil(min(len(cores), _quota(root))))


def _core_of(cpu: int, root: Path) -> tuple[str, str]:
    """(package, core) of a CPU; hyperthreads of one core share it."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    try:
        package = (topology / "physical_package_id").read_text().strip()
        return package, (topology / "core_id").read_text().strip()
    except OSError:
        return "unknown", str(cpu)


def _quota(root: Path) -> float:
    """CPUs' worth of time that the control groups of this process allow; infinity: no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # In a container the path may be the host's, and only the mount's root exists.
        group = PurePosixPath(path)
        quotas += [_quota_of(mount / g.relative_to("/")) for g in (group, *group.parents)]
    return min(quotas)


def _quota_of(group: Path) -> float:
    """The quota of one control group, version 2 or 1."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)  # version 2 says "max" for no limit, version 1 says -1
    except (OSError, ValueError):
        return math.inf
    return cpus if cpus > 0 else math.inf
