"""``chameleon plugins``: what is installed, and why some of it can't be used."""

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

from .rows import print_rows
from .terminal import echo, printable

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
    """A plugin, or a package that has none to list."""

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
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """List every plugin of the toolkit's packages, and say why one can't be used."""
    from chameleon_backends.plugins import ENVIRONMENT_VARIABLE

    listed = [each for package in PACKAGES for each in _listed(package)]
    if as_json:
        echo(json.dumps([dataclasses.asdict(each) for each in listed], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    width = max(len(each.name or "") for each in listed)
    for package in PACKAGES:
        _print_package(console, package, [each for each in listed if each.package == package], width)
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
        # The warnings about quarantined plugins repeat what this list says.
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
            READY if (reason := each.why_unavailable()) is None else UNSUPPORTED,
            each.spec.summary if reason is None else reason,
        )
        for each in registered
    ]


def _broken(package: str, error: Exception) -> Listed:
    return Listed(package, None, None, None, None, None, BROKEN, f"{type(error).__name__}: {error}")


def _print_package(console: Console, package: str, listed: list[Listed], width: int) -> None:
    own = next((f" {each.version}" for each in listed if each.distribution == package), "")
    console.print(f"[bold]{package}[/]{own}")
    for heading, group in itertools.groupby(listed, _heading):
        console.print(f"  {heading}", style=STYLES.get(heading, "dim"))
        rows = list(group)
        print_rows(console, ((each.name, _note(each), STYLES[each.status]) for each in rows if each.name), width=width)
        for each in rows:
            if each.name is None and each.note:
                console.print(f"    {printable(each.note)}", markup=False)
    console.print()


def _heading(each: Listed) -> str:
    if each.hook is None:
        return each.status
    return f"{each.hook}: {each.kind}" + (f", {NONE}" if each.status == NONE else "")


def _note(each: Listed) -> str:
    """Return where a third-party plugin is from, and what it is or why it can't be used."""
    source = [] if each.distribution == each.package else [f"{each.distribution} {each.version}"]
    status = [UNSUPPORTED] if each.status == UNSUPPORTED else []
    said = ", ".join(source + status)
    return f"{said}: {each.note}" if said else each.note
