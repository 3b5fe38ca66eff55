"""How threads share out pieces, and how they wait for each other."""

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dgguf.errors import BackendError
from dgguf.jit import kernel
from dgguf.threads import crowding, work_sharing, worker_slots
from dgguf.threads import pool as pools
from dgguf.threads.atomics import atomic_load
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import ALL_TAKEN, make_counter, publish
from dgguf.threads.worker_slots import (
    STATE,
    Next,
    WorkerState,
    is_parked,
    make_slots,
    retire,
    submit,
    wait_all,
    worker_loop,
)
from tests.support.kernels import as_kernel

next_chunk, next_item = as_kernel(work_sharing.next_chunk), as_kernel(work_sharing.next_item)


@pytest.fixture(autouse=True)
def all_threads_always(monkeypatch):
    """However busy the machine is that runs the tests."""
    monkeypatch.setattr(crowding, "LIMIT", math.inf)


@kernel
def mark(marks, counter):
    """Count at each piece how often it was taken."""
    first, end = next_chunk(counter, marks.shape[0])
    while first < end:
        for i in range(first, end):
            marks[i] += 1
        first, end = next_chunk(counter, marks.shape[0])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_ranges_shrink_and_leave_nothing_out(threads, count):
    counter, sizes, at = make_counter(threads), [], 0
    while True:
        first, end = next_chunk(counter, count)
        if first == end:
            break
        assert first == at
        sizes.append(end - first)
        at = end
    assert at == count
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:1] == [max(1, count // (2 * threads))] * bool(count)


@kernel
def mark_singly(marks, counter):
    """The same by `next_item`."""
    i = next_item(counter, marks.shape[0])
    while i < marks.shape[0]:
        marks[i] += 1
        i = next_item(counter, marks.shape[0])


@pytest.mark.parametrize("work", [mark, mark_singly])
@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_threads_take_every_piece_once(work, most):
    pool = Pool(4)
    for count in [1, 2, 50, *[1000] * 50]:
        marks = np.zeros(count, np.int64)
        pool.run_kernel(work, most, marks)
        np.testing.assert_array_equal(marks, 1)


def test_no_more_threads_than_asked_for():
    seen, all_here = [], threading.Barrier(3, timeout=100)

    def work(counter):
        next_item(counter, 10)
        seen.append(int(counter[1]))
        all_here.wait()

    Pool(4).run_kernel(work, 3)
    assert seen == [3, 3, 3]


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02])
def test_parked_workers_are_woken(pause):
    pool, who = Pool(2), []
    all_here = threading.Barrier(2, timeout=100)

    def work(counter):
        next_item(counter, 10)
        who.append(threading.current_thread().name)
        all_here.wait()

    for _ in range(5):
        time.sleep(pause)
        pool.run_kernel(work, 2)
    assert sorted(who) == sorted(["MainThread", "dgguf-1"] * 5)


def test_a_worker_begins_when_the_caller_takes_a_piece():
    slots, counter = make_slots(1), make_counter(2)
    slot = slots[0]
    assert worker_loop(slot, counter, False, 3) == Next.PARK
    assert submit(slots, counter, 0)
    assert is_parked(slot)
    assert worker_loop(slot, counter, False, 3) == Next.LOOK_LATER
    assert not is_parked(slot)
    next_chunk(counter, 10)
    assert worker_loop(slot, counter, False, 3) == Next.RUN_JOB  # nothing was published
    assert slot[STATE] == WorkerState.RUNNING
    assert not wait_all(slots, counter, 3)
    assert next_chunk(counter, 10) == (10, 10)  # whoever comes late finds nothing to do
    assert worker_loop(slot, counter, True, 3) == Next.PARK
    assert wait_all(slots, counter, 3)
    assert submit(slots, counter, ALL_TAKEN)
    assert worker_loop(slot, counter, False, 0) == Next.RUN_JOB


def test_the_caller_takes_a_job_back_from_a_worker_that_has_not_begun():
    slots, counter = make_slots(2), make_counter(3)
    submit(slots, counter, 0)
    next_chunk(counter, 10)
    assert worker_loop(slots[0], counter, False, 0) == Next.RUN_JOB
    assert not wait_all(slots, counter, 0)  # for the first, which runs
    worker_loop(slots[0], counter, True, 0)
    assert wait_all(slots, counter, 0)  # not for the second, which never came
    assert worker_loop(slots[1], counter, False, 3) == Next.PARK  # it finds no job


def test_a_worker_that_is_dead_is_neither_asked_nor_waited_for():
    slots, counter = make_slots(1), make_counter(2)
    retire(slots[0])
    assert not submit(slots, counter, ALL_TAKEN)
    assert slots[0, STATE] == WorkerState.DEAD
    assert wait_all(slots, counter, 0)


@kernel
def mark_offered(marks, amount, counter):
    """As `mark_singly`; whoever takes the first piece waits until others have taken the rest."""
    publish(counter)
    i = next_item(counter, marks.shape[0])
    while i < marks.shape[0]:
        marks[i] += amount
        while i == 0 and look(counter) < marks.shape[0]:
            pass
        i = next_item(counter, marks.shape[0])


@kernel
def look(counter):
    """The next piece, as it is now in memory."""
    return atomic_load(counter.ctypes.data)


def test_an_offered_kernel_runs_without_python():
    pool = Pool(2)
    for pieces in (2, 2, 30):
        marks, called = np.zeros(pieces, np.int64), []

        def work(*arguments, called=called):
            called.append(threading.current_thread())
            mark_offered(*arguments)

        pool.run_kernel(work, 2, marks, 1)  # the caller alone would wait for ever
        np.testing.assert_array_equal(marks, 1)
        assert called == [threading.main_thread()]


def test_a_kernel_that_fails_in_another_thread_is_told():
    pool, marks = Pool(2), np.zeros(2, np.int64)
    marks_by = np.zeros(2, np.int64)
    pool.run_kernel(mark_offered, 2, marks_by, 1)
    with pytest.raises(MemoryError):
        pool.run_kernel(fails_elsewhere, 2, marks)
    pool.run_kernel(mark_offered, 2, marks_by, 1)
    np.testing.assert_array_equal(marks_by, 2)


@kernel
def fails_elsewhere(marks, counter):
    """The caller takes the first piece, and waits until another has taken the second, and failed."""
    publish(counter)
    i = next_item(counter, 2)
    if i == 1:
        raise ValueError
    while i == 0 and look(counter) < 2:
        pass


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("place", ["submit", "wait_all", "first wait"])
def test_an_interruption_leaves_nobody_working(monkeypatch, threads, place):
    """Ctrl-C comes behind a step of the hand-over; then the pool goes on as if nothing had been."""
    pool, working = Pool(threads), []

    def work(counter):
        working.append(True)
        next_chunk(counter, 100)
        time.sleep(0.005)
        working.pop()

    pool.run_kernel(work, threads)
    calls = {"submit": 0, "wait_all": 0}
    last = 2 if place == "wait_all" else 1

    def interrupted(name, step):
        def stepped(*arguments):
            result = step(*arguments)
            calls[name] += 1
            if calls[name] == last and name == place.replace("first wait", "wait_all"):
                raise KeyboardInterrupt
            return result

        return stepped

    for name in calls:
        monkeypatch.setattr(pools.worker_slots, name, interrupted(name, getattr(worker_slots, name)))
    with pytest.raises(KeyboardInterrupt):
        pool.run_kernel(work, threads)
    assert not working
    marks = np.zeros(1000, np.int64)
    pool.run_kernel(mark, threads, marks)
    np.testing.assert_array_equal(marks, 1)


def test_what_an_interruption_left_is_taken_back_first():
    pool, old, marks = Pool(2), [], np.zeros(100, np.int64)
    pool.run_kernel(lambda counter: None, 2)
    while not is_parked(pool._slots[0]):
        time.sleep(0.001)
    pool._job[:] = [lambda: old.append(marks.sum())]
    submit(pool._slots, pool._counter, ALL_TAKEN)  # and nobody is woken, as if Ctrl-C had come then
    pool.run_kernel(mark, 2, marks)
    time.sleep(0.02)
    assert not old
    np.testing.assert_array_equal(marks, 1)


def test_an_error_before_the_first_piece_is_told():
    pool, called = Pool(3), []

    def work(counter):
        called.append(threading.current_thread())
        raise ValueError("none taken")

    with pytest.raises(ValueError, match="none taken"):
        pool.run_kernel(work, 3)
    assert called == [threading.main_thread()]  # the others do not begin what has failed
    marks = np.zeros(10, np.int64)
    pool.run_kernel(mark, 3, marks)
    np.testing.assert_array_equal(marks, 1)


def test_an_error_of_another_thread_is_told():
    both_here = threading.Barrier(2, timeout=100)

    def work(counter):
        next_chunk(counter, 1)
        both_here.wait()
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        Pool(2).run_kernel(work, 2)


def test_a_second_thread_in_a_pool_is_refused_at_once():
    pool, marks = Pool(2), np.zeros(100, np.int64)
    began, refused = threading.Event(), []

    def intrude():
        began.wait()
        for call in (lambda: pool.run_kernel(mark, 2, marks), lambda: pool.parallel_for(print, 3)):
            try:
                call()
            except BackendError as error:
                refused.append(str(error))

    intruder = threading.Thread(target=intrude)
    intruder.start()

    def work(counter):
        began.set()
        intruder.join(10)

    pool.run_kernel(work, 1)
    assert len(refused) == 2
    assert "one call at a time" in refused[0]
    assert not marks.any()
    pool.run_kernel(mark, 2, marks)
    np.testing.assert_array_equal(marks, 1)


def test_a_piece_that_calls_into_its_own_pool_is_refused():
    pool = Pool(2)
    with pytest.raises(BackendError, match="one call at a time"):
        pool.parallel_for(lambda i: pool.parallel_for(print, 1), 2)


def test_a_worker_that_dies_leaves_nobody_waiting():
    pool, marks = Pool(3), np.zeros(1000, np.int64)
    pool._alarms[0].put(False)  # as if its thread had ended by itself
    while pool._slots[0, STATE] != WorkerState.DEAD:
        time.sleep(0.001)
    for _ in range(20):
        pool.run_kernel(mark, 3, marks)
    np.testing.assert_array_equal(marks, 20)
    done = []
    pool.parallel_for(done.append, 100)
    assert sorted(done) == list(range(100))


def test_a_worker_whose_job_cannot_be_called_dies_alone(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    pool = Pool(2)
    pool._job[:] = [None]  # no job at all
    submit(pool._slots, pool._counter, ALL_TAKEN)
    pool._alarms[0].put(True)
    while pool._slots[0, STATE] != WorkerState.DEAD:
        time.sleep(0.001)
    marks = np.zeros(100, np.int64)
    pool.run_kernel(mark, 2, marks)
    np.testing.assert_array_equal(marks, 1)
    assert [failure.exc_type for failure in told] == [TypeError]


def test_threads_that_the_system_does_not_start(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(BackendError, match="3 threads"):
        Pool(3)


FORK = """
import os, numpy as np
from dgguf.errors import BackendError
from dgguf.threads.pool import Pool
from tests.threads.test_pool import mark
pool, alone, marks = Pool(2), Pool(1), np.zeros(100, np.int64)
pool.run_kernel(mark, 2, marks)
child = os.fork()
if child == 0:
    try:
        pool.run_kernel(mark, 2, marks)
        os._exit(1)
    except BackendError as error:
        assert "forked" in str(error)
    alone.run_kernel(mark, 2, marks)  # has no threads to miss
    Pool(2).run_kernel(mark, 2, marks)
    os._exit(0 if (marks == 3).all() else 2)
assert os.waitpid(child, 0)[1] == 0
pool.run_kernel(mark, 2, marks)
assert (marks == 2).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told_that_it_has_no_threads():
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], cwd=root, timeout=60, check=True)
