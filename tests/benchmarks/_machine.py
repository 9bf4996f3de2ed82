"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import torch

__all__ = ["machine"]


def machine(device: str) -> dict[str, str]:
    """Return what a reader must know of the machine, without its name."""
    found = {
        "CPU": _cpu("model name") or platform.processor() or platform.machine(),
        "family, model, stepping": ", ".join(
            _cpu(key) or "?" for key in ("cpu family", "model", "stepping")
        ),
        "cores": str(os.cpu_count()),
        "vector extensions": _extensions(),
        "PyTorch": torch.__version__,
        "PyTorch's choice": torch.backends.cpu.get_cpu_capability(),
        "Python": platform.python_version(),
        "system": platform.system(),
        "threads": str(torch.get_num_threads()),
        "load average at start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "date": date.today().isoformat(),
    }
    if device == "cuda":
        found |= {"GPU": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)}
    return found


def _cpu(key: str) -> str:
    """Return the first value of a key in the kernel's description; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (v.strip() for k, _, v in (x.partition(":") for x in lines) if k.strip() == key), ""
    )


def _extensions() -> str:
    flags = set(_cpu("flags").split())
    names = sorted(f for f in flags if f.startswith(("avx", "amx")))
    return " ".join(names) or "unknown"
