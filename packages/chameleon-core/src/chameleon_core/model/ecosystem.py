"""The arguments that ``from_pretrained`` has in other libraries, and what replaces them here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ..errors import ArgumentError

ECOSYSTEM_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "torch_dtype": "use dtype.",
        "device_map": "use device, which puts the whole model on one device.",
        "low_cpu_mem_usage": "leave it out; weights are always memory-mapped and never held twice.",
        "quantization_config": "use quantization, with a name such as 'bnb-nf4' or a Quantization.",
        "load_in_4bit": "use quantization='int4' or quantization='bnb-nf4'.",
        "load_in_8bit": "use quantization='int8' or quantization='bnb-int8'.",
    }
)
"""What replaces each argument, as a clause for an error message."""


ARGUMENTS = ("dtype", "device", "attn_implementation", "quantization", "check_finite")
"""The keyword arguments of ``from_pretrained``."""


def refuse_arguments(names: Iterable[str]) -> None:
    """Raise ``ArgumentError`` for the first of these arguments, which ``from_pretrained`` doesn't have."""
    for name in names:
        close = difflib.get_close_matches(name, ARGUMENTS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The arguments are {', '.join(ARGUMENTS)}."
        clause = f": {ECOSYSTEM_ARGUMENTS[name]}" if name in ECOSYSTEM_ARGUMENTS else f". {hint}"
        raise ArgumentError(f"from_pretrained() has no argument {name!r}{clause}")
