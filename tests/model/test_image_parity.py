"""Prompts with images against transformers: rows of images, logits behind them, whole answers.

Without torch: against results frozen by tools/accuracy/freeze_images.py. With torch (extra `oracle`): live.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import image_parity, parity

# Largest error over largest value: float32 in another order, through a tower and a network.
ROWS, LOGITS = 5e-5, 5e-4
DATA = Path(__file__).parents[1] / "data" / "image_parity.npz"


def compare(found, wanted, thinned=lambda array: array):
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        if name in ("generated", "steps"):
            np.testing.assert_array_equal(array, wanted[name])
            continue
        error = np.abs(thinned(array) - wanted[name]).max() / np.abs(wanted[name]).max()
        assert error <= (LOGITS if name == "logits" else ROWS), f"{name}: off by {error:.1e}"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if number % 3 == 0 or case.clipped else [pytest.mark.slow(1)])
        for number, case in enumerate(image_parity.CASES)
    ],
    ids=lambda case: case.name,
)
def test_frozen_transformers_results(case, tmp_path):
    with np.load(DATA) as file:
        wanted = {
            key.removeprefix(f"{case.name}/"): file[key]
            for key in file.files
            if key.startswith(f"{case.name}/")
        }
    path = image_parity.files(case, tmp_path)
    digests = [parity.digest(each) for each in (path, path.with_name("mmproj.gguf"))]
    assert digests == wanted.pop("digests").tolist(), (
        "the weights changed: run tools/accuracy/freeze_images.py"
    )
    compare(image_parity.observe_dgguf(case, path), wanted, parity.thinned)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # transformers' and torch's own
@pytest.mark.parametrize("case", image_parity.CASES, ids=lambda case: case.name)
def test_live_transformers(case, tmp_path):
    pytest.importorskip("transformers")
    case = replace(case, seed=case.seed + 100)
    path = image_parity.files(case, tmp_path)
    compare(image_parity.observe_dgguf(case, path), image_parity.observe_transformers(case, path))
