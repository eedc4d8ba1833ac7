"""Stop strings as OpenAI's API has them: the text ends before the first of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes the text of one row on, as far as no stop string may begin in it, and nothing from one on."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_over = False

    def push(self, text: str) -> str:
        """Return what may be sent of the text so far."""
        if self.is_over:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_over = True
            sent, self._held = self._held[: min(found)], ""
            return sent
        kept = max((self._beginning(stop) for stop in self._stops), default=0)
        cut = len(self._held) - kept
        sent, self._held = self._held[:cut], self._held[cut:]
        return sent

    def flush(self) -> str:
        """Return what was held back, where no text follows."""
        sent, self._held = self._held, ""
        return sent

    def _beginning(self, stop: str) -> int:
        """Return the length of the longest beginning of a stop string that the text ends with."""
        lengths = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((length for length in lengths if self._held.endswith(stop[:length])), 0)
