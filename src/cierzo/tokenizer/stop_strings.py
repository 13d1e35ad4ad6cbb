"""Stop strings across token borders: text that may become one is held back.

Knows text only; the engine never sees stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Cuts one answer at the first stop string; the stop string itself is not part of it."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(string for string in stop if string)
        self._held = ""
        self._stopped = False
        self.rest = ""
        """After a stop: what had already come behind the stop string."""

    def add(self, text: str) -> tuple[str, bool]:
        """(text that is safe to send, whether the answer ends here)."""
        if self._stopped:
            return "", True
        self._held += text
        found = [(at, len(s)) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            at, length = min(found)
            emit, self.rest = self._held[:at], self._held[at + length :]
            self._held, self._stopped = "", True
            return emit, True
        keep = self._longest_beginning_of_a_stop()
        emit = self._held[: len(self._held) - keep]
        self._held = self._held[len(emit) :]
        return emit, False

    def flush(self) -> str:
        """What was held back and did not become a stop string, once the answer is over."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning_of_a_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(string) for string in self._stop), default=0) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            ending = self._held[-length:]
            if any(string.startswith(ending) for string in self._stop):
                return length
        return 0
