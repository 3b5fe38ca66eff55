"""What turbo costs on a model: pairs of answers with the same seeds, and how far apart they are."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import dgguf
from dgguf.cli import cli
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.turbo import Turbo
from dgguf.errors import PromptError
from dgguf.evaluate.divergence import divergence
from dgguf.evaluate.turbo_price import TurboPrice, read_prompts

PROMPTS = ["Tell me a story.", "Sort: 7 3 9 1 5", "Reverse: cat dog"]
LENGTH = 96  # one canvas


@pytest.fixture(scope="module")
def demo():
    with dgguf.load("demo", threads=1) as session:
        yield session


@pytest.fixture(scope="module")
def pairs(demo):
    ids = [demo.encode(prompt) for prompt in PROMPTS]
    return list(TurboPrice(demo, Turbo(), LENGTH).pairs(ids))


def test_answers_are_those_of_the_session_with_the_same_seeds(demo, pairs):
    for seed, (prompt, pair) in enumerate(zip(PROMPTS, pairs, strict=True)):
        answers = [
            demo.generate(prompt, seed=seed, max_tokens=LENGTH, turbo=kind) for kind in (None, Turbo())
        ]
        for answer, statistics in zip(answers, (pair.without, pair.with_turbo), strict=True):
            assert answer.statistics.steps == statistics.steps
            assert answer.statistics.frozen_rows == statistics.frozen_rows
            assert answer.statistics.answer_tokens == statistics.answer_tokens
        assert pair.same == (answers[0].text == answers[1].text)


def test_it_saves_rows_and_costs_something(pairs):
    assert all(pair.without.frozen_rows == 0 for pair in pairs)
    assert any(pair.with_turbo.frozen_rows > 0 for pair in pairs)
    assert all(pair.divergence.kl.min() >= 0 for pair in pairs)
    assert any(pair.divergence.kl.max() > 0 for pair in pairs)


def test_turbo_of_nothing_costs_nothing(demo):
    price = TurboPrice(demo, Turbo(tail=0, frozen=0, end=0), LENGTH)
    for pair in price.pairs([demo.encode(prompt) for prompt in PROMPTS[:2]]):
        assert pair.same
        assert pair.without.steps == pair.with_turbo.steps
        assert pair.without.rows == pair.with_turbo.rows
        assert pair.with_turbo.frozen_rows == 0
        assert not pair.divergence.kl.any()
        assert pair.divergence.agrees.all()


@pytest.mark.parametrize("turbo", [None, Turbo()])
def test_what_is_kept_gives_the_logits_of_the_last_step(demo, turbo):
    """Of rows that the last step left out, those of the step that computed them."""
    ids, price = demo.encode(PROMPTS[0]), TurboPrice(demo, Turbo(), LENGTH)
    _, (block,) = price._answer(ids, 3, turbo)
    events = demo.stream(ids, seed=3, max_tokens=LENGTH, turbo=turbo, log_probabilities=0)
    (committed,) = [event for event in events if isinstance(event, CanvasCommitted)]
    n = committed.answer_length
    assert block.tokens.tolist() == committed.tokens[:n].tolist()
    assert len(block.inputs) == n + 1  # the end, too
    logits = demo.backend.head(block.inputs, demo.model.weights.output, demo.config.logit_softcap)
    logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = committed.log_probabilities.committed[: n + 1]
    np.testing.assert_allclose(found[np.arange(n + 1), committed.tokens[: n + 1]], wanted, atol=1e-4)


def test_the_divergence_is_of_the_same_positions(demo, pairs):
    """With turbo from without, at the rows of both answers."""
    ids, price = demo.encode(PROMPTS[0]), TurboPrice(demo, Turbo(), LENGTH)
    (_, (one,)), (_, (other,)) = (price._answer(ids, 0, kind) for kind in (None, Turbo()))
    n = min(len(one.inputs), len(other.inputs))
    heads = [
        demo.backend.head(block.inputs[:n], demo.model.weights.output, demo.config.logit_softcap)
        for block in (one, other)
    ]
    np.testing.assert_array_equal(pairs[0].divergence.kl, divergence(*heads).kl)


def test_each_line_is_a_prompt():
    assert read_prompts(["a\n\n b \r\nc", "d"], None) == ["a", "b", "c", "d"]
    assert read_prompts(["a\nb", "c"], 2) == ["a", "b"]
    with pytest.raises(PromptError, match="the texts hold no prompt"):
        read_prompts(["\n \n", ""], 8)


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        (tmp_path / "prompts.txt").write_text("Sort: 7 3 9 1 5\n\nReverse: cat dog\nSort: 2 1\n")
        (tmp_path / "empty.txt").write_text("\n")

        def run(*arguments, file="prompts.txt"):
            return CliRunner().invoke(cli, ["compare", "demo", *arguments, "-f", str(tmp_path / file)])

        return run

    def test_json(self, run):
        done = run("--turbo=frozen,end", "--chunks", "2", "-n", "96", "--json", "-t", "1")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["turbo"]["tail"] == 0
        assert found["turbo"]["frozen"] == Turbo().frozen
        assert [row["prompt"] for row in found["prompts"]] == ["Sort: 7 3 9 1 5", "Reverse: cat dog"]
        assert [row["seed"] for row in found["prompts"]] == [0, 1]
        assert found["all"]["answers"] == 2
        for name in ("steps", "rows", "seconds"):
            pairs = [row[name] for row in found["prompts"]]
            assert found["all"][name] == pytest.approx([sum(column) for column in zip(*pairs, strict=True)])
        assert all(0 < row["rows"][1] <= row["rows"][0] for row in found["prompts"])
        assert found["divergence"]["positions"] > 10

    def test_table(self, run):
        done = run("--turbo", "-n", "96")
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[1].split()[:2] == ["prompt", "answer"]
        assert lines[2].startswith("Sort: 7 3 9 1 5")
        assert lines[5].startswith("all ")
        assert " of 3 same" in lines[5]
        assert "same argmax" in lines[-2]

    def test_wrong_words(self, run):
        for arguments, file, code, words in (
            ((), "prompts.txt", 2, "with itself by --turbo: give one"),
            (("other.gguf", "--turbo"), "prompts.txt", 2, "--turbo does not go with SECOND"),
            (("--turbo=nose",), "prompts.txt", 2, "turbo has no part 'nose'"),
            (("other.gguf", "-n", "9"), "prompts.txt", 2, "--max-tokens goes with --turbo"),
        ):
            done = run(*arguments, file=file)
            assert done.exit_code == code, done.output
            assert words in done.stderr
        done = run("--turbo", file="empty.txt")
        assert isinstance(done.exception, PromptError)
        done = run("--turbo", file="missing.txt")
        assert isinstance(done.exception, PromptError)
