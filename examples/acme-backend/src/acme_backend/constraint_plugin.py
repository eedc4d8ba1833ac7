"""Registers the logits processor. Listing processors imports this module only, so it stays light."""

from __future__ import annotations

from importlib.util import find_spec

from chameleon_core import HOOK_API_VERSION, LogitsProcessorSpec, hookimpl
from chameleon_core.generation import RowView


def unavailable() -> str | None:
    """Return why it can't run on this machine, in a sentence; None where it can."""
    return None if find_spec("regex") else "the package regex is missing: pip install 'acme-backend[regex]'"


def unsupported(row: RowView) -> str | None:
    """Return why a row can't be served, in a sentence; None where it can."""
    if row.tokenizer is None:
        return "acme-regex matches text, and the request has no tokenizer"
    return "acme-regex needs a model with a vocabulary_map" if row.layout is None else None


@hookimpl
def chameleon_core_logits_processors() -> list[LogitsProcessorSpec]:
    """What this package adds."""
    return [
        LogitsProcessorSpec(
            name="acme-regex",
            factory="acme_backend.constraint:RegexConstraint",  # imported when it is asked for
            api_version=HOOK_API_VERSION,
            summary="new text that matches a regular expression",
            kinds=frozenset({"text"}),
            unavailable=unavailable,
            unsupported=unsupported,
        )
    ]
