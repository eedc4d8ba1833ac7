"""What a worker of a loader does, in a module that a new process can import."""

from __future__ import annotations

from typing import Any


class Collate:
    """A batch of texts, made in a worker."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        return dict(self.processor(text=texts, padding=True, return_tensors="pt"))
