"""Rows with images by path: the same answers as `Session.generate` gives."""

import json
import shutil

import pytest

import dgguf
from dgguf.batch.local import LocalWorker
from dgguf.batch.work import RowWorker, Task, seed_of
from dgguf.errors import BatchError
from tests.batch.conftest import write_lines
from tests.images.test_images import random_picture
from tests.support.seeing import GEOMETRY, write_seeing_model
from tests.support.synthetic.tower import TINY_TOWER, with_text_size, write_tower


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    with dgguf.load(write_seeing_model(tmp_path_factory.mktemp("seeing")), threads=1) as session:
        yield session


def with_part(part):
    return [{"role": "user", "content": [part, {"type": "text", "text": "look"}]}]


def test_paths_begin_at_the_input(batch, seeing, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        random_picture(number, 60, 40).save(folder / f"{number}.png")
    url = {"type": "image_url", "image_url": {"url": "1.png"}}
    rows = [
        {"custom_id": "prompt", "prompt": "look", "images": ["1.png", str(folder / "2.png")]},
        {"custom_id": "named", "messages": with_part({"type": "image", "path": "1.png"})},
        {"custom_id": "left", "messages": with_part({"type": "image"}), "images": ["1.png"]},
        {"custom_id": "url", "url": "/v1/chat/completions",
         "body": {"messages": with_part(url), "max_tokens": 8}},
        {"custom_id": "none", "prompt": "look", "images": ["3.png"]},
        {"custom_id": "extra", "messages": [{"role": "user", "content": "look"}], "images": ["1.png"]},
        {"custom_id": "odd", "messages": with_part({"type": "image", "image": 3})},
    ]  # fmt: skip
    task = {"max_tokens": 8, "sampler": {"max_steps": 2}}
    batch.run(
        write_lines(folder / "in.jsonl", rows),
        lambda seed: LocalWorker(RowWorker(seeing, Task(seed, str(folder), **task))),
    )
    results = batch.results()

    def told(custom_id, *images):
        settings = seeing.settings(max_steps=2)
        names = [folder / name for name in images]
        seed = seed_of(7, custom_id)
        return seeing.generate("look", images=names, seed=seed, settings=settings, max_tokens=8).text

    texts = {
        name: result["response"]["body"]["choices"][0]["message"]["content"]
        for name, result in results.items()
        if result["response"]["status_code"] == 200
    }
    assert texts == {
        "prompt": told("prompt", "1.png", "2.png"),
        "named": told("named", "1.png"),
        "left": told("left", "1.png"),
        "url": told("url", "1.png"),
    }
    assert "3.png" in json.dumps(results["none"])
    for name in ("none", "extra", "odd"):
        assert results[name]["response"]["status_code"] == 400


def test_the_budget_of_an_image_holds_for_every_form_of_a_row(batch, seeing, tmp_path):
    random_picture(1, 60, 40).save(tmp_path / "1.png")
    url = {"type": "image_url", "image_url": {"url": "1.png"}}
    rows = [
        {"custom_id": "prompt", "prompt": "look", "images": ["1.png"]},
        {"custom_id": "messages", "messages": with_part({"type": "image", "path": "1.png"})},
        {"custom_id": "url", "url": "/v1/chat/completions", "body": {"messages": with_part(url)}},
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    found = {}
    for budget in (70, 140):
        task = {"max_tokens": 8, "sampler": {"max_steps": 1}, "image_tokens": budget}
        batch.run(
            source,
            lambda seed, task=task: LocalWorker(RowWorker(seeing, Task(seed, str(tmp_path), **task))),
            force=True,
        )
        usages = [each["response"]["body"]["usage"]["prompt_tokens"] for each in batch.results().values()]
        images = seeing.read_images("look", [tmp_path / "1.png"], budget)
        assert usages == [len(seeing.encode("look", images=images))] * 3
        found[budget] = usages[0]
    assert found[70] < found[140]


def test_a_journal_does_not_go_on_with_another_tower(batch, seeing, tmp_path):
    """What images are to the model depends on it."""
    model, folder = seeing.file.path, tmp_path
    other = folder / "mmproj-other.gguf"
    write_tower(other, with_text_size(TINY_TOWER, GEOMETRY.embedding_length), "F32", 4)
    random_picture(1, 60, 40).save(folder / "1.png")
    rows = [{"custom_id": name, "prompt": "look", "images": ["1.png"]} for name in "ab"]
    source = write_lines(folder / "in.jsonl", rows)
    task = {"max_tokens": 8, "sampler": {"max_steps": 2}}

    def run(session, **given):
        def workers(seed):
            return LocalWorker(RowWorker(session, Task(seed, str(folder), **task)))

        return batch.run(source, workers, **given)

    assert run(seeing, stop=lambda: batch.advanced > 0).n_done == 1
    broken = folder / "mmproj-broken.gguf"
    broken.write_bytes(b"GGUF")
    for mmproj in (other, "none", broken):
        with (
            dgguf.load(model, threads=1, mmproj=mmproj) as session,
            pytest.raises(BatchError, match="another mmproj"),
        ):
            run(session)
    shutil.copyfile(model.parent / "mmproj.gguf", folder / "copy.gguf")  # of another name, the same tower
    with dgguf.load(model, threads=1, mmproj=folder / "copy.gguf") as session:
        progress = run(session)
    assert (progress.n_before, progress.n_done, progress.n_failed) == (1, 2, 0)
