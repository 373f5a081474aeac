"""What the system says is free, under the limits of control groups, and what this process holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from toolkit.models.device_memory import free_memory_bytes, used_memory_bytes

CPU = torch.device("cpu")
GIGABYTE = 1 << 30


def files(root: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files(tmp_path, **{"proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 10 kB\nMemAvailable: 4194304 kB\n"})
    return tmp_path


def test_available_memory_is_free(root: Path) -> None:
    assert free_memory_bytes(CPU, root) == 4 * GIGABYTE


def test_a_group_has_what_its_limit_leaves_and_its_cache(root: Path) -> None:
    group = "sys/fs/cgroup/job/step/"
    files(root, **{"proc/self/cgroup": "0::/job/step\n"})
    files(root, **{group + "memory.max": f"{2 * GIGABYTE}\n", group + "memory.current": f"{GIGABYTE}\n"})
    files(root, **{group + "memory.stat": f"anon 1\ninactive_file {GIGABYTE // 2}\n"})
    assert free_memory_bytes(CPU, root) == 1.5 * GIGABYTE


def test_the_tightest_group_above_counts(root: Path) -> None:
    files(root, **{"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/step/memory.max": "max\n"})
    files(root, **{"sys/fs/cgroup/job/step/memory.current": "5\n", "sys/fs/cgroup/job/memory.max": "1000\n"})
    files(root, **{"sys/fs/cgroup/job/memory.current": "400\n"})
    assert free_memory_bytes(CPU, root) == 600


def test_groups_of_the_first_version(root: Path) -> None:
    group = "sys/fs/cgroup/memory/box/"
    files(root, **{"proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/box\n0::/\n"})
    files(root, **{group + "memory.limit_in_bytes": "900\n", group + "memory.usage_in_bytes": "300\n"})
    files(root, **{group + "memory.stat": "inactive_file 1\ntotal_inactive_file 50\n"})
    assert free_memory_bytes(CPU, root) == 650


def test_a_group_over_its_limit_leaves_nothing(root: Path) -> None:
    files(root, **{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "10\n"})
    files(root, **{"sys/fs/cgroup/memory.current": "20\n"})
    assert free_memory_bytes(CPU, root) == 0


def test_where_the_system_does_not_say_nothing_is_claimed(tmp_path: Path) -> None:
    assert free_memory_bytes(CPU, tmp_path) is None
    assert free_memory_bytes(torch.device("mps")) is None


def test_a_cuda_device_has_what_torch_holds_without_using_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1000, 5000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 300)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 100)
    assert free_memory_bytes(SimpleNamespace(type="cuda")) == 1200


def test_memory_that_is_written_to_is_in_use_and_is_not_once_it_is_freed() -> None:
    before = used_memory_bytes(CPU)
    taken = torch.ones(50_000_000, dtype=torch.uint8)
    during = used_memory_bytes(CPU)
    del taken
    after = used_memory_bytes(CPU)
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before > 45_000_000
    assert during - after > 45_000_000


def test_what_the_system_does_not_say_is_not_in_use(tmp_path: Path) -> None:
    assert used_memory_bytes(CPU, tmp_path) is None
    assert used_memory_bytes(torch.device("mps")) is None
