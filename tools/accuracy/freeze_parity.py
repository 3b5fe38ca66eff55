"""Freeze what transformers computes for the cases of tests/parity.py into tests/data/parity.npz.

    python tools/accuracy/freeze_parity.py

Needs the extra `oracle`. The models' weights are made from seeds and not kept; a digest of each file
is, so that a test says it when they come out differently.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support import parity  # noqa: E402


def main() -> None:
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in parity.FROZEN:
            path = parity.model_file(case, folder)
            arrays[f"{case.name}/digest"] = np.array(parity.digest(path))
            found = parity.observe_transformers(case, path) | parity.generate_transformers(case, path)
            arrays |= {f"{case.name}/{key}": parity.thinned(value) for key, value in found.items()}
            print(case.name)
    np.savez_compressed(ROOT / "tests/data/parity.npz", **arrays)


if __name__ == "__main__":
    main()
