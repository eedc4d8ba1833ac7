"""``chameleon plugins``: what is installed, and why what can't be used can't."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

PACKAGES = ("chameleon-vq", "chameleon-text", "chameleon-backends", "chameleon-core")

READY = "ready"
UNSUPPORTED = "can't run here"
QUARANTINED = "quarantined"
NONE = "none installed"
NOT_INSTALLED = "not installed"
BROKEN = "broken"
STYLES = {READY: "", NONE: "dim", UNSUPPORTED: "yellow", QUARANTINED: "red", NOT_INSTALLED: "yellow", BROKEN: "red"}


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """One plugin, or one package that has none to show."""

    package: str
    hook: str | None
    """None where the package can't be imported, or the plugin is quarantined."""
    kind: str | None
    name: str | None
    distribution: str | None
    version: str | None
    status: str
    """One of the words above."""
    note: str
    """What it is, or why it can't be used."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plugins)


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON in place of a table.")] = False,
) -> None:
    """List every plugin of the toolkit's packages, and say why one can't be used."""
    from chameleon_backends.plugins import ENVIRONMENT_VARIABLE

    listed = [each for package in PACKAGES for each in _listed(package)]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in listed], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    names, sources, _ = zip(*map(_cells, listed), strict=True)
    widths = [max(map(len, names)), max(map(len, sources))]
    for package in PACKAGES:
        _print_package(console, package, [each for each in listed if each.package == package], widths)
    if ENVIRONMENT_VARIABLE in os.environ:
        console.print(f"{ENVIRONMENT_VARIABLE}={os.environ[ENVIRONMENT_VARIABLE]!r} restricts what is loaded.")


def _listed(package: str) -> list[Listed]:
    module = package.replace("-", "_")
    try:
        importlib.import_module(module)
        registry = importlib.import_module(f"{module}.registry").REGISTRY
    except ModuleNotFoundError as error:
        if error.name == module:
            note = f"From the toolkit's folder: python -m pip install ./packages/{package}"
            return [Listed(package, None, None, None, None, None, NOT_INSTALLED, note)]
        return [_broken(package, error)]
    except Exception as error:  # whatever is wrong with one package, the others are listed
        return [_broken(package, error)]
    with warnings.catch_warnings():
        # The warnings about quarantined plugins say what this list does.
        warnings.simplefilter("ignore")
        quarantined = registry.quarantined()
    found = [each for hook in registry.kinds for each in _usable(package, registry, hook)]
    return found + [
        Listed(package, None, None, bad.plugin, bad.distribution, bad.version, QUARANTINED, bad.reason)
        for bad in quarantined
    ]


def _usable(package: str, registry: Any, hook: str) -> list[Listed]:
    kind = registry.kinds[hook]
    registered = registry.registered(hook)
    if not registered:
        return [Listed(package, hook, kind, None, None, None, NONE, "")]
    return [
        Listed(
            package,
            hook,
            kind,
            each.spec.name,
            each.distribution,
            each.version,
            READY if (reason := each.unsupported()) is None else UNSUPPORTED,
            each.spec.summary if reason is None else reason,
        )
        for each in registered
    ]


def _broken(package: str, error: Exception) -> Listed:
    return Listed(package, None, None, None, None, None, BROKEN, f"{type(error).__name__}: {error}")


def _print_package(console: Console, package: str, listed: list[Listed], widths: list[int]) -> None:
    console.print(f"[bold]{package}[/]")
    for heading, group in itertools.groupby(listed, _heading):
        console.print(f"  {heading}", style=STYLES.get(heading, "dim"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=2)
        for width in widths:
            table.add_column(min_width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for each in group:
            if each.name is not None:
                table.add_row("", *_cells(each), style=STYLES[each.status])
            elif each.note:
                console.print(f"    {each.note}")
        if table.row_count:
            console.print(table)
    console.print()


def _heading(each: Listed) -> str:
    if each.hook is None:
        return each.status
    return f"{each.hook}: {each.kind}" + (f", {NONE}" if each.status == NONE else "")


def _cells(each: Listed) -> tuple[str, str, Text]:
    # Text, because a note may hold what looks like rich's markup.
    note = f"{each.status}: {each.note}" if each.status == UNSUPPORTED else each.note
    return each.name or "", f"{each.distribution} {each.version}" if each.distribution else "", Text(note)
