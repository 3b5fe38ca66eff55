"""Nothing that is not finite is written, of any type: the tensor is named and no file appears."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dgguf import convert
from dgguf.errors import ConversionError
from dgguf.ggufio.layout import padded
from dgguf.ggufio.write_header import pack_header
from dgguf.quants.encode import ENCODERS, NO_IMPORTANCE, WEIGHTED
from dgguf.quants.finite import finite_blocks
from tests.convert.test_from_gguf import legacy_imatrix
from tests.model.test_transformer import WIDE
from tests.support.synthetic.writer import write_model

NAME = "blk.1.attn_q.weight"


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in F32."""
    path = tmp_path_factory.mktemp("models") / "exact.gguf"
    write_model(path, WIDE, "F32", seed=4)
    return path


def plan_one(path: Path, type_name: str, imatrix: convert.Imatrix | None = None) -> convert.ConversionPlan:
    """A conversion of one tensor to this type."""
    plan = convert.plan(path, "F32", tensor_types=[("1.attn_q", type_name)], imatrix=imatrix)
    tensors = tuple(tensor for tensor in plan.tensors if tensor.name == NAME)
    file = convert.FilePlan(pack_header(plan.metadata, tensors), tensors)
    return convert.ConversionPlan(plan.source, plan.type_name, plan.metadata, (file,), ())


def spoil(plan: convert.ConversionPlan, block: bytes) -> convert.ConversionPlan:
    """The plan with other bytes at the start of the third row."""
    (tensor,) = plan.tensors
    (part,) = tensor.source.parts
    raw = part.raw.copy()
    raw[2, : len(block)] = np.frombuffer(block, np.uint8)
    tensor = replace(tensor, source=replace(tensor.source, parts=(replace(part, raw=raw),)))
    return replace(plan, files=(replace(plan.files[0], tensors=(tensor,)),))


def refusal(plan: convert.ConversionPlan, folder: Path) -> str:
    """The message of the error that a conversion must end with; nothing may be left of it."""
    before = sorted(folder.iterdir())
    with pytest.raises(ConversionError) as caught:
        list(convert.run(plan, folder / "out.gguf"))
    assert sorted(folder.iterdir()) == before
    assert NAME in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize("type_name", ENCODERS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_of_the_source(exact: Path, tmp_path: Path, type_name: str, value: float) -> None:
    plan = spoil(plan_one(exact, type_name), np.array([value], "<f4").tobytes())
    assert "not finite: the source is damaged" in refusal(plan, tmp_path)


@pytest.mark.parametrize("type_name", ENCODERS)
def test_blocks_that_are_copied(exact: Path, tmp_path: Path, type_name: str) -> None:
    plan = plan_one(exact, type_name)
    (tensor,) = plan.tensors
    (part,) = tensor.source.parts
    raw = np.empty((len(part.raw), tensor.format.row_bytes(tensor.shape[-1])), np.uint8)
    ENCODERS[type_name](part.raw.view("<f4").copy(), NO_IMPORTANCE, raw)
    stored = replace(part, format=tensor.format, raw=raw)
    tensor = replace(tensor, source=replace(tensor.source, parts=(stored,)))
    plan = replace(plan, files=(replace(plan.files[0], tensors=(tensor,)),))
    assert "not finite" in refusal(spoil(plan, b"\xff" * tensor.format.type_size), tmp_path)


@pytest.mark.parametrize("type_name", ENCODERS)
def test_what_an_encoder_gets_wrong(
    exact: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    def wrong(x: np.ndarray, importance: np.ndarray, out: np.ndarray) -> None:
        encode(x, importance, out)
        out[-1] = 0xFF

    encode: Callable[[np.ndarray, np.ndarray, np.ndarray], None] = ENCODERS[type_name]
    plan = plan_one(source if type_name == "F32" else exact, type_name)  # the other is in BF16
    monkeypatch.setitem(ENCODERS, type_name, wrong)
    assert f"gives {type_name} scales that are not finite, first in row" in refusal(plan, tmp_path)


@pytest.mark.parametrize("type_name", sorted(WEIGHTED))
@pytest.mark.parametrize("kind", ["none", "few", "tiny", "large", "huge"])
def test_importances_of_any_size(source: Path, tmp_path: Path, type_name: str, kind: str) -> None:
    """The encoder copes with them, or it is an error."""
    importances = {"none": 0.0, "few": 0.0, "tiny": 1e-45, "large": 1e30, "huge": 3e38}
    sums = np.full(WIDE.embedding_length, importances[kind], np.float32)
    if kind == "few":
        sums[::40] = 1
    imatrix = convert.read_imatrix(legacy_imatrix(tmp_path / "i.dat", {NAME: (1, sums)}))
    plan, out = plan_one(source, type_name, imatrix), tmp_path / "out.gguf"
    try:
        list(convert.run(plan, out))
    except ConversionError:
        assert kind in ("large", "huge")
        assert "with its importances" in refusal(plan, tmp_path)
    else:
        (tensor,) = plan.tensors
        data = out.read_bytes()[len(plan.files[0].header) :][: tensor.n_bytes]
        assert finite_blocks(tensor.format, np.frombuffer(data, np.uint8)).all()


def test_what_an_interrupted_run_had_written(
    source: Path, tmp_path: Path, small_syncs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of an older dgguf, or have suffered on the disk."""
    monkeypatch.setattr("dgguf.convert.encode_tensor._SLICE_WEIGHTS", 5 * WIDE.embedding_length)
    plan, out = convert.plan(source, "Q8_0"), tmp_path / "out.gguf"
    events = convert.run(plan, out)
    for event in events:
        if isinstance(event, convert.TensorWritten) and event.name == "blk.1.ffn_down_exps.weight":
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    names = [tensor.name for tensor in plan.tensors]
    before = plan.tensors[: names.index(NAME)]
    block = len(plan.files[0].header) + sum(padded(tensor.n_bytes) for tensor in before) + 70 * 34
    with (tmp_path / "out.gguf.partial").open("r+b") as partial:
        partial.seek(block)
        partial.write(b"\xff\x7f")
    words = rf"partial file's {NAME} holds blocks that are not finite: use --force to begin"
    with pytest.raises(ConversionError, match=words):
        list(convert.run(plan, out, resume=True))
    assert not out.exists()
