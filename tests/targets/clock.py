"""A clock for what waits: it stands still until somebody waits, and waiting takes no time.

A time-out then decides no test by how busy the machine is. Read on: stub.py, test_rsp.py.
"""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """What is needed of the module `time`; `monotonic` is in seconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._alarms: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.wait_until(self._now + seconds)

    def wait_until(self, moment: float) -> None:
        self._now = max(self._now, moment)
        due = [alarm for alarm in self._alarms if alarm[0] <= self._now]
        for alarm in due:
            self._alarms.remove(alarm)
            alarm[1]()

    def call_in(self, seconds: float, what: Callable[[], object]) -> None:
        """Once, when somebody has waited so long."""
        self._alarms.append((self._now + seconds, what))
