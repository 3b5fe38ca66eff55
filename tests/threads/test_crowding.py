"""How many threads a pool uses, decided from waits and a clock that the tests make up."""

import pytest

from dgguf.threads.crowding import FIRST, LIMIT, LONGEST, ThreadLimit


class Machine:
    """Runs kernels on a made-up clock; each takes as long as `work` and `wait` say of a number of threads."""

    def __init__(self, most, work, wait):
        self.limit, self.now = ThreadLimit(most), 0.0
        self.work, self.wait, self.used = work, wait, []

    def run(self, seconds):
        """Threads used by the kernels of so many seconds."""
        first, end = len(self.used), self.now + seconds
        while self.now < end:
            threads = self.limit.begin(self.now)
            work, wait = self.work(threads), self.wait(threads)
            self.used.append(threads)
            self.now += work + wait
            if threads > 1:
                self.limit.end(work, wait, self.now)
        return self.used[first:]


def quiet(threads):
    return 2e-6


def crowded(threads):
    return 4e-3 if threads > 1 else 0.0


def small(threads):
    return 40e-6 / threads


def large(threads):
    return 40e-3 / threads


@pytest.mark.parametrize("work", [small, large])
def test_a_quiet_machine_uses_all_threads(work):
    assert set(Machine(8, work, quiet).run(5)) == {8}


def test_long_pieces_outweigh_time_slices():
    assert set(Machine(2, large, crowded).run(5)) == {2}


def test_small_pieces_on_a_crowded_machine_run_on_one_thread():
    machine = Machine(2, small, crowded)
    assert machine.run(LIMIT)[0] == 2
    assert machine.limit.threads == 1
    assert set(machine.run(FIRST / 2)) == {1}
    machine.run(5)
    start = machine.now
    used = machine.run(20)
    assert used.count(2) * 4e-3 < 0.01 * (machine.now - start)  # what the trials cost
    assert machine.now - start < LONGEST * (used.count(2) + 2)  # and there is one now and then


def test_more_threads_come_back_when_the_machine_is_quiet_again():
    machine = Machine(8, small, crowded)
    machine.run(10)
    machine.wait = quiet
    machine.run(3 * LONGEST)
    assert set(machine.run(1)) == {8}
    machine.wait = crowded
    machine.run(0.01)
    assert machine.limit.threads < 8
    machine.wait = quiet
    machine.run(4 * FIRST)  # what is new is given up for short
    assert machine.limit.threads == 8


def test_one_long_wait_among_long_kernels_means_nothing():
    limit = ThreadLimit(2)
    limit.end(20e-3, 4e-3, 1.0)
    limit.end(1e-6, LIMIT / 2, 1.1)
    limit.end(1e-3, 0.0, 1.2)
    limit.end(1e-6, LIMIT / 2, 1.3)
    assert limit.threads == 2
    limit.end(1e-6, LIMIT, 1.4)
    assert limit.threads == 1


def test_some_threads_that_wait_on_many():
    """Where hand-overs cost more than 16 threads bring, fewer are used, but not one."""
    machine = Machine(16, lambda threads: 80e-6 / threads, lambda threads: threads * 2e-6)
    assert set(machine.run(10)[-100:]) <= {4, 8}
