# Vendored. Source: packages/chameleon-backends. `nox -s vendor` copies it, tests/boundaries/test_source.py compares.
"""Plugins: find them, check them, and keep a bad one from stopping a command that doesn't need it.

Built-ins and third-party plugins go through the same pluggy hooks. A hook returns light frozen specs, so that listing
plugins imports nothing heavy. A plugin that can't be used is quarantined with its reason, never raised at random.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec
import pluggy

from ._entry_points import FoundEntryPoint, entry_points, normalized, version_of
from ._specs import LazyCallable, PluginSpec, always_available, always_supported, convert, resolve, wrong_field
from .errors import BrokenPluginError, UnknownPluginError
from .plugin_calls import printing_to_stderr, said

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "LazyCallable",
    "PluginRegistry",
    "PluginSpec",
    "PluginWarning",
    "Quarantined",
    "Registered",
    "always_available",
    "always_supported",
    "resolve",
]

ENVIRONMENT_VARIABLE = "CHAMELEON_PLUGINS"
CHANGES = {
    1: "A spec of version 2 says in unavailable() why the plugin can't run on this machine, which unsupported(None) "
    "did before; unsupported(request) always gets a request. Move that answer to unavailable, and state api_version 2."
}
"""What a plugin of an older version has to change, by that version."""


class PluginWarning(UserWarning):
    """A plugin isn't used, or a name of a plugin means two things or none."""


class Registered(msgspec.Struct, frozen=True):
    """A usable spec and the distribution that it came from."""

    hook: str
    """The name of the hook that returned the spec."""
    spec: PluginSpec
    """The spec, of the hook's class."""
    distribution: str
    """The name of the distribution that it came from."""
    version: str
    """The version of that distribution."""

    def why_unavailable(self) -> str | None:
        """Return why this plugin can't run on this machine, None where it can.

        For listings: a check that fails is a reason too, so that one plugin's mistake doesn't hide the others.
        """
        return self._answer(self.spec.why_unavailable)

    def why_unsupported(self, request: Any) -> str | None:
        """Return why this plugin can't serve a request on this machine, None where it can.

        For listings, as ``why_unavailable`` is.
        """
        return self._answer(self.spec.why_unsupported, request)

    def _answer(self, ask: Callable[..., str | None], *request: Any) -> str | None:
        try:
            return ask(*request)
        except BrokenPluginError as error:
            return str(error)
        except Exception as error:
            return f"its own check failed: {said(error)}"


class Quarantined(msgspec.Struct, frozen=True):
    """A plugin that is installed and not used, and why."""

    plugin: str
    """The name of its entry point."""
    distribution: str
    """The name of the distribution that it came from."""
    version: str
    """The version of that distribution."""
    reason: str
    """What is wrong with it."""
    names: tuple[str, ...]
    """What it would be asked for by: the name of its entry point, and those of its specs as far as they are known."""
    cause: BaseException | None = None
    """What it raised; None where it raised nothing."""


class _Source(msgspec.Struct, frozen=True):
    """Where a plugin comes from."""

    plugin: str
    distribution: str
    version: str


class PluginRegistry:
    """The plugins of one package: one pluggy project, one entry-point group of the same name.

    ``hookspecs`` is the module with the hook specifications, ``kinds`` names what each hook returns ("attention
    backend"), ``spec_types`` has the class of its specs where that isn't ``PluginSpec`` itself, and ``builtins`` are
    the package's own plugins. Nothing is loaded before the first look-up.

    A spec is known by its fields. What the registry returns is always of the hook's class, and its fields can be
    called, whatever the plugin used.
    """

    def __init__(
        self,
        project: str,
        *,
        distribution: str,
        hookspecs: ModuleType,
        kinds: Mapping[str, str],
        api_version: int,
        builtins: Sequence[object],
        spec_types: Mapping[str, type[PluginSpec]] = MappingProxyType({}),
    ) -> None:
        self.project = project
        self.distribution = distribution
        self.kinds = dict(kinds)
        self.api_version = api_version
        self._spec_types = dict(spec_types)
        self._hookspecs = hookspecs
        self._builtins = tuple(builtins)
        self._registered: dict[str, dict[str, Registered]] | None = None
        self._quarantined: list[Quarantined] = []
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"PluginRegistry({self.project!r}, hooks: {', '.join(self.kinds)})"

    def get(self, hook: str, name: str) -> PluginSpec:
        """Return the spec called ``name``.

        Raises ``BrokenPluginError`` where a quarantined plugin has that name, ``UnknownPluginError`` where none has.
        """
        return self.find(hook, name).spec

    def find(self, hook: str, name: str) -> Registered:
        """Return the spec called ``name`` with the distribution that it is from. Raises what ``get`` raises."""
        known = self._load()[hook]
        if name in known:
            return known[name]
        for bad in self.quarantined():
            if name in bad.names:
                owner = f"{bad.distribution} {bad.version}"
                raise BrokenPluginError(
                    f"the {self.kinds[hook]} {name!r} of {owner} can't be used: {bad.reason.rstrip('.')}."
                ) from bad.cause
        message = f"no {self.kinds[hook]} named {name!r}. Installed: {_by_distribution(known.values())}."
        if self._quarantined:
            bad_ones = (f"{bad.plugin} ({bad.distribution} {bad.version})" for bad in self._quarantined)
            message += f" Installed but broken: {', '.join(bad_ones)}."
        if ENVIRONMENT_VARIABLE in os.environ:
            message += f" {ENVIRONMENT_VARIABLE}={os.environ[ENVIRONMENT_VARIABLE]!r} restricts what is loaded."
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            message += f" Did you mean {close[0]!r}?"
        raise UnknownPluginError(message)

    def warn_of_hidden(self, hook: str, name: object) -> None:
        """Warn where a bare name, which a folder in the working directory has, is that of an installed folder, too."""
        hidden = self._load()[hook].get(name) if isinstance(name, str) else None
        if hidden is None:
            return
        with contextlib.suppress(BrokenPluginError):
            if hidden.spec.make_folder().samefile(hidden.spec.name):
                return
        warnings.warn(
            f"{name!r} is the folder {Path(hidden.spec.name).absolute()}, which is used, and {hidden.spec.called}. "
            f"Pass './{name}' for the folder; rename it, or work elsewhere, for what is installed.",
            PluginWarning,
            stacklevel=4,
        )

    def registered(self, hook: str) -> tuple[Registered, ...]:
        """Return every usable plugin of a hook, built-ins first."""
        return tuple(self._load()[hook].values())

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Return every plugin that is installed and can't be used."""
        self._load()
        return tuple(self._quarantined)

    def reload(self) -> None:
        """Forget what was found, so that the next look-up searches again (a package was installed meanwhile)."""
        with self._lock:
            self._registered = None
            self._quarantined = []

    def _load(self) -> dict[str, dict[str, Registered]]:
        with self._lock:
            if self._registered is None:
                self._registered = {hook: {} for hook in self.kinds}
                try:
                    notes = self._find()
                except BaseException:  # an interruption; the next look-up searches again
                    self.reload()
                    raise
                # Last: a warning may be raised as an error, and the plugins must be registered by then.
                for bad in self._quarantined:
                    notes.append(f"plugin {bad.plugin!r} of {bad.distribution} {bad.version} is not used: {bad.reason}")
                for note in notes:
                    warnings.warn(note, PluginWarning, stacklevel=3)
            return self._registered

    def _find(self) -> list[str]:
        """Register the built-ins, then the plugins of other distributions; return what to warn of."""
        own = _Source(self.project, self.distribution, version_of(self.distribution))
        for builtin in self._builtins:
            self._admit(own, lambda builtin=builtin: builtin)  # type: ignore[misc]
        family, setting = self.project.partition("_")[0], os.environ.get(ENVIRONMENT_VARIABLE)
        installed = entry_points(f"{family}_")
        wanted = None if setting is None else {normalized(part) for part in setting.split(",") if part.strip()}
        for found in installed:
            if found.group == self.project and (wanted is None or wanted & found.names):
                self._admit(_Source(found.name, found.distribution, found.version), found.load)
        return [] if wanted is None else _unmatched(wanted, installed)

    def _admit(self, source: _Source, load: Callable[[], object]) -> None:
        """Load one plugin and register all its specs, or quarantine it."""
        returned: list[tuple[str, Any]] = []
        usable: list[Registered] = []
        names = [source.plugin]
        reason, cause = None, None
        try:
            # What it prints goes to stderr: stdout is for what a command makes.
            with printing_to_stderr():
                for hook, spec in self._specs(load()):
                    returned.append((hook, spec))
                    if isinstance(getattr(spec, "name", None), str):
                        names.append(spec.name)
                reason = self._refusal(returned)
                if reason is None:
                    usable = [self._usable(hook, spec, source) for hook, spec in returned]
        except (KeyboardInterrupt, GeneratorExit):
            raise
        # Whatever else it raises, sys.exit() and panics of Rust too, may stop no command that doesn't need it.
        except BaseException as error:
            reason, cause = said(error), error
        if reason is not None:
            bad = Quarantined(source.plugin, source.distribution, source.version, reason, tuple(names), cause)
            self._quarantined.append(bad)
        assert self._registered is not None
        for plugin in usable:
            self._registered[plugin.hook][plugin.spec.name] = plugin

    def _specs(self, plugin: object) -> Iterator[tuple[str, Any]]:
        # A separate manager for each plugin, so that what pluggy reports is about this plugin.
        manager = pluggy.PluginManager(self.project)
        manager.add_hookspecs(self._hookspecs)
        manager.register(plugin)
        manager.check_pending()
        callers = [caller for caller in manager.get_hookcallers(plugin) or () if caller.name in self.kinds]
        if not callers:
            raise TypeError(f"none of its functions is marked with the hookimpl of {self.project}")
        for caller in callers:
            results = caller()
            if not results:  # pluggy leaves out what returned None
                raise TypeError(f"{caller.name} returned None; it must return a list of PluginSpec")
            for spec in results[0]:
                yield caller.name, spec

    def _refusal(self, specs: Sequence[tuple[str, Any]]) -> str | None:
        assert self._registered is not None
        seen: set[tuple[str, str]] = set()
        for hook, spec in specs:
            reason = self._wrong_version(hook, spec) or wrong_field(spec, self._spec_type(hook), hook)
            if reason is not None:
                return reason
            owner = self._registered[hook].get(spec.name)
            if owner is not None:
                return f"the {self.kinds[hook]} {spec.name!r} exists already ({owner.distribution} {owner.version})"
            if (hook, spec.name) in seen:
                return f"it names the {self.kinds[hook]} {spec.name!r} twice"
            seen.add((hook, spec.name))
        return None

    def _wrong_version(self, hook: str, spec: Any) -> str | None:
        found = getattr(spec, "api_version", self.api_version)
        if found == self.api_version or type(found) is not int:
            return None
        reason = (
            f"{getattr(spec, 'name', hook)!r} was written for version {found} of the {self.project} hooks; "
            f"this is version {self.api_version}."
        )
        if found > self.api_version:
            return f"{reason} It needs a newer {self.distribution}."
        return " ".join((reason, *(CHANGES[old] for old in sorted(CHANGES) if found <= old < self.api_version)))

    def _usable(self, hook: str, spec: Any, source: _Source) -> Registered:
        plugin = f"the {self.kinds[hook]} {spec.name!r} of {source.distribution} {source.version}"
        return Registered(hook, convert(spec, self._spec_type(hook), plugin), source.distribution, source.version)

    def _spec_type(self, hook: str) -> type[PluginSpec]:
        return self._spec_types.get(hook, PluginSpec)


def _unmatched(wanted: Iterable[str], installed: Sequence[FoundEntryPoint]) -> list[str]:
    """Return a sentence for each wanted name that nothing installed has, in any of the toolkit's groups."""
    known = sorted({name for each in installed for name in each.names})
    sentences = []
    for name in sorted(set(wanted) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Installed: {', '.join(known) or 'none'}."
        sentences.append(
            f"{ENVIRONMENT_VARIABLE} has {name!r}, which is no installed plugin and no distribution with one. {hint}"
        )
    return sentences


def _by_distribution(plugins: Iterable[Registered]) -> str:
    names: dict[str, list[str]] = {}
    for plugin in plugins:
        names.setdefault(f"{plugin.distribution} {plugin.version}", []).append(plugin.spec.name)
    return ", ".join(f"{', '.join(group)} ({owner})" for owner, group in names.items()) or "none"
