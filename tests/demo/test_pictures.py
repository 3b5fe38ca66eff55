"""Pictures that the demo is shown: drawn as they are described; and the torch twin of its tower."""

import itertools
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dgguf import catalog
from dgguf.cli import cli
from dgguf.videos import Pictures
from tools.demo.pictures import (
    COLOURS,
    MAKERS,
    PLACES,
    SHAPES,
    WHATS,
    Drawn,
    cells,
    example_pictures,
    paint,
)
from tools.demo_eval.judges import judge

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize("kind", MAKERS)
def test_answers_are_right_and_every_picture_has_its_place_in_the_message(kind):
    rng = random.Random(kind)
    answers = set()
    for _ in range(40):
        seen = MAKERS[kind](rng)
        assert judge(seen.example.entry, seen.example.answers).outcome == "right", seen.example
        (message,) = seen.example.messages
        assert [part["type"] for part in message["content"]] == ["image"] * len(seen.images) + ["text"]
        assert all(image.mode == "RGB" and image.width == image.height for image in seen.images)
        answers.add(seen.example.answer)
    assert len(answers) > 10


@pytest.mark.parametrize("what", [*SHAPES, "5", "K"])
def test_ink_lies_where_a_thing_is_said_to_be(what):
    rng = random.Random(what)
    for colour in ("red", "blue", "black"):
        for place in PLACES.values():
            pixels = np.asarray(paint([Drawn(what, colour, *place, 0.3)], rng)).astype(int)
            ink = np.abs(pixels - COLOURS[colour]).sum(-1) < 60
            assert ink.mean() > 0.004
            rows, columns = np.nonzero(ink)
            side = len(pixels)
            assert abs(columns.mean() / side - place[0]) < 0.08
            assert abs(rows.mean() / side - place[1]) < 0.08


def test_cells_are_where_the_ink_is():
    things = [Drawn("star", "red", 0.2, 0.8, 0.36), Drawn("K", "blue", 0.8, 0.2, 0.2)]
    found = cells(things, 8).reshape(8, 8, 2)
    assert found[6, 1].tolist() == [WHATS.index("star"), 0]
    assert found[1, 6].tolist() == [WHATS.index("K"), 1]
    assert found[4, 4].tolist() == [-1, -1]
    shown = paint(things, random.Random(1), 160)
    inked = (np.asarray(shown).astype(int).max(-1) - np.asarray(shown).astype(int).min(-1)) > 90
    share = inked.reshape(8, 20, 8, 20).mean((1, 3))
    assert share[found[..., 0] >= 0].mean() > 10 * share[found[..., 0] < 0].mean()


def test_shapes_differ_though_they_are_turned():
    def shares(what):
        rng = random.Random(1)
        return [np.mean(np.asarray(paint([Drawn(what, "black", 0.5, 0.5, 0.5)], rng)) < 90) for _ in range(8)]

    means = sorted(float(np.mean(shares(what))) for what in SHAPES)
    assert min(b - a for a, b in itertools.pairwise(means)) > 0.005


@pytest.mark.parametrize("name", example_pictures())
def test_the_three_examples_are_what_is_drawn(name):
    kept, drawn = Image.open(EXAMPLES / name).convert("RGB"), example_pictures()[name]
    assert kept.size == drawn.size
    assert (EXAMPLES / name).stat().st_size < 10_000
    # Another Pillow may smooth an edge in another way.
    assert np.abs(np.asarray(kept).astype(int) - np.asarray(drawn)).mean() < 2


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_dgguf_reads_a_picture_as_the_twin_does(tmp_path):
    torch = pytest.importorskip("torch")
    from dgguf.ggufio.file import GgufFile
    from dgguf.images import read_image
    from dgguf.model.mmproj import VisionConfig
    from tests.support.tower_reference import SlowTower, read_tensors
    from tools.demo.tower import Tower, TowerSizes, write_mmproj
    from tools.demo.train import sizes

    tower = Tower(TowerSizes(), 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tower.parameters():  # what starts at 1 would hide that it is left out
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    write_mmproj(tower, sizes(), tmp_path / "tower", tmp_path / "small.gguf", "Q8_0")
    assert (tmp_path / "small.gguf").stat().st_size < 1_000_000
    write_mmproj(tower, sizes(), tmp_path / "tower", tmp_path / "mmproj.gguf", "F32")
    image = read_image(MAKERS["what"](random.Random(2)).images[0], 70)
    with torch.no_grad():
        found = tower(torch.from_numpy(image.patches())[None], 3 * image.columns)[0].numpy()
    with GgufFile(tmp_path / "mmproj.gguf") as file:
        config = VisionConfig.from_file(file)
    slow = SlowTower(config, read_tensors(tmp_path / "mmproj.gguf"))
    np.testing.assert_allclose(found, slow.encode(image.pixels), atol=1e-3)
    assert np.isfinite(found).all()
    assert np.abs(found).mean() > 0.05


@pytest.fixture
def seeing(monkeypatch):
    """A tiny network with a tiny tower, whose batches are small."""
    pytest.importorskip("torch")
    from tools.demo import see
    from tools.demo.batches import Kind
    from tools.demo.lesson import Teacher
    from tools.demo.train import Trainer, sizes

    small = {"hidden": 64, "n_layers": 3, "head_dim": 16, "head_dim_full": 32, "ff": 48, "expert_ff": 32}
    monkeypatch.setattr(see, "TURNS", ((70, Kind(176, 24, {"what": 1, "compared": 1})),))
    monkeypatch.setattr("tools.demo.train.KINDS", (Kind(48, 32, {"sum": 2, "saying": 1}),))
    tower = see.TowerSizes(text=64, hidden=32, ff=48, n_layers=1)
    return see.Seeing(Trainer(sizes(**small), 3, compiled=False), Teacher(tower, 3))


@pytest.mark.oracle
def test_every_kind_of_batch_comes_among_the_steps_without_pictures():
    pytest.importorskip("torch")
    from tools.demo.batches import KINDS
    from tools.demo.see import PICTURES_EVERY

    without = {step % len(KINDS) for step in range(1000) if step % PICTURES_EVERY}
    assert len(without) == len(KINDS)


@pytest.mark.oracle
def test_prompts_with_pictures_fit_a_batch_and_the_window():
    """The twin knows no window: what the network is taught must lie within it."""
    pytest.importorskip("torch")
    from tools.demo.batches import Examples
    from tools.demo.see import TURNS, picture_batch
    from tools.demo.train import sizes

    examples = Examples()
    for budget, kind in TURNS:
        assert kind.prompt + kind.canvas <= sizes().window
        made = picture_batch(examples, budget, kind, 3, 0)
        assert (made.spans > 0).any(1).all()
        assert (made.batch.prompt >= 0).sum(1).max() <= kind.prompt


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_step_with_pictures_trains_the_tower_and_dgguf_sees_what_the_twin_sees(seeing, tmp_path):
    import torch

    import dgguf
    from dgguf.images import read_image
    from dgguf.model.canvas import Canvas
    from tools.demo.lesson import looks
    from tools.demo.see import TURNS, picture_batch, placed, prompt_ids
    from tools.demo.tower import write_mmproj
    from tools.demo.train import export

    trainer = seeing.trainer
    before = {name: value.detach().clone() for name, value in seeing.teacher.tower.named().items()}
    taught = [matrix.detach().clone() for matrix in seeing.teacher.lesson.matrices]
    seeing.train_step(defaultdict(list), 1.0)
    assert all(not torch.equal(a, b) for a, b in zip(taught, seeing.teacher.lesson.matrices, strict=True))
    assert all(not torch.equal(before[name], value) for name, value in seeing.teacher.tower.named().items())
    made = picture_batch(trainer.examples, *TURNS[0], 3, 0)
    assert made.looks.patches.shape == (3, 576, 768)
    assert made.looks.columns == 24
    assert made.looks.cells.shape == (3, 64, 2)
    assert (made.spans > 0).sum() == 3 * 64
    assert made.batch.prompt.shape == made.spans.shape

    export(trainer, tmp_path, tmp_path / "demo.gguf", "F32")
    write_mmproj(
        seeing.teacher.tower, trainer.twin.sizes, tmp_path / "tower", tmp_path / "mmproj.gguf", "F32"
    )
    seen = MAKERS["compared"](random.Random(4))
    images = [read_image(image, 70) for image in seen.images]
    ids, places = prompt_ids(trainer.examples, seen, images)
    canvas = np.random.default_rng(2).integers(20, trainer.twin.sizes.vocab_size, 32)
    seeing.trainer.twin = trainer.averaged()
    seeing.trainer.twin.dtype = torch.float32
    with torch.no_grad():
        read = placed(seeing.teacher.read(looks(images, seen.things)), np.array([places]))
        expected = trainer.twin.logits(torch.tensor([ids]), torch.from_numpy(canvas)[None], None, read)[0]
    with dgguf.load(tmp_path / "demo.gguf", exact=True) as session:
        messages, budget = seen.example.messages, {"image_tokens": 70}
        assert session.encode(messages, images=list(seen.images), **budget).tolist() == ids
        cache = session.conversation().cache
        given = session.read_images(messages, list(seen.images), 70)
        session.model.encode(np.array(ids), cache, spans=session.images.spans(np.array(ids), Pictures(given)))
        found = session.backend.to_host(session.model.logits(Canvas(canvas), cache, None))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


@pytest.mark.oracle
def test_lessons_go_on_where_they_stopped_and_teach(seeing, tmp_path):
    import torch

    from tools.demo.lesson import Teacher, teach

    teacher, path = seeing.teacher, tmp_path / "lessons.pt"
    first = teacher.teach()
    teach(teacher, path, 3)
    again = Teacher(teacher.tower.sizes, 9)
    again.load_state(torch.load(path))
    assert again.n_lessons == 3
    assert teacher.teach() == again.teach()
    teacher.n_lessons = 0  # the same pictures again
    assert teacher.teach() < first


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_second_stage_goes_on_where_it_stopped_and_its_demo_is_shown_a_picture(
    seeing, tmp_path, monkeypatch
):
    import torch

    import dgguf
    from tools.demo import evaluate, see
    from tools.demo.packed import write_packed

    data = tmp_path / "package" / "data"
    data.mkdir(parents=True)
    see.train(seeing, data, 1)
    first = (data / "state.pt").read_bytes()
    trainer = see.Trainer(seeing.trainer.twin.sizes, 8, compiled=False)
    again = see.Seeing(trainer, see.Teacher(seeing.teacher.tower.sizes, 8))
    again.load(data / "state.pt")
    for path in data.glob("*.gguf"):
        path.unlink()
    for each in (seeing, again):  # a step with pictures, then one without
        see.train(each, data, 3)
    assert (data / "state.pt").read_bytes() != first
    assert again.step == seeing.step == 3
    for name, value in seeing.teacher.tower.named().items():
        assert torch.equal(value, again.teacher.tower[name]), name
    assert (data / "mmproj.gguf").stat().st_size < 1_000_000
    write_packed(seeing.packed(), 3, tmp_path / "packed.pt")
    assert (tmp_path / "packed.pt").stat().st_size < 0.45 * (data / "state.pt").stat().st_size
    elsewhere = see.Seeing(
        see.Trainer(seeing.trainer.twin.sizes, 5, compiled=False), see.Teacher(seeing.teacher.tower.sizes, 5)
    )
    elsewhere.load(tmp_path / "packed.pt")
    see.train(elsewhere, tmp_path, 4)
    assert elsewhere.step == 4
    for name, value in seeing.teacher.tower.named().items():
        np.testing.assert_allclose(
            elsewhere.teacher.tower[name].detach(), value.detach(), atol=0.02, err_msg=name
        )
    (tmp_path / "models.txt").write_bytes((EXAMPLES.parents[1] / "models.txt").read_bytes())
    monkeypatch.setattr(catalog, "_PACKAGE", data.parent)
    picture = ["--image", str(EXAMPLES / "stars.png"), "--image-tokens", "70", "-n", "16", "-t", "1"]
    done = CliRunner().invoke(cli, ["run", "demo", "What is in the picture?", *picture])
    assert done.exit_code == 0, done.output
    assert "[image 1: stars.png, 384x384, 64 tokens]" in done.stderr
    monkeypatch.setattr(evaluate, "_MAX_TOKENS", 16)
    with dgguf.load(data / "demo.gguf") as session:
        row = evaluate.measure(session, "picture: compared", 2, 1, image_tokens=70)
    assert sum(row.outcomes.values()) == len(row.settled) == 2
