"""Plugins: find them, check them, and keep a bad one from stopping a command that doesn't need it.

Built-ins and third parties go through the same pluggy hooks. A hook returns light frozen specs, so that listing
plugins imports nothing heavy. A plugin that can't be used is quarantined with its reason, never raised at random.

This module is the same file in every package that owns hooks, so that each package installs alone;
a test holds the copies identical.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec
import pluggy

from .errors import BrokenPluginError, UnknownPluginError

ENVIRONMENT_VARIABLE = "CHAMELEON_PLUGINS"


class PluginWarning(UserWarning):
    """A plugin was quarantined."""


def always_supported(request: Any) -> str | None:
    """The default of ``PluginSpec.unsupported``: runs everywhere."""
    return None


class PluginSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook returns: the name of one thing and how to make it.

    ``factory`` makes the object; each hook documents its arguments. ``unsupported(request)`` returns None where the
    plugin can serve the request and a sentence why not where it can't; it doesn't raise. A request of None asks whether
    the plugin can run on this machine at all. ``api_version`` is the version of the hook's contract that the plugin was
    written for.
    """

    name: str
    factory: Callable[..., Any]
    api_version: int
    summary: str = ""
    unsupported: Callable[[Any], str | None] = always_supported


class Registered(msgspec.Struct, frozen=True):
    """A usable spec and the distribution that it came from."""

    hook: str
    spec: PluginSpec
    distribution: str
    version: str

    def unsupported(self, request: Any = None) -> str | None:
        """Why this plugin can't serve a request, or with None can't run on this machine; None where it can.

        For listings: a check that fails is a reason too, so that one plugin's mistake doesn't hide the others.
        """
        try:
            return self.spec.unsupported(request)
        except Exception as error:
            return f"its own check failed: {type(error).__name__}: {error}"


class Quarantined(msgspec.Struct, frozen=True):
    """A plugin that is installed and not used, and why. ``names`` is what it would be asked for by."""

    plugin: str
    distribution: str
    version: str
    reason: str
    names: tuple[str, ...]
    cause: BaseException | None = None


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

    def get(self, hook: str, name: str) -> PluginSpec:
        """The spec called ``name``.

        Raises ``BrokenPluginError`` where a quarantined plugin has that name, ``UnknownPluginError`` where none has.
        """
        known = self._load()[hook]
        if name in known:
            return known[name].spec
        for bad in self.quarantined():
            if name in bad.names:
                raise BrokenPluginError(
                    f"the {self.kinds[hook]} {name!r} of {bad.distribution} {bad.version} can't be used: {bad.reason}"
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

    def registered(self, hook: str) -> tuple[Registered, ...]:
        """Every usable plugin of a hook, built-ins first."""
        return tuple(self._load()[hook].values())

    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every plugin that is installed and can't be used."""
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
                own = _Source(self.project, self.distribution, _version(self.distribution))
                for builtin in self._builtins:
                    self._admit(own, lambda builtin=builtin: builtin)  # type: ignore[misc]
                for entry_point in self._entry_points():
                    self._admit(_source(entry_point), entry_point.load)
                # Last, because a warning may be an error, and the plugins are known all the same.
                for bad in self._quarantined:
                    warnings.warn(
                        f"plugin {bad.plugin!r} of {bad.distribution} {bad.version} is not used: {bad.reason}",
                        PluginWarning,
                        stacklevel=3,
                    )
            return self._registered

    def _entry_points(self) -> Iterator[importlib.metadata.EntryPoint]:
        allowed = os.environ.get(ENVIRONMENT_VARIABLE)
        names = None if allowed is None else {part.strip() for part in allowed.split(",")}
        for entry_point in sorted(importlib.metadata.entry_points(group=self.project), key=lambda each: each.name):
            if names is None or names & {entry_point.name, _source(entry_point).distribution}:
                yield entry_point

    def _admit(self, source: _Source, load: Callable[[], object]) -> None:
        """Load one plugin and take all its specs, or quarantine it whole."""
        specs: list[tuple[str, PluginSpec]] = []
        try:
            specs.extend(self._specs(load()))
            reason = self._refusal(specs)
            cause = None
        # Any exception, a sys.exit() too: the module is a stranger's, and may stop no command that doesn't need it.
        except (Exception, SystemExit) as error:
            reason, cause = f"{type(error).__name__}: {error}", error
        if reason is None:
            assert self._registered is not None
            for hook, spec in specs:
                self._registered[hook][spec.name] = Registered(hook, spec, source.distribution, source.version)
            return
        names = (source.plugin, *(spec.name for _, spec in specs if isinstance(spec, PluginSpec)))
        self._quarantined.append(Quarantined(source.plugin, source.distribution, source.version, reason, names, cause))

    def _specs(self, plugin: object) -> Iterator[tuple[str, PluginSpec]]:
        # A manager of its own for each plugin: what pluggy says is wrong is then wrong with this plugin.
        manager = pluggy.PluginManager(self.project)
        manager.add_hookspecs(self._hookspecs)
        manager.register(plugin)
        manager.check_pending()
        callers = [caller for caller in manager.get_hookcallers(plugin) or () if caller.name in self.kinds]
        if not callers:
            raise TypeError(f"no function in it is marked with the hookimpl of {self.project}")
        for caller in callers:
            results = caller()
            if not results:  # pluggy leaves out what returned None
                raise TypeError(f"{caller.name} returned None, not an iterable of PluginSpec")
            for spec in results[0]:
                yield caller.name, spec

    def _refusal(self, specs: Sequence[tuple[str, PluginSpec]]) -> str | None:
        assert self._registered is not None
        seen: set[tuple[str, str]] = set()
        for hook, spec in specs:
            wanted = self._spec_types.get(hook, PluginSpec)
            if not isinstance(spec, wanted):
                return f"{hook} must return {wanted.__name__} objects, not {type(spec).__name__}"
            if not isinstance(spec.name, str) or not spec.name:
                return f"{hook} must return specs whose name is a string, not {spec.name!r}"
            if spec.api_version != self.api_version:
                return (
                    f"{spec.name!r} was written for version {spec.api_version} of the {self.project} hooks; "
                    f"this is version {self.api_version}"
                )
            owner = self._registered[hook].get(spec.name)
            if owner is not None:
                return f"the {self.kinds[hook]} {spec.name!r} exists already ({owner.distribution} {owner.version})"
            if (hook, spec.name) in seen:
                return f"it names the {self.kinds[hook]} {spec.name!r} twice"
            seen.add((hook, spec.name))
        return None


def _source(entry_point: importlib.metadata.EntryPoint) -> _Source:
    if entry_point.dist is None:
        return _Source(entry_point.name, entry_point.value, "unknown")
    return _Source(entry_point.name, entry_point.dist.name, entry_point.dist.version)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _by_distribution(plugins: Iterable[Registered]) -> str:
    names: dict[str, list[str]] = {}
    for plugin in plugins:
        names.setdefault(f"{plugin.distribution} {plugin.version}", []).append(plugin.spec.name)
    return ", ".join(f"{', '.join(group)} ({owner})" for owner, group in names.items()) or "none"
