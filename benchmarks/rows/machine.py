"""Where the figures were measured: the processor, its instructions and load, and the versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

DISTRIBUTIONS = ("torch", "transformers", *(f"chameleon-{name}" for name in ("vq", "text", "backends", "core")))
# Those that torch and oneDNN have kernels of their own for.
INSTRUCTIONS = (
    "avx2",
    "avx512_f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "neon",
    "bf16",
    "sve",
    "sve2",
)


def machine() -> dict[str, Any]:
    """Describe the machine, as JSON has it."""
    has = torch.cpu.get_capabilities()
    return {
        "processor": _processor_name(str(has.get("cpu_name") or platform.processor() or platform.machine())),
        "instructions": [name for name in INSTRUCTIONS if has.get(name)],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "date": datetime.date.today().isoformat(),
    }


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _processor_name(fallback: str) -> str:
    """Return the processor's name as Linux has it, else ``fallback``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return fallback
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), fallback)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
