"""What numbers were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["hardware"]

DESCRIPTION = Path("/proc/cpuinfo")


def hardware(device: str) -> str:
    """Return processor, cores and, where it is used, the accelerator; never the machine's name."""
    cpu = f"{_processor()}, {os.cpu_count()} cores"
    if torch.device(device).type != "cuda":
        return cpu
    return f"{torch.cuda.get_device_name(device)}; {cpu}"


def _processor() -> str:
    """Return what the system calls the processor."""
    lines = DESCRIPTION.read_text(encoding="utf-8").splitlines() if DESCRIPTION.exists() else []
    pairs = (line.partition(":") for line in lines)
    named = next((value.strip() for name, _, value in pairs if name.strip() == "model name"), "")
    return named or platform.processor() or platform.machine()
