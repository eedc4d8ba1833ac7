"""The hooks of this package. A plugin implements one or more of them, and is found by its entry point.

In a plugin's ``pyproject.toml``::

    [project.entry-points.chameleon_vq]
    acme = "acme_vq.plugin"

and in ``acme_vq/plugin.py``::

    from chameleon_vq import HOOK_API_VERSION, PluginSpec, hookimpl

    def make(config):
        from .quantizer import AcmeQuantizer    # heavy modules only here
        return AcmeQuantizer(config)

    @hookimpl
    def chameleon_vq_quantizers():
        return [PluginSpec(name="acme", factory=make, api_version=HOOK_API_VERSION)]
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from .plugins import PluginSpec

PROJECT = "chameleon_vq"
HOOK_API_VERSION = 2
"""The version of the hooks' contracts. It is raised when a contract changes in a way that breaks plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def chameleon_vq_quantizers() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return vector quantizers, chosen by ``ChameleonVQVAEConfig.quantizer``.

    ``factory(config: ChameleonVQVAEConfig)`` returns an ``nn.Module`` that keeps the contract of
    ``chameleon_vq.VectorQuantizer``; its options are in ``config.quantizer_options``. It is called on torch's meta
    device too, because weights are compared with files before they are read. ``unsupported(config)`` returns why it
    can't serve a configuration, for instance an unknown option, or None.
    """


@hookspec
def chameleon_vq_pretrained() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Return named image tokenizers, chosen by ``ImageTokenizer.from_pretrained(name)``.

    ``factory()`` returns the path of a folder that ``ImageTokenizer.from_pretrained`` reads, so a package of data needs
    no code beyond its hook. ``unavailable()`` returns why it isn't available here, or None.
    """
