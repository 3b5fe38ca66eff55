"""The vision tower against its slow twin, and the verbs that only it has."""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend, vision
from dgguf.errors import ImageError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.images import ImageInput
from dgguf.model.mmproj import VisionConfig, load_vision
from dgguf.model.vision import VisionTower
from tests.support.synthetic.tower import TINY_TOWER, write_tower
from tests.support.tower_reference import SlowTower, read_tensors

RAW = replace(TINY_TOWER, standardized=False)
WIDE = replace(TINY_TOWER, hidden_size=96, n_heads=2, ff_size=72, n_layers=3)


def picture(columns, rows, seed=1):
    """An image of so many rows of the text, each way, as `read_image` would leave it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48 * rows, 48 * columns, 3), np.uint8)
    return ImageInput("picture.png", (48 * columns, 48 * rows), pixels, 70)


def open_tower(path, exact=True, **options):
    file = GgufFile(path)
    config = VisionConfig.from_file(file)
    backend = CpuBackend(threads=2, exact=exact, **options)
    return VisionTower(config, load_vision(file, config, backend), backend)


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("config", "type_name", "options"),
    [
        (TINY_TOWER, "F32", {}),
        (RAW, "BF16", {"clipped": True}),
        (WIDE, "BF16", {}),
        (WIDE, "Q8_0", {"metadata": {"clip.use_gelu": False}}),
        (WIDE, "F16", {"omit": ("clip.use_gelu", "clip.projector_type")}),
    ],
)
def test_rows_are_those_of_the_slow_twin(tmp_path, config, type_name, options, exact):
    path = write_tower(tmp_path / "mmproj.gguf", config, type_name, seed=3, **options)
    image = picture(3, 2)
    tower = open_tower(path, exact)
    rows = tower.encode(image)
    assert rows.shape == (6, config.text_size)
    assert rows.dtype == np.float32
    # Bounds let single numbers jump where a sum lies at one; nothing here rounds inputs to 8 or 16 bits.
    assert difference(rows, SlowTower(config, read_tensors(path)).encode(image.pixels)) < 2e-5


def test_an_image_has_one_order(tmp_path):
    """A picture that lies on its side is another one: columns and rows are not mixed up."""
    tower = open_tower(write_tower(tmp_path / "mmproj.gguf"))
    lying = picture(3, 1)
    standing = replace(lying, pixels=np.ascontiguousarray(lying.pixels.transpose(1, 0, 2)))
    assert difference(tower.encode(lying), tower.encode(standing)) > 0.01


@pytest.mark.parametrize("n", [9, 250, 400])
def test_attention_over_all_patches(n):
    rng = np.random.default_rng(n)
    q, k, v = rng.standard_normal((3, n, 2, 20), np.float32) * 2
    k[n // 2] *= 30  # scores that are far apart
    out = CpuBackend(threads=2).attend_all(q, k, v).reshape(n, 2, 20)
    scores = np.einsum("ihd,jhd->hij", q.astype(np.float64), k)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
    assert difference(out, expected) < 2e-5


def test_tiles_do_not_show(monkeypatch):
    """Scores never exist as a whole: one head's alone would take n x n numbers."""
    assert vision.TILE_KEYS % 64 == 0
    n = 700
    q, k, v = np.random.default_rng(1).standard_normal((3, n, 1, 12), np.float32)
    whole = CpuBackend(threads=2).attend_all(q, k, v)
    rows = [CpuBackend(threads=1).attend_all(q, k, v)[r] for r in (0, n - 1)]
    np.testing.assert_array_equal(whole[[0, n - 1]], rows)


def test_what_a_tower_lacks_is_named(tmp_path):
    path = write_tower(tmp_path / "mmproj.gguf", omit=("v.blk.1.attn_v.weight",))
    with pytest.raises(UnsupportedModelError, match=r"v\.blk\.1\.attn_v\.weight"):
        open_tower(path)


def test_an_image_longer_than_the_table_is_refused(tmp_path):
    tower = open_tower(write_tower(tmp_path / "mmproj.gguf", replace(TINY_TOWER, n_places=6)))
    with pytest.raises(ImageError, match="9 patches in a row are more than the 6"):
        tower.encode(picture(3, 1))
