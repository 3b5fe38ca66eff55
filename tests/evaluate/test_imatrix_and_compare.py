"""Importances and divergences: what the float64 reference sees, files both programs read, the commands."""

import json
import math
import sys

import click
import gguf
import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.cli import cli
from dgguf.convert.imatrix import Sums, read_imatrix, write_imatrix
from dgguf.errors import ConversionError, DggufError, PromptError, UnsupportedModelError
from dgguf.evaluate.divergence import LogitsBackend, check_comparable, compare, divergence
from dgguf.evaluate.importance import CollectingBackend, collect
from dgguf.evaluate.noised_chunks import NOISE, PASSES, Model, cut
from dgguf.ggufio.file import GgufFile
from tests.model.test_transformer import SMALL
from tests.support import reference
from tests.support.synthetic.writer import write_model

TEXT = "The quick brown fox jumps over the lazy dog, and so on. " * 8
LENGTH = SMALL.canvas_length
LEFT_OUT = ("token_embd.weight", *(f"blk.{i}.ffn_gate_inp.weight" for i in range(SMALL.block_count)))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "f32.gguf", SMALL, "F32")
    write_model(folder / "q4.gguf", SMALL, "Q4_0")
    write_model(folder / "split.gguf", SMALL, "F32", split_experts=True, untied_head=True)
    (folder / "text.txt").write_text(TEXT)
    return folder


def load(path, backend=None):
    return Model(str(path), backend or CpuBackend(2, exact=True))


class Watched(np.ndarray):
    """A weight that notes what it is multiplied with."""

    def __array_finalize__(self, other):
        self.name = getattr(other, "name", "")
        self.sums = getattr(other, "sums", None)
        self.expert = getattr(other, "expert", 0)

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if self.ndim == 3:
            found.expert = int(index)
        return found

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul and getattr(inputs[1], "name", LEFT_OUT[0]) not in LEFT_OUT:
            w, x = inputs[1], np.asarray(inputs[0])
            squares, counts = self.sums.setdefault((w.name, w.expert), [0.0, 0])
            self.sums[w.name, w.expert] = [squares + (x * x).sum(axis=0), counts + len(x)]
        return getattr(ufunc, method)(*(np.asarray(array) for array in inputs), **options)


def watched_sums(path, prompt, steps):
    """By (name, expert) what the reference multiplies with, in steps of (canvas, temperature)."""
    network, sums = reference.from_gguf(path), {}
    for name, array in network.tensors.items():
        network.tensors[name] = array.view(Watched)
        network.tensors[name].name, network.tensors[name].sums = name, sums
    past, soft = network.encode(prompt), None
    for canvas, temperature in steps:
        z = np.asarray(network.denoise(canvas, past, soft)) / temperature
        p = np.exp(z - z.max(axis=1, keepdims=True))
        soft = p / p.sum(axis=1, keepdims=True)
    return sums


def spied(model):
    """The list of (canvas, temperature) that a model's network is given from now on."""
    steps, denoise = [], model.network.denoise

    def spy(canvas, cache, previous, temperature, uniforms):
        assert (previous is None) == (len(steps) % len(NOISE) == 0)
        steps.append((canvas.tokens, temperature))
        return denoise(canvas, cache, previous, temperature, uniforms)

    model.network.denoise = spy
    return steps


@pytest.mark.parametrize("name", ["f32.gguf", "split.gguf"])
def test_sums_are_what_the_reference_multiplies_with(name, paths):
    backend = CollectingBackend(CpuBackend(2, exact=True))
    model = load(paths / name, backend)
    (sample,) = cut(model, [TEXT], limit=1)
    steps = spied(model)
    assert list(collect(model, [sample])) == list(range(2, PASSES + 1))
    wanted = watched_sums(paths / name, sample.prompt, steps)
    assert {n for n, _ in wanted} == backend.sums.keys()
    for (tensor, expert), (squares, count) in wanted.items():
        times = 2 if "gate_up" in tensor else 1  # the reference splits it in two
        found = backend.sums[tensor]
        assert found.counts[expert] * times == count
        np.testing.assert_allclose(found.squares[expert] * times, squares, rtol=2e-3, err_msg=tensor)
    for tensor, found in backend.sums.items():
        unseen = [e for e in range(len(found.counts)) if (tensor, e) not in wanted]
        assert not found.counts[unseen].any()
        assert not found.squares[unseen].any()


def test_collecting_changes_no_prediction(paths):
    plain = load(paths / "f32.gguf")
    watched = load(paths / "f32.gguf", CollectingBackend(CpuBackend(2, exact=True)))
    (sample,) = cut(plain, [TEXT], limit=1)
    for a, b in zip(plain.denoise(sample, 3), watched.denoise(sample, 3), strict=True):
        np.testing.assert_array_equal(a.argmax, b.argmax)
        np.testing.assert_allclose(a.entropy, b.entropy, atol=1e-4)


def test_a_canvas_clears_from_noise_to_text(paths):
    model = load(paths / "f32.gguf")
    samples = cut(model, [TEXT], limit=2)
    steps = spied(model)
    for number, sample in enumerate(samples):
        assert len(list(model.denoise(sample, number))) == len(NOISE)
    assert not np.array_equal(steps[0][0], steps[len(NOISE)][0])  # each sample has noise of its own
    for first, sample in ((0, samples[0]), (len(NOISE), samples[1])):
        clear = [set(np.flatnonzero(c == sample.canvas)) for c, _ in steps[first : first + len(NOISE)]]
        for share, before, now in zip(NOISE, [set(), *clear], clear, strict=False):
            # A random token may be the right one; what is clear stays clear.
            assert len(now) >= round((1 - share) * LENGTH)
            assert len(now) <= round((1 - share) * LENGTH) + 1
            assert before <= now or share == NOISE[1]
    temperatures = [t for _, t in steps[: len(NOISE)]]
    np.testing.assert_allclose(temperatures, [0.4 + 0.4 * share for share in NOISE])


def test_samples_are_the_text_in_order(paths):
    model = load(paths / "f32.gguf")
    ids = model.tokenizer.encode(TEXT)
    samples = cut(model, [TEXT])
    bos = model.tokenizer.bos_id
    assert all(s.prompt[0] == bos and len(s.canvas) == LENGTH for s in samples)
    assert all(len(s.prompt) == LENGTH for s in samples[:-1])
    found = np.concatenate([np.concatenate([s.prompt[1:], s.canvas]) for s in samples])
    assert found.tolist() == ids[: len(found)]
    assert len(ids) - len(found) < LENGTH
    assert [s.canvas.tolist() for s in cut(model, ["short", TEXT], limit=1)] == [samples[0].canvas.tolist()]
    with pytest.raises(PromptError, match=f"which has {LENGTH} tokens; the longest has "):
        cut(model, ["short", ""])


def test_an_imatrix_is_read_by_gguf_py_and_comes_back(tmp_path):
    rng = np.random.default_rng(1)
    sums = {
        "blk.0.ffn_down_exps.weight": Sums(rng.random((3, 64)), np.array([4.0, 0.0, 2.0])),
        "blk.0.attn_q.weight": Sums(rng.random((1, 32)), np.array([7.0])),
    }
    path = tmp_path / "i.gguf"
    write_imatrix(path, sums, datasets=["a.txt", "b.txt"], n_chunks=5, chunk_size=512)
    reader = gguf.GGUFReader(path)
    keys = {n: f.contents() for n, f in reader.fields.items() if not n.startswith("GGUF.")}
    assert keys == {
        "general.type": "imatrix", "imatrix.datasets": ["a.txt", "b.txt"], "imatrix.chunk_count": 5,
        "imatrix.chunk_size": 512,
    }  # fmt: skip
    assert [(t.name, t.shape.tolist(), t.tensor_type.name) for t in reader.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", [32, 1], "F32"),
        ("blk.0.attn_q.weight.counts", [1, 1], "F32"),
        ("blk.0.ffn_down_exps.weight.in_sum2", [64, 3], "F32"),
        ("blk.0.ffn_down_exps.weight.counts", [1, 3], "F32"),
    ]
    back = read_imatrix(path)
    assert (back.dataset, back.n_chunks) == ("a.txt, b.txt", 5)
    stack = sums["blk.0.ffn_down_exps.weight"].squares / np.array([[4], [np.nan], [2]])
    stack[1] = 1  # an expert without inputs: all columns alike
    np.testing.assert_allclose(back.of("blk.0.ffn_down_exps.weight", (3, 5, 64)), stack, rtol=1e-6)
    with pytest.raises(ConversionError, match="exists"):
        write_imatrix(path, sums, datasets=[], n_chunks=1, chunk_size=1)
    other = tmp_path / "other.gguf"  # gguf-py keeps the first one mapped
    other.write_bytes(b"")
    write_imatrix(other, {}, datasets=[], n_chunks=0, chunk_size=1, force=True)
    assert read_imatrix(other).importances == {}


def test_an_imatrix_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConversionError, match="cannot be written: No space left"):
        write_imatrix(tmp_path / "i.gguf", {}, datasets=[], n_chunks=0, chunk_size=1)
    assert not list(tmp_path.iterdir())


def test_divergence_of_known_distributions():
    logits = np.log(np.array([[0.5, 0.5], [0.2, 0.8], [0.3, 0.7]], np.float32)) + np.float32(5)
    others = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32))
    found = divergence(logits, others)
    wanted = [
        0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1),
        0.0,
        0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4),
    ]
    np.testing.assert_allclose(found.kl, wanted, atol=1e-6)
    assert found.agrees.tolist() == [True, True, False]


def test_logits_compared_are_those_of_the_reference(paths):
    backend = LogitsBackend(CpuBackend(2, exact=True))
    model = load(paths / "f32.gguf", backend)
    (sample,) = cut(model, [TEXT], limit=1)
    steps = spied(model)
    found = [backend.logits for _ in model.denoise(sample, 0)]
    network = reference.from_gguf(paths / "f32.gguf")
    past, soft = network.encode(sample.prompt), None
    for logits, (canvas, temperature) in zip(found, steps, strict=True):
        wanted = network.denoise(canvas, past, soft)
        assert abs(logits - wanted).max() < 1e-3
        p = np.exp((wanted - wanted.max(axis=1, keepdims=True)) / temperature)
        soft = p / p.sum(axis=1, keepdims=True)


def test_compare_pairs_the_levels(paths):
    """Each level's logits are compared with the same level's of the other model."""
    pairs = []
    for name in ("f32.gguf", "q4.gguf"):
        backend = LogitsBackend(CpuBackend(2, exact=True))
        pairs.append((load(paths / name, backend), backend))
    samples = cut(pairs[0][0], [TEXT], limit=2)
    for number, found in enumerate(compare(*pairs, samples)):
        logits = [[b.logits for _ in m.denoise(samples[number], number)] for m, b in pairs]
        for one, a, b in zip(found, *logits, strict=True):
            np.testing.assert_array_equal(one.kl, divergence(a, b).kl)
            assert one.kl.min() > 0


def test_what_cannot_be_compared(paths, tmp_path):
    a = load(paths / "f32.gguf")
    write_model(tmp_path / "c.gguf", SMALL, "F32", metadata={"diffusion.canvas_length": np.uint32(4)})
    with pytest.raises(UnsupportedModelError, match="canvases have 8 and 4 positions"):
        check_comparable(a, load(tmp_path / "c.gguf"))
    tokens = list(a.file.metadata["tokenizer.ggml.tokens"])
    tokens[-1] = "another"
    write_model(tmp_path / "v.gguf", SMALL, "F32", metadata={"tokenizer.ggml.tokens": tokens})
    with pytest.raises(UnsupportedModelError, match="their vocabularies differ"):
        check_comparable(a, load(tmp_path / "v.gguf"))


def dgguf(*arguments):
    return cli.main([str(a) for a in arguments], standalone_mode=False)


def test_imatrix_then_quantize_then_compare(paths, tmp_path, capsys):
    out, text = tmp_path / "i.gguf", paths / "text.txt"
    dgguf("imatrix", paths / "f32.gguf", "-f", text, "-o", out, "--chunks", 2)
    printed = capsys.readouterr()
    assert not printed.out
    assert "2 chunks of at most 16 tokens, 5 passes each" in printed.err
    assert "from 2 of 2 chunks" in printed.err
    assert read_imatrix(out).n_chunks == 2
    with pytest.raises(ConversionError, match="exists"):
        dgguf("imatrix", paths / "f32.gguf", "-f", text, "-o", out)
    for name, options in (("plain", []), ("weighted", ["--imatrix", out])):
        dgguf("quantize", paths / "f32.gguf", tmp_path / f"{name}.gguf", "--type", "Q4_0", *options)
    with GgufFile(tmp_path / "plain.gguf") as plain, GgufFile(tmp_path / "weighted.gguf") as weighted:
        assert weighted.get("quantize.imatrix.entries_count", int) == len(read_imatrix(out).importances)
        for tensor in ("self_cond_gate.weight", "blk.1.attn_q.weight", "blk.2.ffn_down_exps.weight"):
            assert (plain.data(tensor) != weighted.data(tensor)).any(), tensor
    dgguf("compare", paths / "f32.gguf", tmp_path / "weighted.gguf", "-f", text, "--chunks", 2, "--json")
    rows = json.loads(capsys.readouterr().out)["noise"]
    assert [row["noise"] for row in rows] == ["100%", "75%", "50%", "25%", "all"]
    assert [row["positions"] for row in rows] == [16] * 4 + [64]
    assert all(0 < row["kl_median"] <= row["kl_99"] <= row["kl_max"] for row in rows)
    dgguf("compare", paths / "f32.gguf", paths / "f32.gguf", "-f", text, "--chunks", 1)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == ["all", "0.000000"]
    assert last[-2:] == ["100.00%", "32"]


def test_compare_takes_plain_weights_as_they_are(paths, tmp_path, capsys):
    """Rounded to 8 bits they would be as far from themselves in BF16 as in Q8_0."""
    text = paths / "text.txt"
    apart = {}
    for name in ("BF16", "Q8_0"):
        dgguf("quantize", paths / "f32.gguf", tmp_path / f"{name}.gguf", "--type", name)
        dgguf("compare", paths / "f32.gguf", tmp_path / f"{name}.gguf", "-f", text, "--chunks", 2, "--json")
        apart[name] = json.loads(capsys.readouterr().out)["noise"][-1]["kl_median"]
    assert 0 < apart["BF16"] < 0.2 * apart["Q8_0"]  # 0.11 on the path "portable", less on the others


def test_the_same_texts_give_the_same_imatrix(paths, tmp_path):
    for name, threads in (("a", 1), ("b", 2)):
        dgguf("imatrix", paths / "f32.gguf", "-f", paths / "text.txt", "-o", tmp_path / name, "-t", threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ctrl_c_writes_the_chunks_that_are_done(paths, tmp_path, monkeypatch, capsys):
    module = sys.modules["dgguf.evaluate.importance"]
    whole = module.collect

    def interrupted(model, samples):
        for done in whole(model, samples):
            if done > 2 * PASSES:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(module, "collect", interrupted)
    out = tmp_path / "i.gguf"
    with pytest.raises((KeyboardInterrupt, click.Abort)):
        dgguf("imatrix", paths / "f32.gguf", "-f", paths / "text.txt", "-o", out)
    assert read_imatrix(out).n_chunks == 2
    assert "from 2 of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "out", "words"),
    [
        (["none.txt"], "i.gguf", "none.txt cannot be read"),
        (["."], "i.gguf", "cannot be read"),
        (["short.txt"], "i.gguf", "texts are too short"),
        (["text.txt"], "no/i.gguf", "there is no folder"),
        (["text.txt"], ".", "is a folder"),
    ],
)
def test_wrong_texts_and_names_are_one_sentence(paths, texts, out, words):
    (paths / "short.txt").write_text("hi")
    files = [argument for text in texts for argument in ("-f", paths / text)]
    with pytest.raises(DggufError, match=words):
        dgguf("imatrix", paths / "f32.gguf", *files, "-o", paths / out)
