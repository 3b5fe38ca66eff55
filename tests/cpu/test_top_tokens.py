"""The likeliest tokens of a prediction, against sorting all of them."""

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend


@pytest.mark.parametrize("count", [1, 4, 50])
def test_likeliest(count):
    rng = np.random.default_rng(count)
    probabilities = rng.dirichlet(np.ones(50), size=7).astype(np.float32)
    probabilities[2, 10:20] = probabilities[2].max()  # of equals the lower id comes first
    tokens, chances = CpuBackend(threads=2).top_tokens(probabilities, count)
    wanted = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    if count in (1, 4):
        wanted_chances = -np.sort(-probabilities, axis=1)[:, :count]
        assert np.array_equal(chances, wanted_chances)
        assert np.array_equal(np.delete(tokens, 2, 0), np.delete(wanted, 2, 0))
        assert set(tokens[2]) <= set(range(10, 20))
        assert [*tokens[2]] == sorted(tokens[2])
    else:
        assert np.array_equal(tokens, wanted)
    assert tokens.dtype == np.int64
    assert chances.dtype == np.float32
