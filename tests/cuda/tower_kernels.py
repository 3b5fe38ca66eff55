"""The vision tower's verbs of the CUDA backend against float64, and a tower against its slow twin.

`test_without_gpu.py` runs this file as it does `kernels.py`.
"""

from dataclasses import replace

import numpy as np
import pytest

from dgguf.backends.base import Role
from dgguf.backends.cuda.memory import upload
from dgguf.ggufio.file import GgufFile
from dgguf.images import ImageInput
from dgguf.model import vision
from dgguf.model.mmproj import PATCHES, PLACES, VisionConfig, load_vision
from dgguf.model.vision import VisionTower
from tests.cuda.kernels import EPS, backend, close, make_backend, normal, path, products, rng, softmax
from tests.cuda.test_repack import decoded, host_tensor
from tests.support.synthetic.tower import TINY_TOWER, write_tower
from tests.support.tower_reference import SlowTower, read_tensors
from tests.support.twins import rms

__all__ = ["backend", "path", "rng"]  # fixtures
# Relative to the largest number: 23 bits of each input, and sums of a few hundred float32 products.
WIDE = 2e-6


def vision_tensor(rng, name, *shape):
    """A matrix of a tower and what float16 keeps of it."""
    made = replace(host_tensor(rng, name, shape), role=Role.VISION)
    return made, decoded(made).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize(("rows", "name", "columns"), [(3, "F16", 72), (35, "BF16", 130), (3, "Q8_0", 96)])
def test_inputs_stay_float32(rng, rows, name, columns):
    """Of numbers of very different size, too."""
    backend, sizes = make_backend("fast"), rng.choice([1.0, 1e-4], columns).astype(np.float32)
    x = normal(rng, rows, columns) * sizes
    w, weights = vision_tensor(rng, name, 18, columns)
    if name == "BF16":
        weights = decoded(w)
    given, matrix = upload(x), backend.load_matrix(w)
    found = backend.to_host(backend.linear(given, matrix))
    close(found, x.astype(np.float64) @ weights.T, WIDE)
    alone = backend.load_matrix(replace(w, role=Role.OTHER))
    rounded = backend.to_host(backend.linear(given, alone))
    assert abs(rounded - found).max() > 20 * WIDE * abs(found).max()


def test_rows_that_are_read_twice_are_written_once(rng):
    backend = make_backend("fast")
    x, one = upload(normal(rng, 3, 64)), upload(np.ones(64, np.float32))
    matrices = [backend.load_matrix(vision_tensor(rng, "F16", 16, 64)[0]) for _ in range(2)]
    h = backend.rms_norm(x, one, EPS)
    found = [backend._in_two(h) for _ in matrices]
    assert found[0] is found[1]
    np.testing.assert_array_equal(*(backend.to_host(backend.linear(h, matrices[0])) for _ in range(2)))
    assert len(products(backend)) == 2


@pytest.mark.parametrize("size", [0.0, 1e-35, 3e4, 1e33])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # numpy's; a GPU gives none
def test_rows_of_any_size(rng, size):
    backend, x = make_backend("fast"), normal(rng, 2, 64) * np.float32(size)
    w, weights = vision_tensor(rng, "F16", 16, 64)
    found = backend.to_host(backend.linear(upload(x), backend.load_matrix(w)))
    wanted = x.astype(np.float64) @ weights.T
    if size < 1e30:  # beyond, float16 has no room for it: the tower says that its numbers are not finite
        assert abs(found - wanted).max() <= WIDE * abs(wanted).max() + 1e-30
    else:
        assert not np.isfinite(found).all()


@pytest.mark.parametrize(("n", "dim"), [(9, 12), (70, 72), (70, 20), (33, 76), (40, 176)])
def test_attention_over_all_patches(rng, n, dim):
    """Tiles of queries and of keys that are not full, more than one of each, and heads of both kinds."""
    backend = make_backend("fast")
    q, k, v = (normal(rng, n, 2, dim) for _ in range(3))
    k[n // 2] *= 10  # scores that are far apart
    assert_attends(backend, q, k, v)
    assert backend._queue.launched == ["attend_all"]


def test_the_reference_attends_as_well(rng):
    assert_attends(make_backend("reference"), *(normal(rng, 5, 2, 12) for _ in range(3)))


def assert_attends(backend, q, k, v):
    found = backend.to_host(backend.attend_all(*map(upload, (q, k, v))))
    scores = np.einsum("ihd,jhd->hij", q.astype(np.float64), k)
    wanted = np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(len(q), -1)
    close(found, wanted, 2e-5)  # a score of some 100 has an error of 1e-5


def test_heads_turn_in_two_directions(backend, rng):
    x, weight = normal(rng, 3, 2, 12), normal(rng, 12)
    places = [np.array([5, 0, 2]), np.array([1, 7, 0])]
    across, down = (backend.rope_angles(place, 6, 100.0, None) for place in places)
    found = backend.to_host(backend.norm_rope_2d(upload(x), upload(weight), EPS, across, down))
    normed, wanted = rms(x, weight), np.empty(x.shape)
    for half, place in enumerate(places):
        angles = place[:, None] * 100.0 ** (-np.arange(3) / 3)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = normed[..., 6 * half : 6 * half + 3], normed[..., 6 * half + 3 : 6 * half + 6]
        wanted[..., 6 * half : 6 * half + 3] = a * cos - b * sin
        wanted[..., 6 * half + 3 : 6 * half + 6] = b * cos + a * sin
    close(found, wanted, 6e-6)


def test_what_is_done_row_by_row(backend, rng):
    x, bias, scale = normal(rng, 18, 7), normal(rng, 7), normal(rng, 7)
    given = upload(x)
    np.testing.assert_array_equal(backend.to_host(backend.clamp(given, -0.5, np.inf)), np.maximum(x, -0.5))
    found = backend.to_host(backend.standardize(given, upload(bias), upload(scale)))
    close(found, (x - bias) * scale)
    found = backend.to_host(backend.pool(given, 6, 3, 2.0))
    wanted = x.reshape(1, 3, 2, 3, 7).mean(axis=(1, 3), dtype=np.float64).reshape(2, 7) * 2
    close(found, wanted)
    parts = backend.split_rows(given, 8)
    assert [part.shape for part in parts] == [(8, 7), (8, 7), (2, 7)]
    np.testing.assert_array_equal(backend.to_host(parts[2]), x[16:])
    np.testing.assert_array_equal(backend.to_host(backend.join_rows(parts)), x)
    np.testing.assert_array_equal(backend.to_host(backend.from_host(x)), x)


def write_bf16(path, config, type_name, **options):
    """A tower of which the tensors in F32 hold what BF16 does, as those of the published one."""
    write_tower(path, config, type_name, seed=3, **options)
    with GgufFile(path) as file:
        places = [(file.tensors[name].offset, file.tensors[name].n_weights) for name in (PATCHES, PLACES)]
    with path.open("r+b") as out:
        for offset, n in places:
            out.seek(offset)
            bits = np.frombuffer(out.read(4 * n), np.uint32) & 0xFFFF0000
            out.seek(offset)
            out.write(bits.tobytes())
    return path


def picture(columns, rows):
    pixels = np.random.default_rng(1).integers(0, 256, (48 * rows, 48 * columns, 3), np.uint8)
    return ImageInput("picture.png", (48 * columns, 48 * rows), pixels, 70)


FEW = replace(TINY_TOWER, n_layers=2, n_places=16)


@pytest.mark.parametrize(
    ("type_name", "path", "options", "bound"),
    [
        ("BF16", "fast", {}, 2e-5),  # the CPU's, in tests/model/test_vision.py: nothing is rounded but sums
        ("F16", "fast", {"clipped": True}, 2e-5),
        ("F16", "reference", {}, 2e-5),
        # Codes times scales are rounded to float16: 2**-12 of each weight, in 2 layers of 7 products.
        ("Q8_0", "fast", {}, 14 * 2.0**-12),
    ],
)
def test_a_tower_is_its_slow_twin(tmp_path, monkeypatch, type_name, path, options, bound):
    monkeypatch.setattr(vision, "VISION_MLP_ROWS", 10)  # in two parts
    config = replace(FEW, hidden_size=64, ff_size=96) if type_name == "Q8_0" else FEW
    file = GgufFile(write_bf16(tmp_path / "mmproj.gguf", config, type_name, **options))
    backend = make_backend(path)
    tower = VisionTower(VisionConfig.from_file(file), load_vision(file, config, backend), backend)
    image = picture(2 - (path == "reference"), 1)  # the simulator is slow
    rows = tower.encode(image)
    wanted = SlowTower(config, read_tensors(file.path)).encode(image.pixels)
    assert np.abs(rows - wanted).max() < bound * np.abs(wanted).max(), abs(rows - wanted).max()
