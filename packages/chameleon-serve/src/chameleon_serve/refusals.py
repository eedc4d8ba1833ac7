"""What no client may ask for, by name: options that open files, load models, or that the engine hasn't."""

from __future__ import annotations

from typing import Any

DECODING = ("plain", "jacobi", "lookup", "beam")
"""The decoding strategies that open no file."""
PROCESSORS = frozenset(
    {
        *("repetition-penalty", "no-repeat-ngrams", "forbidden-ids", "sequence-bias", "likelier-end"),
        *("forbidden-first", "forced-ids", "min-new-tokens", "temperature", "top-k", "top-p", "min-p", "typical"),
        *("epsilon", "eta", "top-h"),
    }
)
"""The logits processors of chameleon-core; a plugin's options may name files."""
MAX_BEAMS = 16
"""How many beams a request may ask for: each is a lane of the cache."""
MAX_ENTRIES = 4096
"""How many entries a list of the options may have, for example biases."""


def refused_options(name: str, value: Any, engine: str) -> str | None:
    """Return why this server doesn't take a value of an option; None where it does."""
    if name == "cache_implementation" and value != "dynamic":
        return "cache_implementation is the server's to choose: its engine has one cache for all requests."
    if name == "decoding":
        asked = value.get("name") if isinstance(value, dict) else value
        if asked not in DECODING:
            return f"decoding {asked!r:.60} isn't offered; take one of {', '.join(DECODING)}."
        if asked != "plain" and engine == "vllm":
            return "decoding isn't offered on vLLM, which decodes plainly."
        beams = value.get("num_beams") if isinstance(value, dict) else None
        if isinstance(beams, int) and beams > MAX_BEAMS:
            return f"num_beams is {beams}; this server runs at most {MAX_BEAMS}."
    if name == "logits_processors" and isinstance(value, list | tuple):
        names = [each.get("name") if isinstance(each, dict) else each for each in value]
        other = [each for each in names if each not in PROCESSORS]
        if other:
            return f"the logits processor {other[0]!r:.60} isn't offered; take one of {', '.join(sorted(PROCESSORS))}."
    if isinstance(value, list | tuple) and name != "fixed_codes" and len(value) > MAX_ENTRIES:
        return f"{name} has {len(value):,} entries; this server takes at most {MAX_ENTRIES:,}."
    return None


def always_refused(engine: str) -> dict[str, str]:
    """Return the options of which only the default is taken, with the reason, for the description of the model."""
    tried: dict[str, Any] = {"cache_implementation": "int8", "decoding": "jacobi"}
    reasons = {name: refused_options(name, value, engine) for name, value in tried.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}
