"""Vision towers on the command line: written, shown, refused."""

import json

import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from tests.convert.test_vision import with_tower
from tests.support.checkpoints import Checkpoint
from tests.support.seeing import write_seeing_model
from tests.support.synthetic.tower import write_tower


@pytest.fixture
def seeing(tmp_path):
    return with_tower(Checkpoint(tmp_path / "tiny-model"))


def dgguf(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_quantize_writes_the_model_and_its_tower(seeing, tmp_path):
    folder, out, tower = seeing.write(), tmp_path / "out.gguf", tmp_path / "mmproj-F16.gguf"
    both = ["quantize", folder, out, "--type", "Q8_0", "--mmproj", tower, "--mmproj-type", "f16"]
    plan = dgguf(*both, "--dry-run")
    assert plan.exit_code == 0
    assert "v.blk.1.ffn_down.weight" in plan.stdout
    assert "blk.1.ffn_down.weight" in plan.stdout
    assert not out.exists()
    assert not tower.exists()
    done = dgguf(*both, "--report", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    names = [row["tensor"] for row in json.loads((tmp_path / "report.json").read_text())["tensors"]]
    assert "v.std_bias" in names
    assert "token_embd.weight" in names
    again = dgguf(*both)
    assert again.exit_code == 1
    assert "exists" in str(again.exception)
    shown = dgguf("show", tower)
    assert "vision tower  2 layers, standardized" in shown.stdout
    assert "4 heads of 16" in shown.stdout


def test_quantize_writes_the_tower_alone(seeing, tmp_path):
    folder, tower = seeing.write(), tmp_path / "mmproj.gguf"
    assert dgguf("quantize", folder, "--mmproj", tower).exit_code == 0
    report = json.loads(dgguf("show", tower, "--json", "--tensors").stdout)
    assert report["geometry"]["hidden_size"] == 64
    assert report["memory"]["scratch"]["280"] > 0
    assert report["types"]["BF16"]["tensors"] == 15


def test_nothing_is_written_where_one_of_two_files_cannot_be(seeing, tmp_path):
    folder, out, tower = seeing.write(), tmp_path / "out.gguf", tmp_path / "mmproj.gguf"
    tower.write_bytes(b"mine")
    done = dgguf("quantize", folder, out, "--type", "Q8_0", "--mmproj", tower)
    assert done.exit_code == 1
    assert "mmproj.gguf exists" in str(done.exception)
    assert not out.exists()
    assert tower.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "OUT"),
        (["a", "b"], "--type"),
        (["a", "--type", "Q8_0", "--mmproj", "c"], "--type goes with OUT"),
        (["a", "b", "--type", "Q8_0", "--mmproj-type", "F16"], "--mmproj-type goes with --mmproj"),
        (["a", "b", "--type", "Q8_0", "--mmproj", "b"], "name two"),
        (["a", "--mmproj", "c", "--mmproj-type", "Q4_K"], "Q4_K"),
    ],
)
def test_options_that_do_not_go_together(arguments, words):
    done = dgguf("quantize", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_show_refuses_another_tower_by_name(tmp_path):
    path = write_tower(tmp_path / "mmproj.gguf", metadata={"clip.vision.projector_type": "gemma4uv"})
    done = dgguf("show", path)
    assert done.exit_code == 1
    assert "gemma4uv" in str(done.exception) + done.stderr


def test_doctor_finds_the_tower(tmp_path):
    model = write_seeing_model(tmp_path)

    def found():
        checks = json.loads(dgguf("doctor", model, "--json").stdout)["cpu"]
        return next(check for check in checks if check["name"] == "images")

    assert found()["found"].startswith("mmproj.gguf: ")
    vision = json.loads(dgguf("show", model, "--json").stdout)["vision"]
    assert vision == {
        "path": str(tmp_path / "mmproj.gguf"),
        "weights_mapped": (tmp_path / "mmproj.gguf").stat().st_size,
        "scratch": vision["scratch"],
        "on_gpu": vision["on_gpu"],
    }
    assert " images, besides " in dgguf("show", model).stdout
    write_tower(tmp_path / "mmproj.gguf", metadata={"clip.vision.projector_type": "gemma4uv"})
    assert not found()["ok"]
    assert "gemma4uv" in json.loads(dgguf("show", model, "--json").stdout)["vision"]["error"]
    (tmp_path / "mmproj.gguf").unlink()
    assert found()["ok"]
    assert "no vision tower" in found()["found"]
    assert json.loads(dgguf("show", model, "--json").stdout)["vision"] is None
