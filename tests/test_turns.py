import numpy as np
import pytest

from dgguf.backends.cpu.pool import Pool
from dgguf.backends.cpu.turns import make_turns, take, take_one
from dgguf.jit import kernel


@kernel
def mark(marks, turns):
    """Count at each piece how often it was taken."""
    first, end = take(turns, marks.shape[0])
    while first < end:
        for i in range(first, end):
            marks[i] += 1
        first, end = take(turns, marks.shape[0])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_ranges_shrink_and_leave_nothing_out(threads, count):
    turns, sizes, at = make_turns(threads), [], 0
    while True:
        first, end = take(turns, count)
        if first == end:
            break
        assert first == at
        sizes.append(end - first)
        at = end
    assert at == count
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:1] == [max(1, count // (2 * threads))] * bool(count)


@kernel
def mark_singly(marks, turns):
    """The same by `take_one`."""
    i = take_one(turns, marks.shape[0])
    while i < marks.shape[0]:
        marks[i] += 1
        i = take_one(turns, marks.shape[0])


@pytest.mark.parametrize("work", [mark, mark_singly])
@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_threads_take_every_piece_once(work, most):
    pool = Pool(4)
    for count in [1, 2, 50, *[1000] * 50]:
        marks = np.zeros(count, np.int64)
        pool.together(lambda turns, marks=marks: work(marks, turns), most)
        np.testing.assert_array_equal(marks, 1)


def test_no_more_threads_than_asked_for():
    seen = []
    Pool(4).together(lambda turns: seen.append(int(turns[1])), 3)
    assert seen == [3, 3, 3]
