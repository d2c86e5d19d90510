"""How often, and after which pause, an engine begins anew whose step has failed."""

from __future__ import annotations

PAUSES_S = (0.0, 0.1, 0.5, 2.0, 10.0)


class Restarts:
    """Counts failures in a row; an answer that is completed ends the row.

    So a request that makes the engine fail now and then never ends it for the others, while an engine that
    can answer nobody stops trying after `len(pauses_s)` restarts.

    Args:
        pauses_s: Seconds before the first restart of a row, the second, ...; none never restarts.
    """

    def __init__(self, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self.num_total = 0
        self.last_error: str | None = None
        self._pauses_s = pauses_s
        self._num_in_row = 0

    def note_success(self) -> None:
        """An answer was completed."""
        self._num_in_row = 0

    def pause_after(self, error: Exception) -> float | None:
        """Seconds to wait before the engine begins anew; None if it is not to."""
        self.last_error = type(error).__name__
        if self._num_in_row >= len(self._pauses_s):
            return None
        self._num_in_row += 1
        self.num_total += 1
        return self._pauses_s[self._num_in_row - 1]
