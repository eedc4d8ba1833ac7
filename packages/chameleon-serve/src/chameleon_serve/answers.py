"""What answers have in common: their id, when they were made, by which model, and what they cost."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer."""

    model: str
    """The name of the model."""
    prefix: str
    """What its id begins with."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    """The rest of its id."""
    created: int = field(default_factory=lambda: int(time.time()))
    """When it was begun, in seconds since 1970."""

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that it begins with."""
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}


def usage(prompt_tokens: int, written: int) -> dict[str, int]:
    """Return the count of tokens, those of pictures included."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }
