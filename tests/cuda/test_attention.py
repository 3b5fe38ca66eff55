"""attention.cu in the emulation, by itself: every shape that a GPU gets, every kind of mask, divided keys."""

import ctypes
import importlib.util
import shutil

import numpy as np
import pytest

from dgguf.backends.base import Visible
from tests.support import twins

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None,
        reason="numba-cuda is not installed: pip install '.[cuda13]'",
    ),
    pytest.mark.slow(6),
]
# Shared memory of a block, by compute capability.
SHARED_KB = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (12, 0): 99}
ROUNDED = 2e-3  # float16 queries, keys, values and weights


def attend(q, keys, values, runs, capability, splits, backwards=False, macros=()):
    """The kernel's answer; `done` must be zeros afterwards."""
    from dgguf.backends.cuda.attention import shape, tiles
    from tests.support.cuda_emulation import library  # which needs numba-cuda

    (rows, heads, dim), (kv_heads, capacity, _) = q.shape, keys.shape
    made, group = shape(dim, capability, SHARED_KB[capability] << 10), heads // kv_heads
    own = tiles(Visible(runs), group, made.queries).astype(np.int32)
    given = np.ascontiguousarray(runs, np.int32)
    out = np.full(q.shape, np.nan, np.float16)
    found = np.full(splits * len(own) * kv_heads * made.found_numbers, np.nan, np.float32)
    done = np.zeros(len(own) * kv_heads, np.int32)
    arrays = [q, keys, values, out, given, own, found, done]
    sizes = (len(runs), rows, heads, group, capacity, splits)
    arguments = [*(ctypes.c_void_p(a.ctypes.data) for a in arrays), *map(ctypes.c_int, sizes)]
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    run = library("attention", (*made.macros, *macros)).run_attention
    sizes = (len(own), kv_heads * splits, made.threads, made.shared_bytes, backwards)
    run(pointers, *map(ctypes.c_int, sizes))
    assert not done.any()
    return out


def twin(q, keys, values, runs):
    wanted, group = np.zeros(q.shape), q.shape[1] // len(keys)
    for row in range(len(q)):
        seen = [j for first, end in runs[:, row] for j in range(first, end)]
        for head in range(q.shape[1]):
            its_keys, its_values = (a[head // group, seen].astype(np.float64) for a in (keys, values))
            wanted[row, head] = twins.softmax(its_keys @ q[row, head]) @ its_values
    return wanted


def random_case(rows, heads, kv_heads, dim, runs, seed=1):
    """Queries, keys and values; rows of the cache that nobody sees are NaN."""
    rng = np.random.default_rng(seed)
    capacity = int(runs.max()) + 5
    q = (rng.standard_normal((rows, heads, dim)) * 2 / np.sqrt(dim)).astype(np.float32)
    keys, values = (rng.standard_normal((kv_heads, capacity, dim)).astype(np.float16) for _ in range(2))
    seen = np.zeros(capacity, bool)
    for first, end in runs.reshape(-1, 2):
        seen[first:end] = True
    keys[:, ~seen] = values[:, ~seen] = np.nan
    return q, keys, values


def causal(rows, past, window=None):
    end = past + 1 + np.arange(rows)
    first = np.zeros(rows, int) if window is None else np.maximum(0, end - window)
    return np.stack((first, end), axis=-1)[None]


def whole(rows, past, window=None):
    first = 0 if window is None else max(0, past + 1 - window)
    return np.full((rows, 2), (first, past + rows))[None]


def branches(rows, past):
    """Each three rows see the past but for its first rows, and themselves, far behind a gap."""
    own = past + 40 + np.arange(rows) // 3 * 3
    return np.stack([np.full((rows, 2), (7, past)), np.stack((own, own + 3), axis=-1)])


def span(rows, past):
    """A prompt with an image, whose rows see it whole from where each of them begins; window 50."""
    runs = causal(rows, past, 50)
    runs[0, 5:19, 1] = past + 19
    return runs


MASKS = {
    "causal": causal(40, 70),
    "causal, sliding": causal(40, 70, 33),
    "whole": whole(40, 61),
    "whole, sliding": whole(40, 61, 32),
    "one row": whole(1, 95),
    "an edge": whole(32, 32),
    "branches": branches(21, 45),
    "an image": span(40, 70),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dim", [16, 48, 80])
def test_masks(mask, dim):
    runs = MASKS[mask]
    case = random_case(runs.shape[1], 4, 2, dim, runs)
    twins.close(attend(*case, runs, (9, 0), 1), twin(*case, runs), ROUNDED)


@pytest.mark.parametrize("capability", SHARED_KB)
@pytest.mark.parametrize("dim", [256, 272, 512])
def test_shapes_of_every_gpu(capability, dim):
    """More keys than there are places for them, warps without queries, heads that divide unevenly."""
    runs = causal(25, 150, 120)
    case = random_case(25, 2, 1, dim, runs)
    macros = (("WITHOUT_ASYNC_COPIES", 1),) if capability < (8, 0) else ()
    found = attend(*case, runs, capability, 1, macros=macros)
    twins.close(found, twin(*case, runs), ROUNDED)


@pytest.mark.parametrize("dim", [64, 512])
@pytest.mark.parametrize("mask", ["causal, sliding", "whole", "branches"])
def test_blocks_that_divide_the_keys(mask, dim):
    """Whichever is done last, to the bit; more of them than there are turns of keys, too."""
    runs = MASKS[mask][:, :21]
    case = random_case(21, 4, 2, dim, runs)
    wanted = twin(*case, runs)
    for splits in (2, 3, 9):
        found = [attend(*case, runs, (9, 0), splits, backwards) for backwards in (False, True)]
        twins.close(found[0], wanted, ROUNDED)
        np.testing.assert_array_equal(*(f.view(np.uint16) for f in found))


def test_scores_of_any_size():
    """Where float32 itself is coarse, and where a later key is far larger than those before."""
    runs = whole(3, 90)
    q, keys, values = random_case(3, 2, 1, 16, runs)
    for size in (1e-6, 30.0, 2e3):
        given = (keys * np.float16(size)).astype(np.float16)
        found = attend(q * np.float32(size), given, values, runs, (9, 0), 2).astype(np.float64)
        halves = (q * np.float32(size)).astype(np.float16).astype(np.float64)
        assert np.isfinite(found).all()
        twins.close(found, twin(halves, given, values, runs), ROUNDED)


def test_splits_follow_from_blocks_and_keys():
    from dgguf.backends.cuda.attention import splits

    assert splits(Visible(whole(256, 1023)), 64) == 2  # a canvas behind a window, or 2,048 tokens
    assert splits(Visible(whole(256, 2048)), 128) == 1
    assert splits(Visible(whole(16, 1023)), 8) == 4
    assert splits(Visible(whole(16, 100)), 4) == 1
    assert splits(Visible(causal(1024, 1024)), 256) == 1
