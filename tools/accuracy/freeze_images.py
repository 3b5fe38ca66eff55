"""Keep what transformers makes of images, so that tests compare with it without torch.

python tools/accuracy/freeze_images.py

Needs the extra `oracle`. Writes tests/data/images.npz: digests of the patches of random pictures, made by
the image processor that uses Pillow; and image_parity.npz: what the network computes for the cases of
tests/support/image_parity.py.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dgguf.images import BUDGETS  # noqa: E402
from tests.images.test_images import random_picture  # noqa: E402
from tests.support import image_parity, parity  # noqa: E402


def main() -> None:
    freeze_pixels()
    freeze_parity()


def freeze_parity() -> None:
    arrays = {}
    for case in image_parity.CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = image_parity.files(case, folder)
            digests = [parity.digest(each) for each in (path, path.with_name("mmproj.gguf"))]
            arrays[f"{case.name}/digests"] = np.array(digests)
            found = image_parity.observe_transformers(case, path)
            arrays |= {f"{case.name}/{key}": parity.thinned(value) for key, value in found.items()}
        print(case.name)
    np.savez_compressed(ROOT / "tests" / "data" / "image_parity.npz", **arrays)


def freeze_pixels() -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    rng = np.random.default_rng(5)
    cases, digests = [], []
    for seed in range(20):
        width, height = np.exp(rng.uniform(1, 7, 2)).astype(int) + 1
        budget = BUDGETS[seed % len(BUDGETS)]
        made = Gemma4ImageProcessorPil(max_soft_tokens=budget)(
            random_picture(seed, width, height), return_tensors="np"
        )
        patches = made["pixel_values"][0][: 9 * int(made["num_soft_tokens_per_image"][0])]
        cases.append((seed, width, height, budget))
        digests.append(hashlib.sha256(np.ascontiguousarray(patches, np.float32).tobytes()).digest())
    out = ROOT / "tests" / "data" / "images.npz"
    np.savez_compressed(
        out, cases=np.array(cases), digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    )
    print(f"{out}: {len(cases)} pictures", file=sys.stderr)


if __name__ == "__main__":
    main()
