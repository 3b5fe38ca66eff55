"""Writing: what may be replaced, what a failure or a cancellation leaves, and what memory it takes."""

import errno
import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dgguf import convert
from dgguf.errors import ConversionError
from dgguf.ggufio.write_header import pack_header
from dgguf.machine import usable_cores
from tests.support.checkpoints import DECODER, Checkpoint, D, Tensor, both_copies, per_expert


def test_an_existing_file_is_only_replaced_by_force(checkpoint: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    plan = convert.plan(checkpoint.write(), "F32")
    with pytest.raises(ConversionError, match=r"out\.gguf exists.*--force"):
        list(convert.run(plan, out))
    assert out.read_bytes() == b"precious"
    list(convert.run(plan, out, force=True))
    assert out.read_bytes()[:4] == b"GGUF"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "tiny-model"]


def test_a_left_partial_file_is_not_taken_over(checkpoint: Checkpoint, tmp_path: Path) -> None:
    left = tmp_path / "out.gguf.partial"
    left.write_bytes(b"another run")
    plan = convert.plan(checkpoint.write(), "F32")
    with pytest.raises(ConversionError, match=r"out\.gguf\.partial exists"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert left.read_bytes() == b"another run"
    list(convert.run(plan, tmp_path / "out.gguf", force=True))
    assert not left.exists()


def test_a_source_file_is_never_replaced(checkpoint: Checkpoint) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    path = checkpoint.folder / "model.safetensors"
    before = path.read_bytes()
    with pytest.raises(ConversionError, match="file of the source itself"):
        list(convert.run(plan, path, force=True))
    assert path.read_bytes() == before


def test_wrong_targets_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "out.gguf", "there is no folder")):
        with pytest.raises(ConversionError, match=words):
            list(convert.run(plan, out))


def test_a_full_disk_is_seen_before_writing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = convert.plan(checkpoint.write(), "F32")
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, plan.n_bytes - 1))
    with pytest.raises(ConversionError, match="kB free"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, plan.n_bytes))
    assert isinstance(list(convert.run(plan, tmp_path / "out.gguf"))[-1], convert.ConversionFinished)


def test_a_disk_that_fills_up_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    plan = convert.plan(checkpoint.write(), "F32")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConversionError, match=r"out\.gguf cannot be written: No space left"):
        list(convert.run(plan, out, force=True))
    assert out.read_bytes() == b"precious"
    assert not out.with_name("out.gguf.partial").exists()


@pytest.mark.parametrize("existing", [None, b"precious"])
def test_cancelling_leaves_everything_as_it_was(
    checkpoint: Checkpoint, tmp_path: Path, existing: bytes | None
) -> None:
    out = tmp_path / "out.gguf"
    if existing:
        out.write_bytes(existing)
    events = convert.run(convert.plan(checkpoint.write(), "F32"), out, force=True)
    for _ in range(3):
        assert isinstance(next(events), convert.TensorWritten)
    assert out.with_name("out.gguf.partial").stat().st_size > 0
    events.close()
    assert (out.read_bytes() if out.exists() else None) == existing
    assert not out.with_name("out.gguf.partial").exists()


def test_ctrl_c_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    plan = convert.plan(checkpoint.write(), "F32")
    events = convert.run(plan, tmp_path / "out.gguf")
    next(events)
    monkeypatch.setattr("dgguf.threads.pool.Pool.parallel_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]


def spoiled(tensor: Tensor, value: float) -> Tensor:
    array = tensor[1].copy()
    array.flat[-1] = value
    return tensor[0], array


@pytest.mark.parametrize(
    ("type_name", "value", "words"),
    [
        ("F32", np.nan, "not finite"),
        ("F32", -np.inf, "not finite"),
        ("Q8_0", np.nan, "not finite"),
        ("F16", -65520.0, "-?65520, which is beyond F16"),
        ("BF16", 3.4e38, r"3\.4e\+38, which is beyond BF16: convert to F32"),
    ],
)
def test_values_that_cannot_be_stored_are_named(
    checkpoint: Checkpoint, tmp_path: Path, type_name: str, value: float, words: str
) -> None:
    name = DECODER + "layers.1.experts.down_proj"
    checkpoint.tensors[name] = spoiled(checkpoint.tensors[name], value)
    plan = convert.plan(checkpoint.write(), type_name)
    with pytest.raises(ConversionError, match=rf"blk\.1\.ffn_down_exps\.weight.*{words}"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-model"]


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.encoder.language_model.layers.1.mlp.up_proj.weight"]
)
def test_tied_tensors_must_be_equal(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    both_copies(checkpoint)
    checkpoint.tensors[name] = spoiled(checkpoint.tensors[name], 7.0)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    with pytest.raises(ConversionError, match=rf"{name} differs from model\.decoder\."):
        list(convert.run(plan, tmp_path / "out.gguf"))


def test_slices_and_batches_do_not_show(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_copies(checkpoint)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    list(convert.run(plan, tmp_path / "whole.gguf"))
    # 5 rows at a time divide neither the tensors nor the experts; threads share out 20 rows each.
    monkeypatch.setattr(sys.modules["dgguf.convert.encode_tensor"], "_SLICE_WEIGHTS", 5 * D)
    list(convert.run(plan, tmp_path / "sliced.gguf"))
    assert (tmp_path / "sliced.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    per_expert(checkpoint)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    list(convert.run(plan, tmp_path / "sliced.gguf", force=True))
    assert (tmp_path / "sliced.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_progress_within_a_tensor(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["dgguf.convert.encode_tensor"], "_SLICE_WEIGHTS", 5 * D)
    plan = convert.plan(checkpoint.write(), "Q8_0")
    *events, finished = convert.run(plan, tmp_path / "out.gguf")
    assert isinstance(finished, convert.ConversionFinished)
    batch, done, seconds, n_parts = 5 * 4 * usable_cores() * D, 0, 0.0, 0
    for event in events:
        assert seconds <= event.seconds
        seconds = event.seconds
        weights = plan.tensors[event.index].n_weights
        if isinstance(event, convert.RowsWritten):
            n_parts += 1
            assert done < event.n_weights <= done + batch
            assert event.n_weights < weights
            done = event.n_weights
        else:
            assert weights - done <= batch
            done = 0
    assert n_parts > 3


def test_memory_does_not_grow_with_a_tensor(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = 600_000  # 154 MB of embedding
    plan = convert.plan(checkpoint.write(), "Q8_0")
    embedding = plan.tensors[0]
    part = embedding.source.parts[0]
    big = np.memmap(tmp_path / "big", np.uint8, "w+", shape=(rows, D * 4))
    stored = type(part)(part.name, part.path, part.format, (rows, D), big)
    source = type(embedding.source)(embedding.name, (rows, D), (stored,))
    tensor = convert.TensorPlan(source, embedding.format)
    file = convert.FilePlan(pack_header(plan.metadata, [tensor]), (tensor,))
    small = convert.ConversionPlan(plan.source, plan.type_name, plan.metadata, (file,), ())
    tracemalloc.start()
    try:
        list(convert.run(small, tmp_path / "out.gguf"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out.gguf").stat().st_size > rows * D
    assert peak < 1e6 + 8e6 * usable_cores()
