"""Print what the tests run on, in a line: which kernels torch chooses depends on the processor's instructions."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

# Those that torch, oneDNN or bitsandbytes have kernels of their own for.
TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)


def instructions() -> str:
    """Return the telling instruction sets that the processor has, where the system lists them (Linux does)."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return "not listed by this system"
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return " ".join(flag for flag in TELLING if flag in flags) or "none of note"


def chosen_by_torch() -> str:
    """Return the instructions that torch's own kernels use, or that torch isn't here."""
    if importlib.util.find_spec("torch") is None:
        return "no torch"
    import torch

    return f"torch {torch.__version__} uses {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
    print(f"machine: {system}; instructions: {instructions()}; {chosen_by_torch()}")  # noqa: T201 - for people
