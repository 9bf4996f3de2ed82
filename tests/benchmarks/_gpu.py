"""Time and waits on a GPU, as its own events and the profiler see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

__all__ = ["event_seconds", "profiled_waits"]

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def event_seconds(step: Callable[[], object]) -> float:
    """Return the seconds from the first kernel of a step to its last."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3


def profiled_waits(step: Callable[[], object]) -> Counter[str]:
    """Return the waits of the host and the copies to it that a step causes, by name.

    The profiler itself waits when it ends; an empty step is taken off.
    """
    return _events(step) - _events(lambda: None)


def _events(step: Callable[[], object]) -> Counter[str]:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        step()
    names = [event.name for event in profile.events()]
    return Counter(n for n in names if n in WAITS or "DtoH" in n)
