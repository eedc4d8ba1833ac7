"""What this machine has: processor, devices and how fast they multiply in each dtype, and the packages."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

PACKAGES = ("chameleon-vq", "chameleon-text", "chameleon-backends", "chameleon-core")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

NATIVE = "native"
EMULATED = "emulated"
SLOWER = "slower"
UNUSABLE = "can't run"

# The instructions of x86 processors that multiply a dtype; without any of them each number is widened to float32.
_X86_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
# Below this share of float32's speed a dtype counts as slower.
_SLOWER = 0.8
_LONG_ENOUGH = 0.01
_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+).*\bextra\s*==\s*["'](?P<extra>[\w.-]+)["']""")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a device multiplies matrices in a dtype."""

    device: str
    dtype: str
    gflops: float | None
    """Floating-point operations a second, in units of 1e9; None where the dtype can't be multiplied."""
    status: str
    """One of the words above."""
    note: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device that torch can compute on."""

    name: str
    memory_free: int | None
    """Bytes; None where the system doesn't say."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine and its torch."""

    system: str
    torch: str
    kernels: tuple[str, ...]
    threads: int
    """The number of threads that torch uses on the CPU."""
    devices: dict[str, Device]
    """The devices by torch's names; the CPU is the first."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the toolkit, or one that an extra of it installs."""

    name: str
    version: str | None
    """None where it isn't installed."""
    extra: str | None
    """The extra of the toolkit that installs it; None for the toolkit's own."""


def read_machine() -> Machine:
    """Describe the machine without measuring anything."""
    processor = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
    return Machine(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        torch=str(torch.__version__),
        kernels=tuple(_kernels()),
        threads=torch.get_num_threads(),
        devices={"cpu": Device(processor, _memory_free()), **dict(_accelerators())},
    )


def measure(device: str) -> list[Speed]:
    """Measure how fast a device is in each dtype; this takes some tenths of a second."""
    speeds: list[Speed] = []
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        try:
            gflops = _gflops(torch.device(device), dtype)
        # Which error means that it can't depends on the device.
        except Exception as error:
            speeds.append(Speed(device, name, None, UNUSABLE, str(error).splitlines()[0]))
            continue
        ratio = gflops / (speeds[0].gflops or gflops) if speeds else 1.0
        speeds.append(Speed(device, name, gflops, *_verdict(device, dtype, ratio)))
    return speeds


def read_packages() -> list[Package]:
    """Return the toolkit's packages, and those that their extras install, each once: if several do, by core's extra."""
    packages = [Package(name, version_of(name), None) for name in PACKAGES]
    optional: dict[str, Package] = {}
    for owner in reversed(packages):
        for requirement in (importlib.metadata.requires(owner.name) or ()) if owner.version else ():
            match = _REQUIREMENT.match(requirement)
            # What tests need is left out, and the toolkit's own packages are listed already.
            if match and match["extra"] not in ("testing", "all") and not match["name"].startswith("chameleon-"):
                extra = f"{owner.name}[{match['extra']}]"
                optional.setdefault(match["name"], Package(match["name"], version_of(match["name"]), extra))
    return packages + sorted(optional.values(), key=lambda package: package.name)


def version_of(distribution: str) -> str | None:
    """Return the version that is installed, None where none is."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_free() -> int | None:
    """Return the memory that a program can allocate, by Linux's estimate, in bytes."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _kernels() -> Iterator[str]:
    yield f"{torch.backends.cpu.get_cpu_capability()} instructions"
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield "oneDNN"
    if torch.version.cuda is not None:
        yield f"CUDA {torch.version.cuda}"
    if torch.version.hip is not None:
        yield f"ROCm {torch.version.hip}"
    if version_of("triton") is not None:
        yield f"triton {version_of('triton')}"


def _accelerators() -> Iterator[tuple[str, Device]]:
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return
    name_of = getattr(torch.get_device_module(kind), "get_device_name", None)
    for index in range(torch.accelerator.device_count()):
        free, _ = torch.accelerator.get_memory_info(index)
        yield f"{kind.type}:{index}", Device(str(name_of(index)) if name_of else kind.type, free)


def _gflops(device: torch.device, dtype: torch.dtype) -> float:
    size = 256
    while True:
        matrix = torch.ones(size, size, device=device, dtype=dtype)
        _seconds(matrix)  # the first product chooses its kernel
        seconds = min(_seconds(matrix) for _ in range(3))
        if seconds > _LONG_ENOUGH or size >= 4096:
            return 2 * size**3 / seconds / 1e9
        size *= 2


def _seconds(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(matrix, matrix)
    if matrix.device.type != "cpu":
        torch.accelerator.synchronize(matrix.device)
    return time.perf_counter() - start


def _verdict(device: str, dtype: torch.dtype, ratio: float) -> tuple[str, str]:
    if dtype == torch.float32:
        return NATIVE, ""
    has = torch.cpu.get_capabilities()
    needed = _X86_INSTRUCTIONS.get(dtype, ())
    if device == "cpu" and has.get("architecture") == "x86_64" and not any(has.get(name) for name in needed):
        return EMULATED, f"{_compared(ratio)}: this processor has no instructions for it"
    if ratio < _SLOWER:
        return SLOWER, _compared(ratio)
    return NATIVE, _compared(ratio)


def _compared(ratio: float) -> str:
    return f"{ratio:.2g}× as fast as float32" if ratio >= 1 else f"{1 / ratio:.2g}× slower than float32"
