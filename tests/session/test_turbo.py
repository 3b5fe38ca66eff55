"""Turbo: which rows a step leaves out, that they keep what they were, and that all of it can be off."""

import copy
import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

import dgguf
from dgguf.backends.base import Prediction
from dgguf.backends.cpu import CpuBackend
from dgguf.cli import cli
from dgguf.diffusion.events import CanvasCommitted, DenoisingStep
from dgguf.diffusion.turbo import Freezer, Turbo
from dgguf.errors import PromptError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from dgguf.view.recorder import Recorder
from dgguf.view.recording import read_recording
from tests.support.synthetic.writer import TINY, write_model

OFF = Turbo(tail=0, frozen=0, end=0)
SMALL = dataclasses.replace(TINY, block_count=3, full_every=2, canvas_length=12, sliding_window=6)
# Rows freeze early and often, whatever a random network predicts.
EAGER = Turbo(frozen=99, sure=2.0, sure_mean=99, end=99, repair=4, final=2)


@pytest.fixture(scope="module")
def demo():
    with dgguf.load("demo") as session:
        yield session


@pytest.fixture(scope="module", params=[True, False], ids=["exact", "fast"])
def network(request, tmp_path_factory):
    """A random network behind a prompt, and a canvas to denoise."""
    path = tmp_path_factory.mktemp("turbo") / "m.gguf"
    write_model(path, SMALL, seed=3)
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(2, exact=request.param)
    model = Transformer(config, load_weights(file, config, backend), backend)

    def cache():
        made = KVCache(config, backend, 64, 16)
        model.encode(np.arange(5, 18), made)
        return made

    return model, cache


def denoise(model, cache, canvas, previous, rows=None):
    """A step; what it returns outlasts the next."""
    made = model.denoise(Canvas(canvas), cache, previous, 0.8, np.linspace(0.1, 0.9, len(canvas)), rows)
    if isinstance(made.conditioning, np.ndarray):
        return dataclasses.replace(made, conditioning=made.conditioning.copy())
    return made


def assert_close(one, other, rows=slice(None)):
    assert one.argmax[rows].tolist() == other.argmax[rows].tolist()
    assert one.sampled[rows].tolist() == other.sampled[rows].tolist()
    np.testing.assert_allclose(one.entropy[rows], other.entropy[rows], atol=1e-5)


def kept(model, prediction):
    """The distributions as top tokens, which are copies."""
    return model.top_tokens(prediction, 5)


def test_some_rows_of_a_step_are_those_of_the_whole_step(network):
    """Where the other rows' keys and values are those of the same step."""
    model, cache = network
    first, second = np.random.default_rng(1).integers(0, 700, (2, 12))
    its, rows = cache(), np.array([1, 4, 5, 11])
    previous = denoise(model, its, first, None)
    whole = denoise(model, its, second, previous)
    some = denoise(model, its, second, copy.deepcopy(previous), rows)
    assert_close(some, whole, rows)
    tops = [kept(model, prediction) for prediction in (some, whole)]
    np.testing.assert_array_equal(tops[0][0][rows], tops[1][0][rows])
    np.testing.assert_allclose(tops[0][1][rows], tops[1][1][rows], atol=1e-5)


def test_rows_left_out_keep_what_was_predicted(network):
    model, cache = network
    first, second = np.random.default_rng(2).integers(0, 700, (2, 12))
    its, rows = cache(), np.array([0, 7])
    previous = denoise(model, its, first, None)
    old, top = dataclasses.replace(previous, conditioning=None), kept(model, previous)
    some = denoise(model, its, second, previous, rows)
    others = np.setdiff1d(np.arange(12), rows)
    assert_close(some, old, others)
    np.testing.assert_array_equal(kept(model, some)[1][others], top[1][others])
    assert some.entropy[rows].tolist() != old.entropy[rows].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_repair_step_is_a_full_step(network, seed):
    """What was frozen before does not show: it depends on its canvas and the last prediction alone."""
    model, cache = network
    rng = np.random.default_rng(seed)
    canvases = rng.integers(0, 700, (6, 12))
    its = cache()
    prediction = denoise(model, its, canvases[0], None)
    for canvas in canvases[1:5]:
        rows = np.flatnonzero(rng.random(12) < rng.uniform(0.1, 0.9))
        prediction = denoise(model, its, canvas, prediction, rows if len(rows) else None)
    repaired = denoise(model, its, canvases[5], prediction)
    assert_close(repaired, denoise(model, cache(), canvases[5], prediction))


def predicted(argmax, entropy):
    return Prediction(np.array(argmax), np.array(argmax), np.array(entropy, np.float32), None)


def see(freezer, canvas, argmax, entropy, stop=None, *, settled=False):
    return freezer.see(np.array(canvas), predicted(argmax, entropy), stop, settled=settled)


class TestFreezer:
    def test_a_row_freezes_that_read_its_own_token_twice(self):
        freezer = Freezer(Turbo(sure=0), 4)
        see(freezer, [9, 1, 2, 3], [0, 1, 2, 3], [0.0005, 0.0005, 0.0005, 0.5])
        assert freezer.rows is None  # nothing was there twice
        see(freezer, [9, 1, 2, 3], [0, 1, 5, 3], [0.0005, 0.0005, 0.0005, 0.5])
        # Row 0 has not read its token, row 2 has changed, row 3 is unsure.
        assert freezer.rows.tolist() == [0, 2, 3]
        assert freezer.frozen.tolist() == [False, True, False, False]
        assert freezer.left_out().tolist() == freezer.frozen.tolist()

    def test_what_the_first_step_was_sure_of_is_left_out_of_the_second(self):
        freezer = Freezer(Turbo(), 3)
        see(freezer, [9, 9, 9], [0, 1, 2], [1e-6, 5e-4, 0.0])
        assert freezer.rows.tolist() == [1]
        see(freezer, [0, 1, 2], [0, 1, 2], [1e-6, 5e-4, 0.0])
        assert freezer.rows.tolist() == [0, 2]  # computed last, they had read noise
        see(freezer, [0, 1, 2], [0, 1, 2], [1e-6, 5e-4, 0.0])
        assert freezer.frozen.all()
        freezer = Freezer(Turbo(frozen=0), 3)
        see(freezer, [9, 9, 9], [0, 1, 2], [1e-6, 5e-4, 0.0])
        assert freezer.rows is None

    def test_a_first_step_that_is_unsure_of_much_is_not_only_checked(self):
        freezer = Freezer(Turbo(), 3)
        see(freezer, [9, 9, 9], [0, 1, 2], [1e-6, 0.2, 0.0])
        assert freezer.rows is None

    def test_a_canvas_is_cut_behind_an_end_that_two_steps_found(self):
        canvas, argmax, entropy = np.full(64, 9), np.arange(64), np.full(64, 0.5)
        entropy[40] = 1e-3
        for turbo in (Turbo(), Turbo(frozen=0)):
            freezer = Freezer(turbo, 64)
            see(freezer, canvas, argmax, entropy, stop=40)
            assert freezer.rows is freezer.cut is None
            assert freezer.counted(entropy).tolist() == entropy.tolist()
            see(freezer, canvas, argmax, entropy, stop=40)
            assert freezer.cut == 48  # not right behind it, at a multiple of 16
            assert freezer.rows.tolist() == list(range(48))
            assert freezer.frozen.tolist() == [False] * 48 + [True] * 16
            assert freezer.counted(entropy).tolist() == [*entropy[:48], *[0.0] * 16]
            assert see(freezer, canvas, argmax, entropy, stop=40, settled=True)  # what is behind may be old

    def test_an_end_that_moves_takes_the_cut_back(self):
        canvas, argmax, entropy = np.full(64, 9), np.arange(64), np.full(64, 1e-3)
        for moved in (None, 47):
            freezer = Freezer(Turbo(), 64)
            see(freezer, canvas, argmax, entropy, stop=40)
            assert freezer.cut == 48
            assert not see(freezer, canvas, argmax + 1, entropy, stop=moved, settled=True)
            assert freezer.rows is freezer.cut is None
            assert not freezer.frozen.any()
            see(freezer, canvas, argmax + 2, entropy, stop=13)
            assert freezer.cut is None  # it was there once
            see(freezer, canvas, argmax + 2, entropy, stop=13)
            assert freezer.cut == 16

    @pytest.mark.parametrize(
        ("why", "stop", "at_stop", "others", "turbo"),
        [
            ("the end is unsure", 10, 0.02, 0.0, Turbo()),
            ("the step is unsure of much", 10, 1e-3, 0.05, Turbo()),
            ("there is no end", None, 0.0, 0.0, Turbo()),
            ("nothing lies behind", 47, 1e-3, 0.0, Turbo()),
            ("the part is off", 10, 1e-3, 0.0, Turbo(end=0)),
        ],
    )
    def test_a_first_step_cuts_nothing_where(self, why, stop, at_stop, others, turbo):
        entropy = np.full(48, others)
        entropy[stop or 0] = at_stop
        freezer = Freezer(turbo, 48)
        see(freezer, np.full(48, 99), np.arange(48), entropy, stop=stop)
        assert freezer.cut is None, why

    def test_so_many_steps_have_one_of_all_rows(self):
        for stop, n in ((None, 64), (20, 32)):
            freezer, full, entropy = Freezer(Turbo(repair=3), 64), [], np.ones(64)
            entropy[:30] = 0
            for _ in range(12):
                see(freezer, np.arange(64), np.arange(64), entropy, stop=stop)
                full.append(freezer.rows is None or len(freezer.rows) == n)
            assert full == [True, False, False] * 4

    def test_a_step_computes_one_row_at_least(self):
        freezer = Freezer(Turbo(), 2)
        see(freezer, [0, 1], [0, 1], [0.0, 0.0])
        assert freezer.rows is None

    def test_what_is_committed_was_computed_lately(self):
        freezer, committed = Freezer(Turbo(repair=9, final=3), 3), []
        for _ in range(7):
            committed.append(see(freezer, [0, 1, 2], [0, 1, 2], [0.0, 0.5, 0.5], settled=True))
        assert committed == [True, True, True, True, False, True, True]
        assert not see(freezer, [0, 1, 2], [0, 1, 2], [0.0, 0.5, 0.5], settled=False)


@pytest.mark.parametrize("prompt", ["Tell me a story.", "Sort: 7 3 9 1 5"])
def test_turbo_of_nothing_is_no_turbo(demo, prompt):
    one, other = (
        [step for step in demo.stream(prompt, seed=3, turbo=turbo) if isinstance(step, DenoisingStep)]
        for turbo in (None, OFF)
    )
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.tokens.tobytes() == b.tokens.tobytes()
        assert a.entropy.tobytes() == b.entropy.tobytes()
        assert a.canvas.tobytes() == b.canvas.tobytes()
        assert b.frozen is None


def test_what_is_frozen_stays(demo):
    """Its token is accepted, and the same in the next draft; the row of a first step is never left out."""
    last, n_frozen = None, 0
    for event in demo.stream("Tell me a story.", seed=1, turbo=Turbo()):
        if isinstance(event, DenoisingStep):
            if event.frozen is not None:
                n_frozen += event.frozen.sum()
                assert (event.tokens == last.tokens)[event.frozen].all()
                assert (event.entropy == last.entropy)[event.frozen].all()
                assert (event.canvas == last.tokens)[event.frozen].all()
                assert last.accepted[event.frozen].all()
            last = event
        elif isinstance(event, CanvasCommitted):
            assert event.tokens.tolist() == last.tokens.tolist()
    assert n_frozen > 100


def test_what_is_behind_the_end_is_seen_and_not_computed(demo, monkeypatch):
    """A canvas that ended there answered worse: of 4x4 Sudokus with 4 givens 5 in 300 became wrong, not 1."""
    calls, stack = [], Transformer._stack
    monkeypatch.setattr(
        Transformer, "_stack", lambda self, *given: calls.append(given[-1]) or stack(self, *given)
    )
    settings = demo.settings(confidence_threshold=1e-5)  # so that a sure end is followed by more steps
    answer = demo.generate("Sort: 7 3 9 1 5", seed=1, settings=settings, turbo=Turbo.of("end"))
    computed = [(len(call.rows), call.length) for call in calls if not call.causal]
    length = demo.config.canvas_length
    assert computed[0] == (length, length)
    assert computed[-1] == (16, length)
    assert answer.text == demo.generate("Sort: 7 3 9 1 5", seed=1, settings=settings).text


def test_a_tail_needs_stability(demo):
    settings = demo.settings(confidence_threshold=1e-9)
    turbo = Turbo(tail=1.0, frozen=0, end=0)
    without, steps = (
        [event for event in demo.stream("Tell me a story.", seed=1, settings=settings, turbo=kind)
         if isinstance(event, DenoisingStep)]
        for kind in (None, turbo)
    )  # fmt: skip
    assert len(steps) < len(without)
    assert steps[-1].settled
    assert steps[-1].tokens.tolist() == steps[-2].tokens.tolist()
    assert all(a.tokens.tolist() != b.tokens.tolist() for a, b in zip(steps[1:-1], steps, strict=False))


def test_recordings_keep_it_and_go_on(session, quick, tmp_path):
    """A recording says what was left out, and its answer is repeated by what it says."""
    path = tmp_path / "r.jsonl"
    with Recorder.to_file(path, session.tokenizer) as recorder:
        events = list(recorder.record(session.stream("Hello", canvas_length=16, turbo=EAGER, **quick)))
    recording = read_recording(path)
    assert recording.started.turbo == EAGER
    steps, read = (
        [event for event in several if isinstance(event, DenoisingStep)]
        for several in (events, recording.events)
    )
    assert any(step.frozen is not None for step in steps)
    for one, other in zip(steps, read, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.canvas.tolist() == other.canvas.tolist()
        assert (one.frozen is None) == (other.frozen is None)
        assert one.frozen is None or one.frozen.tolist() == other.frozen.tolist()
    again = session.resume(recording, block=1, step=1, seed=recording.started.seed)
    assert [event.tokens.tolist() for event in again if isinstance(event, CanvasCommitted)] == [
        event.tokens.tolist() for event in events if isinstance(event, CanvasCommitted)
    ]


def test_pins_stand(session, quick):
    pins = {2: 5, 7: 6, 20: 9}
    found = [
        event.tokens
        for event in session.stream("Hello", canvas_length=16, pins=pins, turbo=EAGER, **quick)
        if isinstance(event, CanvasCommitted)
    ]
    tokens = np.concatenate(found)
    assert {place: tokens[place] for place in pins} == pins


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"frozen": -1.0}, "frozen must be a number from 0 on"),
        ({"tail": float("nan")}, "tail must be a number from 0 on"),
        ({"repair": 0}, "repair must be at least 1"),
    ],
)
def test_wrong_numbers_are_refused(wrong, why):
    with pytest.raises(PromptError, match=why):
        Turbo(**wrong)


class TestOption:
    def run(self, *arguments):
        return CliRunner().invoke(cli, ["run", "demo", "--seed", "1", "--no-stdin", *arguments])

    def test_alone_it_takes_no_word(self):
        told = self.run("--turbo", "Tell me a story.", "--json")
        assert told.exit_code == 0
        assert '"frozen_rows": ' in told.stdout

    def test_parts(self):
        told = self.run("--turbo=tail", "Sort: 3 1 2", "--stats")
        assert told.exit_code == 0
        assert "computed" not in told.stderr

    def test_a_prompt_behind_dashes_may_look_like_it(self):
        told = self.run("--", "--turbo")
        assert told.exit_code == 0

    def test_another_part_is_refused(self):
        told = self.run("--turbo=tail,nose", "Hello")
        assert told.exit_code == 2
        assert "turbo has no part 'nose': there are tail, frozen, end" in told.stderr

    def test_without_it_nothing_is_said_of_it(self):
        assert "frozen" not in self.run("Sort: 3 1 2", "--json").stdout


def test_another_conversation_leaves_what_the_next_step_reads(model, quick):
    """Frozen rows keep their keys in the cache, also where there is no room for two conversations."""
    with dgguf.load(model, kv_budget=1) as session:
        asked = quick | {"turbo": EAGER, "canvas_length": 16}
        alone = [event.tokens.tolist() for event in session.stream("Hello", **asked)
                 if isinstance(event, DenoisingStep)]  # fmt: skip
        mine, other, steps = session.conversation(), session.conversation(), []
        for event in session.stream("Hello", conversation=mine, **asked):
            if isinstance(event, DenoisingStep):
                steps.append(event.tokens.tolist())
                between = session.stream("Another one", conversation=other, **quick)
                next(between), next(between)  # encodes, and denoises nothing
                between.close()
        assert steps == alone


def test_what_a_schema_replaces_is_counted_of_frozen_rows_too(demo):
    """What a constraint forces is not what the network finds likeliest, in no later step either."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
    asked = {"schema": schema, "seed": 5, "max_tokens": 96, "turbo": Turbo(), "top_k": 1}
    answer = demo.generate("Tell me a story.", **asked)
    steps = [event for event in answer.recording.events if isinstance(event, DenoisingStep)]
    partial = [step for step in steps if step.frozen is not None]
    assert len(partial) > 5
    for step in partial:
        n = 1 + np.flatnonzero(np.isin(step.tokens, list(demo.tokenizer.stop_ids)))[0]
        assert step.replaced == np.count_nonzero(step.top.tokens[:n, 0] != step.tokens[:n])


def test_recordings_hold_no_log_probabilities(session, quick, tmp_path):
    path = tmp_path / "r.jsonl"
    with Recorder.to_file(path, session.tokenizer) as recorder:
        list(recorder.record(session.stream("Hello", log_probabilities=2, **quick)))
    assert "log_probabilities" not in path.read_text(encoding="utf-8")
