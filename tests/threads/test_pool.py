"""How threads share out pieces, and how they wait for each other."""

import threading
import time

import numpy as np
import pytest

from dgguf.jit import kernel
from dgguf.threads import pool as pools
from dgguf.threads import worker_slots
from dgguf.threads.pool import Pool
from dgguf.threads.work_sharing import ALL_TAKEN, make_counter, next_chunk, next_item, publish


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
    seen = []
    Pool(4).run_kernel(lambda counter: seen.append(int(counter[1])), 3)
    assert seen == [3, 3, 3]


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02])
def test_threads_that_fell_asleep_are_woken(monkeypatch, pause):
    pool, who, found = Pool(2), set(), []
    pool._looks = 200_000_000  # then the caller would wake them a second time

    def all_done(*arguments):
        found.append(all_done_at_once(*arguments))
        return found[-1]

    all_done_at_once = worker_slots.all_done
    monkeypatch.setattr(pools.worker_slots, "all_done", all_done)
    for _ in range(5):
        time.sleep(pause)
        pool.run_kernel(lambda counter: who.add(threading.current_thread().name), 2)
    assert who == {threading.current_thread().name, "dgguf-1"}
    assert all(found)


def test_a_thread_begins_when_the_caller_takes_a_piece():
    desk, counter = worker_slots.make_desks(1)[0], make_counter(2)
    assert worker_slots.serve(desk, counter, 0, 3) == worker_slots.SLEEP
    assert worker_slots.ask(desk[None], counter, 0) == 1
    assert worker_slots.sleeps_on(desk)
    assert worker_slots.serve(desk, counter, 0, 3) == worker_slots.SOON
    assert not worker_slots.sleeps_on(desk)
    next_chunk(counter, 10)
    assert worker_slots.serve(desk, counter, 0, 3) == worker_slots.JOB  # nothing was offered
    assert not worker_slots.all_done(desk[None], counter, 3)
    assert next_chunk(counter, 10) == (10, 10)  # whoever comes late finds nothing to do
    assert worker_slots.serve(desk, counter, 1, 3) == worker_slots.SLEEP
    assert worker_slots.all_done(desk[None], counter, 3)
    assert worker_slots.ask(desk[None], counter, ALL_TAKEN) == 1
    assert worker_slots.serve(desk, counter, 0, 0) == worker_slots.JOB


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
    return worker_slots._read(counter.ctypes.data)


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
@pytest.mark.parametrize("place", ["ask", "all_done", "first wait"])
def test_an_interruption_leaves_nobody_working(monkeypatch, threads, place):
    """Ctrl-C comes behind a step of the hand-over; then the pool goes on as if nothing had been."""
    pool, working = Pool(threads), []

    def work(counter):
        working.append(True)
        next_chunk(counter, 100)
        time.sleep(0.005)
        working.pop()

    pool.run_kernel(work, threads)
    calls = {"ask": 0, "all_done": 0}
    last = 2 if place == "all_done" else 1

    def interrupted(name, step):
        def stepped(*arguments):
            result = step(*arguments)
            calls[name] += 1
            if calls[name] == last and name == place.replace("first wait", "all_done"):
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


def test_what_an_interruption_left_is_done_first():
    pool, old, marks = Pool(2), [], np.zeros(100, np.int64)
    pool.run_kernel(lambda counter: None, 2)
    time.sleep(0.02)
    pool._job[:] = [lambda: old.append(marks.sum())]
    worker_slots.ask(pool._desks, pool._counter, ALL_TAKEN)  # and nobody is woken, as if Ctrl-C had come then
    pool.run_kernel(mark, 2, marks)
    assert old == [0]
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
    def work(counter):
        next_chunk(counter, 1)
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        Pool(2).run_kernel(work, 2)
