"""How many threads a pool uses while other programs keep the cores busy.

On a crowded machine the system lets a thread run for some milliseconds and then another program. A worker
that is stopped in the middle of a piece makes the caller wait that long, and a step of a small model is
hundreds of kernels of 20 µs. Such a step takes ten times as long as on one thread, on which it would only
share its core.

The rule: where the caller has waited longer than it has worked, half as many threads would not have taken
longer. So a pool adds up how much longer it waited in its kernels than it worked, never below 0. Beyond
LIMIT it uses half as many threads for a pause, then tries twice as many again; the pause doubles, up to
LONGEST, while the trials fail. Long pieces never get there: their work outweighs a wait of milliseconds.

Prediction: with all cores taken by other programs, a trial costs LIMIT and one time slice (some 4 ms) in
each LONGEST, 1 % at the end; on a quiet machine waits are some microseconds and nothing changes. Results
do not depend on the number of threads, so neither do they on this.
"""

import math

LIMIT = 2e-3  # seconds
FIRST, LONGEST = 0.05, 1.0  # seconds, of a pause
_PROVEN = 0.5  # seconds: a trial that went well for so long begins with short pauses again


class ThreadLimit:
    """How many threads to use now; of one pool. Times are seconds of a clock that never goes back.

    Attributes:
        most: threads of the pool.
        threads: how many of them to use.
    """

    def __init__(self, most: int) -> None:
        self.most = self.threads = most
        self._excess = 0.0  # how much longer the caller waited than it worked
        self._pause = FIRST
        self._until = self._tried = -math.inf  # when `threads` may grow, and when it last did

    def begin(self, now: float) -> int:
        """Threads to use for a kernel that begins now."""
        if self.threads < self.most and now >= self._until:
            self._tried = now
            self._set(min(2 * self.threads, self.most), now)
        return self.threads

    def end(self, work: float, wait: float, now: float) -> None:
        """A kernel on several threads has ended now, for which the caller worked and then waited so long."""
        self._excess = max(0.0, self._excess + wait - work)
        if self._excess > LIMIT and self.threads > 1:
            failed = now - self._tried < _PROVEN
            self._pause = min(2 * self._pause, LONGEST) if failed else FIRST
            self._set(self.threads // 2, now)

    def _set(self, threads: int, now: float) -> None:
        self.threads, self._excess, self._until = threads, 0.0, now + self._pause
