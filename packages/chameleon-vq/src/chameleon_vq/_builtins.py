"""The plugins of this package, registered through the same hook as third-party ones.

A quantizer's module has its options, its spec and the spec's functions, so that a new one adds a file and a line here.
"""

from __future__ import annotations

from .hookspecs import hookimpl
from .plugins import PluginSpec
from .quantizers import codebook, ema, fsq, lfq, residual, vector_quantize_pytorch


@hookimpl
def chameleon_vq_quantizers() -> list[PluginSpec]:
    """Return the built-in vector quantizers."""
    return [codebook.SPEC, ema.SPEC, fsq.SPEC, lfq.SPEC, residual.SPEC, vector_quantize_pytorch.SPEC]
