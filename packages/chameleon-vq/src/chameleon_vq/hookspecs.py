"""The hooks of this package. A plugin implements one or more of them and is found by its entry point.

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
"""Grows when a hook's contract changes so that plugins written for it would break."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def chameleon_vq_quantizers() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Vector quantizers, chosen by ``ChameleonVQVAEConfig.quantizer``.

    ``factory(config: ChameleonVQVAEConfig)`` gives an ``nn.Module`` that keeps the contract of
    ``chameleon_vq.quantizers.VectorQuantizer``; its own settings are in ``config.quantizer_options``. It is called on
    torch's meta device too, where weights are checked against files before they are read.
    ``unsupported(config)`` says why a configuration can't be served.
    """


@hookspec
def chameleon_vq_pretrained() -> Iterable[PluginSpec]:  # type: ignore[empty-body]
    """Named image tokenizers, chosen by ``ImageTokenizer.from_pretrained(name)``.

    ``factory()`` gives the path of a folder that ``ImageTokenizer.from_pretrained`` reads, so that a package of
    data needs no code beyond its hook. ``unavailable()`` says why it isn't available here.
    """
