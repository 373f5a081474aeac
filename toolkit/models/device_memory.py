"""How much memory of a device this process holds, and how much is left for it; nothing is asked but the system."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

_ROOT = Path("/")


def free_memory_bytes(device: Any, root: Path = _ROOT) -> int | None:
    """Bytes that can be taken before the system runs out, or kills; None where it does not say.

    On CUDA also what torch holds without using it. On Linux the least of what is available without swapping and of
    what the control groups (containers, batch systems) leave, of both versions.

    Args:
        root: where /proc and /sys lie.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    found = [*_available(root / "proc/meminfo"), *_control_groups(root)]
    return max(0, min(found)) if found else None


def used_memory_bytes(device: Any, root: Path = _ROOT) -> int | None:
    """Bytes that are in use now: what torch has given out on CUDA, else what of this process is resident.

    What the heap keeps free is handed back first (glibc), for it is not in use. None where the system does not say.

    Args:
        root: where /proc lies.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    pages = next((line.split()[1] for line in _lines(root / "proc/self/statm")), None)
    return None if pages is None else int(pages) * os.sysconf("SC_PAGE_SIZE")


def _available(meminfo: Path) -> Iterator[int]:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in, and each above it, has left."""
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        if "memory" in kinds.split(","):
            top, names = top / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif kinds:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(len(parts) + 1):
            yield from _left(top.joinpath(*parts[:depth]), *names)


def _left(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    """A group's limit less what is used of it; files that are only cached make room."""
    limits, used = _lines(group / limit), _lines(group / usage)
    if not (limits and used and limits[0].isdigit() and used[0].isdigit()):
        return  # no limit ("max"), or no such group from here
    stat = dict(line.split(" ", 1) for line in _lines(group / "memory.stat") if " " in line)
    yield int(limits[0]) - int(used[0]) + int(stat.get(cache, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
