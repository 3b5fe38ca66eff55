"""GGUF files as sources, and what `quantize` lets a user ask for: types, parts, reports, resuming."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest

from dgguf import convert
from dgguf.cli import cli
from dgguf.convert.recipes import RECIPES
from dgguf.errors import ConversionError
from dgguf.ggufio.file import GgufFile
from dgguf.quants.decode import decoder
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE, WEIGHTED
from tests.model.test_transformer import WIDE
from tests.support.killing import killed_while_writing
from tests.support.synthetic.writer import write_model


def run(source, out, type_name="Q4_K_M", *, force=False, resume=False, measure=False, **options):
    """Convert and return the `TensorWritten` events."""
    plan = convert.plan(source, type_name, **options)
    return list(convert.run(plan, out, force, resume=resume, measure=measure))[:-1]


def types(path):
    with GgufFile(path) as file:
        return {name: tensor.format.name for name, tensor in file.tensors.items()}


def values(path, name):
    with GgufFile(path) as file:
        raw, tensor = file.data(name), file.tensors[name]
    raw = raw.reshape(-1, raw.shape[-1])
    out = np.empty((len(raw), tensor.shape[-1]), np.float32)
    decoder(tensor.format)(raw, out)
    return out


@pytest.mark.parametrize("type_name", RECIPES)
def test_every_recipe_writes_what_its_encoders_give(source, tmp_path, type_name):
    """Each matrix, encoded whole, by itself; gguf-py reads the file."""
    out = tmp_path / "out.gguf"
    run(source, out, type_name)
    found = types(out)
    with GgufFile(source) as before, GgufFile(out) as after:
        assert list(before.tensors) == list(after.tensors)
        for name in before.tensors:
            if before.tensors[name].format.name != "BF16":
                assert bytes(after.data(name)) == bytes(before.data(name))
                continue
            x, name_of_type = values(source, name), found[name]
            weighted = RECIPES[type_name].searched and name_of_type in WEIGHTED
            expected = np.empty((len(x), after.tensors[name].format.row_bytes(x.shape[1])), np.uint8)
            if name_of_type == "BF16":
                expected = before.data(name)
            else:
                importance = np.ones(x.shape[1], np.float32) if weighted else NO_IMPORTANCE
                ENCODERS[name_of_type](x, importance, expected)
            assert after.data(name).tobytes() == expected.tobytes(), name
        unchanged = dict(before.metadata), dict(after.metadata)
    for metadata in unchanged:
        assert metadata.pop("general.quantization_version") == 2
    assert unchanged[0].pop("general.file_type") == RECIPES["BF16"].file_type
    assert unchanged[1].pop("general.file_type") == RECIPES[type_name].file_type
    assert unchanged[0].keys() == unchanged[1].keys()
    for key, value in unchanged[0].items():
        assert list(np.atleast_1d(value)) == list(np.atleast_1d(unchanged[1][key])), key
    assert {t.name: t.tensor_type.name for t in gguf.GGUFReader(out).tensors} == found


def test_a_quantized_source_and_a_split_one(source, tmp_path):
    assert write_model(tmp_path / "s.gguf", WIDE, "BF16", seed=4, n_parts=3)[1].exists()
    run(source, tmp_path / "whole.gguf")
    run(tmp_path / "s-00002-of-00003.gguf", tmp_path / "parts.gguf")
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    plan = convert.plan(tmp_path / "whole.gguf", "Q8_0")
    assert any("quantized already (Q4_K, Q5_0, Q5_K, Q6_K, Q8_0)" in note for note in plan.notes)
    # What has the type already is copied: no second rounding.
    run(tmp_path / "whole.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_old_names_become_new_ones(tmp_path):
    write_model(tmp_path / "old.gguf", WIDE, "F32", old_self_cond_norm=True)
    run(tmp_path / "old.gguf", tmp_path / "new.gguf", "Q8_0")
    assert "self_cond_pre_norm.weight" in types(tmp_path / "new.gguf")
    assert "self_cond_norm.weight" not in types(tmp_path / "new.gguf")


def test_a_file_that_is_another_model_is_refused(tmp_path):
    write_model(tmp_path / "m.gguf", WIDE, "F32", metadata={"general.architecture": "llama"})
    with pytest.raises(ConversionError, match="llama"):
        convert.plan(tmp_path / "m.gguf", "Q8_0")


def test_types_of_single_tensors(source, tmp_path):
    plan = convert.plan(
        source,
        "Q4_K_M",
        tensor_types=[("blk.0.attn_q", "q8_0"), ("attn_", "F16"), ("gate_inp", "BF16"), ("attn_v", "Q2_K")],
        output_type="Q5_K",
    )
    found = {t.name: t.format.name for t in plan.tensors}
    assert found["blk.0.attn_q.weight"] == "Q8_0"  # the first that matches counts
    assert found["blk.1.attn_q.weight"] == found["blk.0.attn_v.weight"] == "F16"
    assert found["blk.1.ffn_gate_inp.weight"] == "BF16"
    assert found["token_embd.weight"] == "Q5_K"
    assert found["blk.0.attn_norm.weight"] == "F32"


def test_eight_experts_get_the_types_of_llama_cpp(source):
    assert WIDE.expert_count == 8
    found = {t.name: t.format.name for t in convert.plan(source, "Q4_K_M").tensors}
    assert found["blk.0.attn_k.weight"] == found["blk.0.attn_v.weight"] == "Q8_0"
    assert found["blk.0.attn_output.weight"] == "Q5_K"
    assert found["blk.0.attn_q.weight"] == "Q4_K"


def test_a_fallback_of_the_recipe_is_said_in_one_line(source):
    (note,) = convert.plan(source, "Q4_K_M").notes
    assert note.startswith("blocks of the recipe's types do not divide all rows: ")
    assert "Q8_0 instead of Q6_K (rows of 96)" in note
    assert "Q8_0 instead of Q6_K (rows of 32)" in note
    assert not convert.plan(source, "Q4_0").notes


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tensor-type", "ffn_down=q4_k"], "blk.0.ffn_down.weight and 3 more cannot be Q4_K"),
        (["--tensor-type", "1.ffn_down.weight=iq4_xs"], "rows of 96; choose another type, such as IQ4_NL"),
    ],
)
def test_a_type_that_cannot_be_had_is_refused(source, tmp_path, options, words, dry_run):
    arguments = ["quantize", str(source), str(tmp_path / "out.gguf"), "--type", "Q8_0", *options]
    with pytest.raises(ConversionError, match=re.escape(words)):
        cli.main(arguments + ["--dry-run"] * dry_run, standalone_mode=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_types": [("no_such", "Q8_0")]}, "no matrix of the model has a name in which 'no_such'"),
        ({"tensor_types": [("attn(", "Q8_0")]}, "'attn\\(' is no regular expression"),
        ({"tensor_types": [("attn", "Q9")]}, "'Q9' is no type that dgguf writes: choose one of F32, F16"),
        ({"output_type": "IQ2_S"}, "'IQ2_S' is no type that dgguf writes"),
    ],
)
def test_wrong_types_are_refused(source, options, words):
    with pytest.raises(ConversionError, match=words):
        convert.plan(source, "Q8_0", **options)


def legacy_imatrix(path, entries, tail=True):
    raw = struct.pack("<i", len(entries))
    for name, (calls, sums) in entries.items():
        raw += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(sums))
        raw += np.asarray(sums, "<f4").tobytes()
    if tail:
        raw += struct.pack("<ii", 9, len("wiki.txt")) + b"wiki.txt"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("tail", [True, False])
def test_legacy_importances_reach_each_expert(source, tmp_path, tail):
    name, rng = "blk.1.ffn_down_exps.weight", np.random.default_rng(3)
    sums = rng.random((WIDE.expert_count, WIDE.expert_feed_forward_length)).astype(np.float32)
    path = legacy_imatrix(tmp_path / "i.dat", {name: (4, sums.ravel())}, tail)
    imatrix = convert.read_imatrix(path)
    assert (imatrix.dataset, imatrix.n_chunks) == (("wiki.txt", 9) if tail else ("", 0))
    run(source, tmp_path / "out.gguf", "Q4_0", imatrix=imatrix)
    with GgufFile(tmp_path / "out.gguf") as file:
        found = file.data(name)
        assert file.get("quantize.imatrix.file", str) == "i.dat"
        assert file.get("quantize.imatrix.entries_count", int) == 1
    x = values(source, name).reshape(found.shape[0], found.shape[1], -1)
    expected = np.empty(found.shape, np.uint8)
    for expert in range(len(x)):
        ENCODERS["Q4_0"](x[expert], sums[expert] / np.float32(4), expected[expert])
    np.testing.assert_array_equal(found, expected)


def test_a_matrix_without_importances_is_encoded_as_one_of_equal_ones(source, tmp_path):
    name, rng = "blk.1.ffn_down_exps.weight", np.random.default_rng(3)
    sums = rng.random((WIDE.expert_count, WIDE.expert_feed_forward_length)).astype(np.float32)
    found = []
    for importance in (0, 1):
        sums[2] = importance
        imatrix = convert.read_imatrix(legacy_imatrix(tmp_path / "i.dat", {name: (1, sums.ravel())}))
        run(source, tmp_path / "out.gguf", "IQ4_NL", imatrix=imatrix, force=True)
        found.append(values(tmp_path / "out.gguf", name).reshape(len(sums), -1, sums.shape[1]))
    np.testing.assert_array_equal(*found)
    assert found[0][2].any()


@pytest.mark.parametrize("type_name", ["IQ4_NL", "Q4_0", "Q4_K"])
def test_scales_that_are_not_finite_are_an_error(source, tmp_path, type_name):
    name = "blk.1.attn_q.weight"
    huge = np.full(WIDE.embedding_length, 3e38, np.float32)
    imatrix = convert.read_imatrix(legacy_imatrix(tmp_path / "i.dat", {name: (1, huge)}))
    plan = convert.plan(source, "Q8_0", tensor_types=[("blk.1.attn_q", type_name)], imatrix=imatrix)
    words = rf"source\.gguf: the tensor {name} with its importances gives {type_name} scales that are not"
    with pytest.raises(ConversionError, match=words):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["i.dat"]


def test_importances_of_halves_serve_the_fused_tensor_and_back(tmp_path):
    one = np.ones(WIDE.expert_count * WIDE.embedding_length, np.float32)
    shape = (WIDE.expert_count, 64, WIDE.embedding_length)
    for has, asked in (("gate", "gate_up"), ("gate_up", "gate"), ("gate_up", "up")):
        path = legacy_imatrix(tmp_path / "i.dat", {f"blk.0.ffn_{has}_exps.weight": (1, one)})
        assert convert.read_imatrix(path).of(f"blk.0.ffn_{asked}_exps.weight", shape) is not None


def test_wrong_importances_are_refused(source, tmp_path):
    path = legacy_imatrix(tmp_path / "i.dat", {"blk.0.attn_q.weight": (1, np.ones(8, np.float32))})
    with pytest.raises(ConversionError, match=r"has 8 importances for blk\.0\.attn_q\.weight, which has 256"):
        convert.plan(source, "Q4_0", imatrix=convert.read_imatrix(path))
    whole = path.read_bytes()
    for end in range(len(whole) - 16):
        path.write_bytes(whole[:end])
        with pytest.raises(ConversionError):
            convert.read_imatrix(path)
    legacy_imatrix(path, {"blk.0.attn_q.weight": (1, [np.nan])})
    with pytest.raises(ConversionError, match="no mean squares"):
        convert.read_imatrix(path)
    with pytest.raises(ConversionError, match=r"no imatrix: its general\.type"):
        convert.read_imatrix(source)
    with pytest.raises(ConversionError, match="cannot be read"):
        convert.read_imatrix(tmp_path / "none")


def test_parts(source, tmp_path):
    run(source, tmp_path / "whole.gguf")
    limit = 150_000
    plan = convert.plan(source, "Q4_K_M", split_bytes=limit)
    *_, finished = convert.run(plan, tmp_path / "m.gguf")
    paths = sorted(tmp_path.glob("m-*.gguf"))
    count = len(paths)
    assert count == len(plan.files) > 3
    assert [p.name for p in paths] == [f"m-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    assert finished.path == paths[0]
    assert finished.n_bytes == sum(p.stat().st_size for p in paths) == plan.n_bytes
    for file in plan.files:
        data = file.n_bytes - len(file.header)
        assert data <= limit or len(file.tensors) == 1
    # Two together would be too large: no part is smaller than it need be.
    sizes = [file.n_bytes - len(file.header) for file in plan.files]
    assert all(a + b.tensors[0].n_bytes > limit for a, b in zip(sizes, plan.files[1:], strict=False))
    with GgufFile(tmp_path / "whole.gguf") as whole, GgufFile(paths[-1]) as parts:
        assert list(whole.tensors) == list(parts.tensors)
        for name in whole.tensors:
            assert bytes(whole.data(name)) == bytes(parts.data(name))
    run(paths[0], tmp_path / "joined.gguf")
    assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    with pytest.raises(ConversionError, match=r"m-00001-of-.*exists"):
        list(convert.run(plan, tmp_path / "m.gguf"))


def test_what_a_tensor_lost(source, tmp_path):
    events = run(source, tmp_path / "out.gguf", measure=True)
    for event in events:
        assert event.error is not None
        before, after = values(source, event.name), values(tmp_path / "out.gguf", event.name)
        square = np.square(before, dtype=np.float64)
        wrong = np.square(after.astype(np.float64) - before)
        relative = np.sqrt(wrong.sum() / square.sum())
        np.testing.assert_allclose(event.error.relative, relative, rtol=1e-6)
        row, column = event.error.worst_row, event.error.worst_column
        with GgufFile(tmp_path / "out.gguf") as file:
            size = file.tensors[event.name].format.block_size
        blocks = wrong.reshape(len(wrong), -1, size).mean(axis=2)
        assert np.sqrt(blocks[row, column // size] / square.mean()) == pytest.approx(
            event.error.worst_relative
        )
        assert blocks[row, column // size] == pytest.approx(blocks.max())
    assert {round(e.error.relative, 2) for e in events} >= {0.0, 0.02, 0.07}


# Resuming.


def cut_off(source, out, n_tensors, type_name="Q4_K_M", **options):
    events = convert.run(convert.plan(source, type_name, **options), out)
    for _ in range(n_tensors):
        next(events)
    events.close()


@pytest.mark.parametrize("split", [None, 150_000])
@pytest.mark.parametrize("n_tensors", [2, 30, 50])
def test_a_resumed_conversion_gives_the_same_bytes(source, tmp_path, small_syncs, n_tensors, split):
    whole, out = tmp_path / "a" / "m.gguf", tmp_path / "b" / "m.gguf"
    whole.parent.mkdir()
    out.parent.mkdir()
    run(source, whole, split_bytes=split)
    cut_off(source, out, n_tensors, split_bytes=split)
    assert not list(out.parent.glob("*.gguf"))
    events = run(source, out, resume=True, split_bytes=split)
    # The last two large tensors of each file, and the small ones around them, are written again.
    assert n_tensors // 2 - 5 < sum(event.resumed for event in events) <= n_tensors - 2
    assert [p.name for p in sorted(out.parent.iterdir())] == [p.name for p in sorted(whole.parent.iterdir())]
    for path in whole.parent.iterdir():
        assert (out.parent / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("lost", [1, 5000, 40_000, 200_000])
def test_a_crash_that_lost_the_end_is_resumed(source, tmp_path, small_syncs, lost):
    """The file is shorter, or its last tensor never reached the disk."""
    run(source, tmp_path / "whole.gguf")
    out, partial = tmp_path / "m.gguf", tmp_path / "m.gguf.partial"
    for damage in ("short", "zeros"):
        cut_off(source, out, 30)
        raw = partial.read_bytes()
        if damage == "short":
            partial.write_bytes(raw[:-lost])
        elif lost <= 5000:  # within the last tensor
            partial.write_bytes(raw[:-lost] + bytes(lost))
        run(source, out, resume=True)
        assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
        out.unlink()


def test_only_the_same_conversion_goes_on(source, tmp_path, small_syncs):
    out, partial = tmp_path / "m.gguf", tmp_path / "m.gguf.partial"
    cut_off(source, out, 30)
    kept = partial.read_bytes()
    with pytest.raises(ConversionError, match=r"use --resume to go on with it, or --force"):
        run(source, out)
    with pytest.raises(ConversionError, match="from another conversion, of other types or another source"):
        run(source, out, "Q4_K_S", resume=True)
    other = tmp_path / "other.gguf"
    write_model(other, WIDE, "BF16", seed=5)
    with pytest.raises(ConversionError, match="is from another source or other settings"):
        run(other, out, resume=True)
    assert partial.read_bytes() == kept
    run(source, out, resume=True)
    run(source, tmp_path / "whole.gguf")
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_resume_without_a_partial_file_begins(source, tmp_path):
    run(source, tmp_path / "a.gguf", resume=True)
    run(source, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


# The command.


def dgguf(*arguments):
    cli.main(["quantize", *map(str, arguments)], standalone_mode=False)


def test_a_dry_run_writes_nothing(source, tmp_path, capsys):
    plan = convert.plan(source, "Q4_K_M")
    dgguf(source, tmp_path / "m.gguf", "--type", "q4_k_m", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert not list(tmp_path.iterdir())
    assert lines[0].split() == ["tensor", "shape", "from", "to", "bytes", "bits/weight"]
    assert len(lines) == 2 + len(plan.tensors)
    assert lines[1].split() == ["token_embd.weight", "758x256", "BF16", "Q6_K", str(758 * 210), "6.56"]
    bits = f"{8 * plan.n_bytes / plan.n_weights:.2f}"
    assert lines[-1].split() == ["total", "1", "file", "with", "headers", str(plan.n_bytes), bits]


def test_reports(source, tmp_path, capsys):
    dgguf(source, tmp_path / "m.gguf", "--type", "Q4_K_M", "--report", tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert (rows["type"], rows["unmeasured"]) == ("Q4_K_M", 0)
    by_name = {row["tensor"]: row for row in rows["tensors"]}
    assert by_name.keys() == types(source).keys()
    assert by_name["token_embd.weight"]["to"] == "Q6_K"
    assert 0.01 < by_name["token_embd.weight"]["relative_error"] < 0.03
    dgguf(source, tmp_path / "m.gguf", "--type", "Q4_K_M", "--report", tmp_path / "r.txt", "--force")
    lines = (tmp_path / "r.txt").read_text().splitlines()
    errors = [float(line.split()[3]) for line in lines[2:]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == len(by_name)
    assert not capsys.readouterr().out


def test_a_report_says_what_it_lacks(source, tmp_path, small_syncs):
    cut_off(source, tmp_path / "m.gguf", 30)
    dgguf(source, tmp_path / "m.gguf", "--type", "Q4_K_M", "--resume", "--report", tmp_path / "r.txt")
    assert "tensors that an earlier run" in (tmp_path / "r.txt").read_text().splitlines()[-1]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose conversion takes half a second on one core, and what it becomes."""
    folder = tmp_path_factory.mktemp("large")
    geometry = replace(WIDE, block_count=8, feed_forward_length=4096, embedding_length=1024)
    write_model(folder / "s.gguf", geometry, "BF16", seed=1)
    run(folder / "s.gguf", folder / "whole.gguf", "Q2_K")
    return folder


@pytest.mark.posix
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a single core is not to be had")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_conversion_that_is_cut_off_goes_on(large, tmp_path, name):
    """As a process of its own."""
    out, partial = tmp_path / "m.gguf", tmp_path / "m.gguf.partial"
    command = [sys.executable, "-m", "dgguf", "quantize", large / "s.gguf", out, "--type", "Q2_K"]
    code, said = killed_while_writing(
        [*command, "--force"], partial, 5_000_000, getattr(signal, name),
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )  # fmt: skip
    if name == "SIGINT":
        assert code == 130, said
        assert "--resume goes on from what is done" in said
    assert [p.name for p in tmp_path.iterdir()] == [partial.name]
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert "Traceback" not in resumed.stderr
    assert resumed.returncode == 0
    assert out.read_bytes() == (large / "whole.gguf").read_bytes()
    assert not partial.exists()


def test_a_known_model_is_a_source(tmp_path):
    dgguf("demo", tmp_path / "m.gguf", "--type", "Q8_0")
    assert types(tmp_path / "m.gguf")
    with pytest.raises(Exception, match="`dgguf pull diffusiongemma-bf16` downloads it"):
        dgguf("diffusiongemma-bf16", tmp_path / "n.gguf", "--type", "Q8_0")
