"""Pixels, byte for byte those of transformers' image processor that uses Pillow."""

import numpy as np
import pytest

from dgguf.images import BUDGETS, read_image
from tests.images.test_images import random_picture


@pytest.mark.oracle
def test_random_images():
    pytest.importorskip("transformers")
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    processors = {budget: Gemma4ImageProcessorPil(max_soft_tokens=budget) for budget in BUDGETS}
    rng = np.random.default_rng(11)
    for seed in range(2000):
        width, height = np.exp(rng.uniform(0, 6.5, 2)).astype(int) + 1
        budget = int(rng.choice(BUDGETS[:3] if seed % 20 else BUDGETS))
        picture = random_picture(seed, width, height)
        if seed % 5 == 1:
            picture = picture.convert("L")
        elif seed % 5 == 2:
            picture.putalpha(random_picture(seed + 1, width, height).convert("L"))
        elif seed % 5 == 3:
            picture = picture.convert("CMYK")
        image = read_image(picture, budget)
        theirs = processors[budget](picture, return_tensors="np")
        count = 9 * int(theirs["num_soft_tokens_per_image"][0])
        assert count == 9 * image.n_tokens
        assert np.array_equal(theirs["pixel_values"][0][:count], image.patches())
