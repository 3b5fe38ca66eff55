"""Decisions of a session: against the float64 network, repeatable, and with the state encoded once."""

import math
from dataclasses import replace

import numpy as np
import pytest

import dgguf
from dgguf.decisions.decide import AUTO_SAMPLES, _seed
from dgguf.diffusion.sampler import SeededNoise
from dgguf.errors import NumericsError, PromptError
from tests.support import parity, reference
from tests.support.synthetic.writer import TINY, write_model

STATE = "the quick brown fox jumps over the lazy dog"
QUESTIONS = ["Is the fox quick?", "who: Who jumps? the fox|the dog|nobody", "How lazy is it? low<medium<high"]


def chances(read, vocab_size, logits_of, sample=0):
    """Of each slot the options' probabilities and their mass, from all logits of the canvas."""
    canvas = read.canvas.copy()
    places = [slot.place for slot in read.slots]
    canvas[places] = SeededNoise(_seed(read.prompt), vocab_size).tokens(sample, 0, len(canvas))[places]
    z = logits_of(read.prompt, canvas)
    found = []
    for slot in read.slots:
        p = np.exp(z[slot.place] - z[slot.place].max())
        p /= p.sum()
        each = np.array([p[list(ids)].sum() for ids in slot.labels])
        found.append((each / each.sum(), each.sum()))
    return found


def network(twin):
    """All logits of a canvas behind a prompt."""
    return lambda prompt, canvas: twin.denoise(canvas, twin.encode(prompt))


SMALL = replace(TINY, block_count=2, full_every=2, canvas_length=16)
GEOMETRIES = [
    SMALL,
    replace(SMALL, sliding_window=16),
    replace(SMALL, block_count=1),
    replace(SMALL, block_count=3, full_every=3, canvas_length=32),
    replace(SMALL, head_count=8, head_count_kv=2, head_count_kv_swa=4),
    replace(SMALL, expert_count=16, expert_used_count=4),
    replace(SMALL, key_length=64, key_length_swa=32, embedding_length=96),
    replace(SMALL, sliding_window=2),
]


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(i, marks=pytest.mark.slow(2)) for i in range(4, 8))]
)
def test_probabilities_are_those_of_the_float64_network(tmp_path, seed):
    """Of a step of the whole canvas behind the whole prompt."""
    write_model(tmp_path / "m.gguf", GEOMETRIES[seed], "F32", seed=seed)
    twin = reference.from_gguf(tmp_path / "m.gguf")
    with dgguf.load(tmp_path / "m.gguf", threads=1, exact=True) as session:
        decision = session.decide("the fox", QUESTIONS, samples=1)[seed % 3]
        (read,) = session._decider._prompts.reads("the fox", [decision.question], permute=False)
    ((p, mass),) = chances(read, len(twin.tensors["token_embd.weight"]), network(twin))
    np.testing.assert_allclose(list(decision.probabilities.values()), p, atol=5e-4)
    assert decision.mass == pytest.approx(mass, abs=5e-4)
    assert decision.confidence == pytest.approx(p.max() * mass, abs=5e-4)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # transformers' and torch's own
@pytest.mark.parametrize("seed", range(8))
def test_probabilities_are_those_of_transformers(tmp_path, seed):
    """Of one step of transformers' network on the same canvas, of all three kinds of question."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write_model(tmp_path / "m.gguf", GEOMETRIES[seed], "F32", seed=100 + seed)
    network = parity.transformers_model(tmp_path / "m.gguf")

    def logits_of(prompt, canvas):
        cache = transformers.DynamicCache(config=network.config.get_text_config(decoder=True))
        places = torch.arange(len(prompt) + len(canvas))[None]
        with torch.no_grad():
            network.model.encoder(
                input_ids=torch.tensor(prompt)[None],
                past_key_values=cache,
                position_ids=places[:, : len(prompt)],
            )
            out = network(
                decoder_input_ids=torch.tensor(canvas)[None],
                past_key_values=cache,
                decoder_position_ids=places[:, len(prompt) :],
            )
        return out.logits[0].numpy().astype(np.float64)

    with dgguf.load(tmp_path / "m.gguf", threads=1, exact=True) as session:
        decisions = session.decide(STATE, QUESTIONS, samples=1)
        asked = [decision.question for decision in decisions]
        reads = session._decider._prompts.reads(STATE, asked, permute=False)
        for decision, read in zip(decisions, reads, strict=True):
            ((p, mass),) = chances(read, session.config.vocab_size, logits_of)
            np.testing.assert_allclose(list(decision.probabilities.values()), p, atol=5e-4)
            assert decision.mass == pytest.approx(mass, abs=5e-4)


def test_joint_probabilities_are_those_of_the_float64_network(tmp_path):
    write_model(tmp_path / "m.gguf", SMALL, "F32")
    twin = reference.from_gguf(tmp_path / "m.gguf")
    with dgguf.load(tmp_path / "m.gguf", threads=1, exact=True) as session:
        decisions = session.decide("the fox", QUESTIONS, samples=2, joint=True)
        read = session._decider._prompts.joint_read("the fox", [decision.question for decision in decisions])
        vocab_size = session.config.vocab_size
    seeds = [chances(read, vocab_size, network(twin), seed) for seed in range(2)]
    for decision, first, second in zip(decisions, *seeds, strict=True):
        p = np.mean([first[0], second[0]], axis=0)
        np.testing.assert_allclose(list(decision.probabilities.values()), p, atol=5e-4)
        best = int(p.argmax())
        assert decision.standard_error == pytest.approx(abs(first[0][best] - second[0][best]) / 2, abs=5e-4)


def test_the_same_question_gets_the_same_bytes(session, model):
    """Whatever was asked before, is asked beside it, or is in the cache."""
    first = session.decide(STATE, QUESTIONS)
    session.decide(STATE + " again", QUESTIONS[:2], permute=True)
    again = session.decide(STATE, QUESTIONS)
    alone = [session.decide(STATE, [question])[0] for question in QUESTIONS]
    many = session.decide(STATE, ["Does it rain?"] * 9 + QUESTIONS[::-1])[:-4:-1]
    fresh = dgguf.load(model, threads=1).decide(STATE, QUESTIONS)
    for decisions in (again, alone, many, fresh):
        for one, other in zip(first, decisions, strict=True):
            assert one.probabilities == other.probabilities
            assert (one.mass, one.standard_error, one.reads) == (
                other.mass,
                other.standard_error,
                other.reads,
            )


def test_the_state_is_encoded_once_for_all_questions(session, monkeypatch):
    rows = []
    encode = session.model.encode
    monkeypatch.setattr(
        session.model, "encode", lambda ids, cache: rows.append(len(ids)) or encode(ids, cache)
    )
    state = " ".join([STATE] * 20)
    decisions = session.decide(state, [f"Is it so for the {i}?" for i in range(64)], samples=1)
    assert len(decisions) == 64
    assert len(rows) == 1
    n_state = decisions[0].reused_tokens + rows.pop()
    assert n_state > 180
    assert {decision.reused_tokens for decision in decisions[1:]} == {n_state}
    assert all(decision.prompt_tokens > n_state for decision in decisions)
    (more,) = session.decide(state, ["And now?"])
    assert more.reused_tokens == n_state
    assert not rows


def test_what_is_encoded_of_a_state_is_reported(session):
    seen = []
    session.decide(
        "red " + " ".join([STATE] * 130), QUESTIONS, progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 1
    asked = [one for one in seen if one == (0, 0)]  # while prompts are made, the total is not known
    assert len(asked) == len(QUESTIONS)
    assert {total for _, total in seen[len(asked) :]} == {seen[-1][0]}


@pytest.fixture
def encoded(session, monkeypatch):
    """The messages of prompts that were made since."""
    encoder, made = session._decider._prompts._encoder, []
    encode = encoder.encode
    monkeypatch.setattr(
        encoder,
        "encode",
        lambda messages, **options: made.append(str(messages)) or encode(messages, **options),
    )
    return made


def test_a_state_that_is_too_long_is_refused_before_all_is_asked(session, encoded):
    with pytest.raises(PromptError, match=r"the state has 4\d{3} tokens and question 1 with the answer"):
        session.decide("the fox " * 2000, QUESTIONS * 20, permute=True)
    assert sum("the fox the fox" in text for text in encoded) <= 2


def test_who_leaves_while_prompts_are_made_waits_for_one(session, encoded):
    class LeftError(Exception):
        pass

    def leave(done, total):
        raise LeftError

    before = session._decider._conversation.ids.tolist()
    with pytest.raises(LeftError):
        session.decide(STATE, QUESTIONS * 20, permute=True, progress=leave)
    assert sum(STATE in text for text in encoded) == 1
    assert session._decider._conversation.ids.tolist() == before


def test_samples_are_averaged(session):
    (one,), (three,), (auto,) = (
        session.decide(STATE, QUESTIONS[1:2], samples=samples) for samples in (1, 3, "auto")
    )
    assert (one.reads, one.standard_error) == (1, None)
    assert three.reads == 3
    assert three.standard_error > 0
    assert auto.reads == AUTO_SAMPLES  # random weights are not clear
    assert sum(three.probabilities.values()) == pytest.approx(1)
    assert one.probabilities != three.probabilities


def test_a_clear_answer_needs_one_sample(session, monkeypatch):
    monkeypatch.setattr("dgguf.decisions.decide.CLEAR", 1.5)
    assert [decision.reads for decision in session.decide(STATE, QUESTIONS)] == [1, 1, 1]


def test_permuted_options_are_averaged(session):
    predicate, choice, score = session.decide(STATE, QUESTIONS, samples=2, permute=True)
    assert (predicate.reads, choice.reads, score.reads) == (4, 6, 4)
    turned = "Who jumps? the dog|nobody|the fox"
    (other,) = session.decide(STATE, [turned], samples=2, permute=True)
    for option, p in choice.probabilities.items():
        assert other.probabilities[option] == pytest.approx(p, abs=1e-12)  # the same three reads


def test_a_score_is_the_mean_level(session):
    predicate, _, score = session.decide(STATE, QUESTIONS, samples=1)
    low, medium, high = score.probabilities.values()
    assert score.score == pytest.approx(medium + 2 * high)
    assert low + medium + high == pytest.approx(1)
    assert score.answer in score.probabilities
    assert predicate.score == predicate.probabilities[True]


def test_answers_of_other_conversations_go_on(session):
    chat = session.chat()
    options = {"max_tokens": 32, "seed": 3, "settings": session.settings(max_steps=2)}
    plain = [session.chat().send("Hello", **options).tokens, chat.send("Hello", **options).tokens]
    session.decide(STATE, QUESTIONS)
    events = session.stream("the fox", conversation=chat._conversation, **options)
    found = next(event for event in events if isinstance(event, dgguf.PromptEncoded))
    assert found.reused > 0
    events.close()
    assert plain[0] == plain[1]


def test_who_is_interrupted_within_a_canvas_is_told(session):
    events = session.stream("Hello", max_tokens=32, settings=session.settings(max_steps=3))
    while not isinstance(next(events), dgguf.CanvasStarted):
        pass
    next(events)
    session.decide(STATE, QUESTIONS)
    with pytest.raises(PromptError, match="between canvases"):
        next(events)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"questions": []}, "1 to 400 questions, not 0"),
        ({"questions": ["Who?"] * 401}, "not 401"),
        ({"questions": ["Who? a|b<c"]}, "has both"),
        ({"state": " "}, "the state is empty"),
        ({"samples": 0}, 'must be "auto" or 1 to 100, not 0'),
        ({"permute": True, "joint": True}, "cannot be permuted"),
        ({"state": "the fox " * 2000}, r"the state has 4\d{3} tokens and question 1 with the answer"),
        (
            {"questions": ["Who?", "the fox " * 2000 + "?"]},
            r"and question 2 with the answer 4\d{3}: .* 1152; shorten",
        ),
    ],
)
def test_what_does_not_fit_is_refused(session, arguments, reason):
    before = session._decider._conversation.ids
    with pytest.raises(PromptError, match=reason):
        session.decide(**{"state": STATE, "questions": QUESTIONS} | arguments)
    assert session._decider._conversation.ids is before  # nothing was computed


def test_one_question_is_no_list(session):
    with pytest.raises(TypeError, match="a list"):
        session.decide(STATE, QUESTIONS[0])
    with pytest.raises(TypeError, match="must be an integer"):
        session.decide(STATE, QUESTIONS, samples="many")


def test_what_is_not_finite_leaves_nothing_behind(session):
    """The state was encoded to what is no number: it is not taken from the cache again."""
    state = "and " + STATE
    embed = session.backend.embed
    session.backend.embed = lambda *arguments: embed(*arguments) * np.float32(math.nan)
    with pytest.raises(NumericsError, match="not finite"):
        session.decide(state, QUESTIONS)
    session.backend.embed = embed
    first = session.decide(state, QUESTIONS)
    assert first[0].reused_tokens == 0
    for one, other in zip(first, session.decide(state, QUESTIONS), strict=True):
        assert one.probabilities == other.probabilities
