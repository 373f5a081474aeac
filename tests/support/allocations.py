"""What torch's allocator gives out on a CPU while something runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def most_allocated(run: Callable[[], Any]) -> int:
    """Bytes that were alive at once at the most, beyond those that were when it began."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most
