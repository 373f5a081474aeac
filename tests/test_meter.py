"""The meter: a process's own peak, not that of whoever started it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.meter import peak_memory_bytes

STARTED_BY_A_LARGE_ONE = """
import subprocess, sys
held = bytearray(400_000_000)
held[::4096] = bytes(len(held[::4096])).replace(bytes(1), b"1")
small = "from toolkit.meter import peak_memory_bytes; print(peak_memory_bytes())"
print(subprocess.run([sys.executable, "-c", small], check=True, capture_output=True, text=True).stdout)
"""


def test_the_peak_covers_what_was_held_and_is_gone() -> None:
    before = peak_memory_bytes()
    held = bytearray(b"1") * 300_000_000
    assert peak_memory_bytes() > len(held)
    del held
    assert peak_memory_bytes() >= max(before, 300_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is all there is")
def test_a_process_does_not_inherit_the_peak_of_who_started_it() -> None:
    made = subprocess.run([sys.executable, "-c", STARTED_BY_A_LARGE_ONE], check=True, capture_output=True, text=True)
    assert 10**6 < int(made.stdout) < 200_000_000


def test_where_no_system_tells_the_peak_it_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no `resource`, and nothing but the figure hangs on it."""
    monkeypatch.setattr("toolkit.meter.resource", None)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert peak_memory_bytes() == 0
