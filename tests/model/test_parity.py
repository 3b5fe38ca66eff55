"""dgguf's network and loop against transformers: layer by layer, and token by token.

Without torch: against results frozen by tools/accuracy/freeze_parity.py. With torch (extra `oracle`):
against transformers itself, on other random models.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.support import parity

# transformers rounds norms, softmax and rope to float32, as dgguf does, in another order.
TOLERANCE = 5e-4

DATA = Path(__file__).parents[1] / "data" / "parity.npz"
LIVE = [dataclasses.replace(case, seed=case.seed + 100) for case in parity.FROZEN]


def compare(found, wanted):
    """Every array within the tolerance; the message names the first that is not, in the network's order."""
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        error = abs(array - wanted[name]).max()
        assert error <= TOLERANCE, f"{name}: off by {error:.1e}"


@pytest.fixture(scope="module")
def frozen():
    arrays = {case.name: {} for case in parity.FROZEN}
    with np.load(DATA) as file:
        for key in file.files:
            case, name = key.split("/", 1)
            arrays[case][name] = file[key]
    return arrays


@pytest.mark.parametrize("case", parity.FROZEN, ids=lambda case: case.name)
def test_frozen_transformers_results(case, tmp_path, frozen):
    wanted = dict(frozen[case.name])
    path = parity.model_file(case, tmp_path)
    assert parity.digest(path) == wanted.pop("digest"), (
        "the model's weights changed: run tools/accuracy/freeze_parity.py"
    )
    steps = wanted.pop("steps")
    generated = wanted.pop("generated")
    compare({name: parity.thinned(a) for name, a in parity.observe_dgguf(case, path).items()}, wanted)
    found = parity.generate_dgguf(case, path)
    np.testing.assert_array_equal(found["steps"], steps)
    np.testing.assert_array_equal(found["generated"], generated)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # transformers' and torch's own
@pytest.mark.parametrize("case", LIVE, ids=lambda case: case.name)
def test_live_transformers(case, tmp_path):
    pytest.importorskip("transformers")
    path = parity.model_file(case, tmp_path)
    compare(parity.observe_dgguf(case, path), parity.observe_transformers(case, path))
    found, wanted = parity.generate_dgguf(case, path), parity.generate_transformers(case, path)
    np.testing.assert_array_equal(found["steps"], wanted["steps"])
    np.testing.assert_array_equal(found["generated"], wanted["generated"])


def test_the_cases_stop_before_the_last_step_somewhere(frozen):
    steps = [n for arrays in frozen.values() for n in arrays["steps"]]
    assert min(steps) < parity.SETTINGS.max_steps
    assert len(set(steps)) > 2
