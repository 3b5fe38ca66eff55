"""The loops of byte pair encoding. This module imports nothing that is not compiled.

Strings are packed as a GGUF file has them: string i is `raw[offsets[i] + 8 : offsets[i + 1]]`, (…,) uint8 and
(n + 1,) int64. Tables are open: an entry lies in the first free place from its hash on, and at least half of
the places are free. `seed` is odd and secret, so that no file can put all its strings into one place.
"""

import numpy as np

from dgguf.jit import kernel, part

_SPACE = 32
_LOW = (1 << 32) - 1
# Of `index_merges`: how a merge is wrong.
NO_PAIR, NO_TOKEN = 1, 2


@part
def _hashed(raw: np.ndarray, start: int, stop: int, seed: int, state: int) -> int:
    """The hash of some bytes that follow those of `state`."""
    for i in range(start, stop):
        state = (state ^ raw[i]) * seed
        state ^= state >> 32
    return state


@part
def _find(
    raw: np.ndarray,
    offsets: np.ndarray,
    table: np.ndarray,
    state: int,
    text: np.ndarray,
    a: int,
    b: int,
    c: int,
    d: int,
) -> int:
    """The token that is text[a:b] + text[c:d], whose hash is `state`; -1 for none."""
    mask = len(table) - 1
    place = state & mask
    while table[place] >= 0:
        token: int = table[place]
        start, split = offsets[token] + 8, offsets[token] + 8 + b - a
        if offsets[token + 1] - split == d - c:
            same = True
            for i in range(b - a):
                same &= raw[start + i] == text[a + i]
            for i in range(d - c):
                same &= raw[split + i] == text[c + i]
            if same:
                return token
        place = (place + 1) & mask
    return -1


@part
def _place_of_pair(pairs: np.ndarray, left: int, right: int, seed: int) -> int:
    """Where a pair stands in the table, or would."""
    pair = left << 32 | right
    mixed = pair * seed
    mask = len(pairs) - 1
    place = (mixed ^ (mixed >> 32)) & mask
    while pairs[place, 1] >= 0 and pairs[place, 0] != pair:
        place = (place + 1) & mask
    return place


@kernel
def index_merges(
    raw: np.ndarray,
    offsets: np.ndarray,
    special: np.ndarray,
    merges: np.ndarray,
    merge_offsets: np.ndarray,
    seed: int,
    table: np.ndarray,
    pairs: np.ndarray,
    wrong: np.ndarray,
) -> None:
    """Find the tokens of all merges; serial, no two arrays overlap.

    Args:
        raw, offsets: the tokens, all distinct.
        special: (tokens,) bool; merges with one of these are left out.
        merges, merge_offsets: each of two tokens with a space between.
        seed: int64.
        table: (a power of two,) int32 of -1, is filled.
        pairs: (a power of two, 2) int64 of -1, is filled: left << 32 | right, rank << 32 | what they make. Of
            a pair that stands twice the last counts.
        wrong: (2,) int64, is filled for the first merge that fits no tokens: its rank; how it is wrong.
    """
    for token in range(len(offsets) - 1):
        state = _hashed(raw, offsets[token] + 8, offsets[token + 1], seed, seed)
        place = state & (len(table) - 1)
        while table[place] >= 0:
            place = (place + 1) & (len(table) - 1)
        table[place] = token
    for rank in range(len(merge_offsets) - 1):
        start, stop = merge_offsets[rank] + 8, merge_offsets[rank + 1]
        spaces, space = 0, stop
        for i in range(start, stop):
            if merges[i] == _SPACE:
                spaces += 1
                space = i
        if spaces != 1:
            wrong[0], wrong[1] = rank, NO_PAIR
            return
        state = _hashed(merges, start, space, seed, seed)
        left = _find(raw, offsets, table, state, merges, start, space, space, space)
        state = _hashed(merges, space + 1, stop, seed, state)
        made = _find(raw, offsets, table, state, merges, start, space, space + 1, stop)
        state = _hashed(merges, space + 1, stop, seed, seed)
        right = _find(raw, offsets, table, state, merges, space + 1, stop, stop, stop)
        if left < 0 or right < 0 or made < 0:
            wrong[0], wrong[1] = rank, NO_TOKEN
            return
        if not (special[left] or special[right] or special[made]):
            place = _place_of_pair(pairs, left, right, seed)
            pairs[place, 0], pairs[place, 1] = left << 32 | right, rank << 32 | made


@part
def _push(heap: np.ndarray, count: int, entry: int) -> None:
    """Add an entry to a heap of `count`, the least first."""
    while count > 0 and heap[(count - 1) >> 1] > entry:
        heap[count] = heap[(count - 1) >> 1]
        count = (count - 1) >> 1
    heap[count] = entry


@part
def _pop(heap: np.ndarray, count: int) -> int:
    """Take the least entry out of a heap of `count`."""
    least: int = heap[0]
    last, at, child = heap[count - 1], 0, 1
    while child < count - 1:
        if child + 1 < count - 1 and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= last:
            break
        heap[at] = heap[child]
        at, child = child, 2 * child + 1
    heap[at] = last
    return least


@kernel
def merge(ids: np.ndarray, pairs: np.ndarray, seed: int, links: np.ndarray, heap: np.ndarray) -> int:
    """Merge the pair of lowest rank, leftmost first, until none is left; serial, no two arrays overlap.

    Args:
        ids: (n,) int64, one a character; are overwritten.
        pairs, seed: of `index_merges`.
        links: (3, n) int64, room: what stands before and behind each id, and what it makes with the one
            behind, as in `pairs`.
        heap: (3 n,) int64, room: rank * n + place, so ordered by rank, then from the left.

    Returns:
        how many ids are left, which stand first
    """
    size, count = len(ids), 0
    before, after, made = links[0], links[1], links[2]
    for i in range(size):
        before[i], after[i], made[i] = i - 1, i + 1, -1
        if i + 1 < size:
            made[i] = pairs[_place_of_pair(pairs, ids[i], ids[i + 1], seed), 1]
        if made[i] >= 0:
            _push(heap, count, (made[i] >> 32) * size + i)
            count += 1
    while count > 0:
        entry = _pop(heap, count)
        count -= 1
        i = entry % size
        if made[i] < 0 or made[i] >> 32 != entry // size:
            continue  # one of the two has merged otherwise
        ids[i] = made[i] & _LOW
        gone = after[i]
        ids[gone] = made[gone] = -1
        after[i] = after[gone]
        if after[i] < size:
            before[after[i]] = i
        for left in (before[i], i):
            if left < 0:
                continue
            made[left] = -1
            if after[left] < size:
                made[left] = pairs[_place_of_pair(pairs, ids[left], ids[after[left]], seed), 1]
            if made[left] >= 0:
                _push(heap, count, (made[left] >> 32) * size + left)
                count += 1
    kept = 0
    for i in range(size):
        if ids[i] >= 0:
            ids[kept] = ids[i]
            kept += 1
    return kept
