"""The report of ``chameleon doctor``, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..checkpoints.folder_kinds import part_in
from ..errors import ChameleonCoreError
from ..threads import default_threads
from .choices import (
    CHOSEN,
    QUARANTINED,
    REFUSED,
    UNSUPPORTED,
    Choice,
    Model,
    choose_attention,
    choose_quantizer,
    quarantined,
    read_model,
)
from .machine import (
    EMULATED,
    NATIVE,
    SLOWER,
    UNUSABLE,
    Machine,
    Package,
    Speed,
    measure,
    read_machine,
    read_packages,
)
from .prompt import model_folder
from .publishers import missing_parts, publisher_of
from .rows import print_rows, size

STYLES = {CHOSEN: "bold", REFUSED: "yellow", UNSUPPORTED: "yellow", QUARANTINED: "red"}
SLOW = (EMULATED, SLOWER, UNUSABLE)

Row = tuple[str, str, str]
"""A name, a note and a style."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What is in a folder, whether or not it is a model."""

    path: str
    layout: str
    """Whose layout it has, or what it is."""
    missing: list[str]
    """What it lacks, and what to do."""
    unread: str | None
    """Why no model can be read from it; None where one is."""
    is_usable: bool
    """Whether it is a model, or a part that this toolkit takes."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the command reports."""

    machine: Machine
    speeds: list[Speed]
    packages: list[Package]
    folder: Folder | None
    model: Model | None
    attention_backends: list[Choice]
    weight_quantizers: list[Choice]
    quarantined: list[Choice]
    """Broken plugins of either kind."""


def examine(
    model: str | None, *, device: str, dtype: str | None, revision: str | None = None, subfolder: str | None = None
) -> Report:
    """Read and measure everything that the command reports."""
    folder, facts = None, None
    if model is not None:
        folder, facts = _read(model, model_folder(model, revision, subfolder), device=device, dtype=dtype)
    machine = read_machine()
    return Report(
        machine=machine,
        speeds=[speed for name in machine.devices for speed in measure(name)],
        packages=read_packages(),
        folder=folder,
        model=facts,
        attention_backends=choose_attention(facts),
        weight_quantizers=choose_quantizer(facts),
        quarantined=quarantined(),
    )


def _read(name: str, path: Path, *, device: str, dtype: str | None) -> tuple[Folder, Model | None]:
    """Return what is in the folder of a name, and the facts about the model in it; None where there is none."""
    layout, missing = publisher_of(path), list(missing_parts(path))
    try:
        model = read_model(name, path, device=device, dtype=dtype)
    except ChameleonCoreError as error:
        part = part_in(path)
        usable = part is not None and part.is_usable
        return Folder(str(path), layout, missing, str(error), usable), None
    return Folder(str(path), layout, missing, None, True), model


def show(report: Report, console: Console) -> None:
    """Print a report as text."""
    sections = {
        "machine": [*_about_machine(report.machine), *_about_speeds(report.speeds)],
        "packages": [_about_package(package) for package in report.packages],
        "folder": [] if report.folder is None else list(_about_folder(report.folder)),
        "model": [] if report.model is None else list(_about_model(report.model, report)),
        "attention backend": [_about_choice(choice) for choice in report.attention_backends],
        "weight quantizer": [_about_choice(choice) for choice in report.weight_quantizers],
        "quarantined": [_about_choice(choice) for choice in report.quarantined],
    }
    width = max(len(name) for rows in sections.values() for name, _, _ in rows)
    for title, rows in sections.items():
        if rows:
            console.print(f"[bold]{title}[/]")
            print_rows(console, rows, width=width)
            console.print()


def _about_machine(machine: Machine) -> Iterator[Row]:
    yield "system", machine.system, ""
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    yield "torch", ", ".join((machine.torch, threads, *machine.kernels)), ""
    for name, device in machine.devices.items():
        free = "" if device.memory_free is None else f", {size(device.memory_free)} of memory free"
        yield name, device.name + free, ""
    if len(machine.devices) == 1:
        yield "accelerator", "torch finds none", ""


def _about_speeds(speeds: list[Speed]) -> Iterator[Row]:
    for speed in speeds:
        said = []
        if speed.gflops is not None:
            said.append(f"{speed.gflops:.0f} GFLOP/s" if speed.gflops >= 100 else f"{speed.gflops:.2g} GFLOP/s")
        if speed.status != NATIVE:
            said.append(speed.status)
        if speed.note:
            said.append(speed.note)
        yield f"{speed.device} {speed.dtype}", ", ".join(said), "yellow" if speed.status in SLOW else ""


def _about_package(package: Package) -> Row:
    if package.version is not None:
        return package.name, package.version, ""
    return package.name, "not installed" + (f" ({package.extra})" if package.extra else ""), "dim"


def _about_folder(folder: Folder) -> Iterator[Row]:
    yield "path", folder.path, ""
    yield "layout", folder.layout, ""
    for clause in folder.missing:
        yield "", clause, "yellow"
    if folder.unread is not None and not folder.is_usable:
        yield "not read", folder.unread, "red"


def _about_model(model: Model, report: Report) -> Iterator[Row]:
    yield "name", model.name, ""
    heads = f"{model.num_heads} heads ({model.num_key_value_heads} of keys and values)"
    yield "layers", f"{model.num_layers}, {model.hidden_size} wide, {heads}", ""
    yield "weights", f"{size(model.num_bytes)} in {model.dtype} on {model.device}", ""
    threads = default_threads(model.num_bytes, model.device)
    if threads is not None:
        yield "", f"small: commands use {threads} thread, unless --threads or OMP_NUM_THREADS say otherwise", ""
    if model.interchange is not None:
        yield "in transformers", model.interchange, "yellow"
    devices = [device for name, device in report.machine.devices.items() if name.startswith(model.device)]
    free = devices[0].memory_free if devices else None
    if free is not None and model.num_bytes > free:
        yield "", f"more than the {size(free)} of free memory there", "yellow"
    for speed in report.speeds:
        if speed.device.startswith(model.device) and speed.dtype == model.dtype and speed.status in SLOW:
            yield "", f'{speed.dtype} is {speed.status} there: dtype="float32" converts the weights', "yellow"


def _about_choice(choice: Choice) -> Row:
    source = () if choice.distribution in (None, "chameleon-backends") else (f"{choice.distribution} {choice.version}",)
    # The quarantined have a section of their own.
    status = () if choice.status == QUARANTINED else (choice.status,)
    return choice.name, f"{', '.join((*source, *status))}: {choice.note}", STYLES.get(choice.status, "")
