"""What a generation cost: every figure of a generation written by hand."""

import dataclasses
import json

import pytest

from dgguf.cli.tables import Facts, drawn
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Finished, PromptEncoded
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.statistics import Statistics
from dgguf.view.summary import statistics_facts, summary
from tests.support.recordings import generation

FIRST = [
    (["a", "b", "c", "d"], [0.0, 0.0, 1.0, 1.0]),
    (["a", "x", "c", "d"], [0.0, 2.0, 0.0, 0.0]),  # b had been accepted, and is taken back
    (["a", "b", "c", "e"], [0.0, 0.0, 0.0, 0.0]),  # so has x's place, and d
]
SECOND = [(["a", "<turn|>", "<turn|>", "<turn|>"], [0.0, 0.0, 0.0, 0.04])]


def gathered(events):
    statistics = Statistics()
    for event in events:
        statistics.add(event)
    return statistics


def test_every_figure():
    _, events = generation([FIRST, SECOND])
    s = gathered(events)
    assert (s.prompt_tokens, s.reused_tokens, s.prompt_seconds) == (1, 0, 0.25)
    assert s.steps == [3, 1]
    assert s.converged == [True, True]
    assert s.last_entropy == pytest.approx([0.0, 0.01])
    assert s.revisions == [3, 0]
    assert (s.answer_tokens, s.canvas_positions) == (5, 8)
    assert s.tokens_per_step == 5 / 4
    assert (s.step_seconds, s.commit_seconds, s.seconds) == (2.0, 0.25, 2.5)
    assert s.first_block_seconds == 1.75
    assert s.answer_tokens_per_second == 5 / 2.5
    assert s.canvas_positions_per_second == 8 / 2.5
    assert s.reason == "stop"


def test_cut_off_in_a_block_the_rates_are_those_of_what_is_committed():
    _, events = generation([FIRST, FIRST])
    s = gathered(events[:9])
    assert [type(event) for event in events[6:9]] == [CanvasCommitted, CanvasStarted, DenoisingStep]
    assert s.answer_tokens_per_second == 4 / 1.75
    assert s.seconds == 1.75 + 0.5
    assert s.steps == [3]
    assert s.reason is None


def test_nothing_at_all():
    s = Statistics()
    assert (s.answer_tokens_per_second, s.canvas_positions_per_second, s.tokens_per_step) == (0, 0, 0)
    assert statistics_facts(s)[0] == ("prompt", "0 tokens, 0 of them reused")


def test_the_table_and_the_line():
    _, events = generation([FIRST, SECOND])
    s = gathered(events)
    assert drawn([Facts(statistics_facts(s))]).splitlines() == [
        "  prompt             1 token, 0 of them reused",
        "  answer             5 tokens, 2.00 tokens/s",
        "  canvas             8 positions, 3.20 positions/s",
        "  steps per block    3 1",
        "  tokens per step    1.25",
        "  settled            2 of 2 blocks",
        "  last mean entropy  0.0000 0.0100 nats",
        "  revisions          3 0  (changes after a token was accepted)",
        "  time: prompt       0.25 s",
        "  time: denoising    2.00 s",
        "  time: committing   0.25 s",
        "  time: other        0.00 s",
        "  time: all          2.50 s",
    ]
    assert summary(s, 7) == (
        "2 blocks of 3+1 steps · 5 answer tokens at 2.0 tokens/s · first block after 1.8 s · seed 7"
    )


def test_json_holds_the_same(capsys):
    from dgguf.cli.answer_writer import AnswerWriter

    tokens, events = generation([FIRST, SECOND])
    writer = AnswerWriter(tokens, as_json=True, echo=False, show_thoughts=False)
    for event in events:
        writer.add(event)
    writer.finish(seed=7, settings=events[0].settings, interrupted=False, table=False)
    result = json.loads(capsys.readouterr().out)
    assert result["text"] == "abcea"
    for name, value in vars(gathered(events)).items():
        of_some = ("replaced", "rows", "frozen_rows")  # of held answers, and of turbo
        if not name.startswith("_") and name not in of_some:
            assert result[name] == value, name
    for name in ("answer_tokens_per_second", "canvas_positions_per_second", "tokens_per_step"):
        assert result[name] == getattr(gathered(events), name)


@pytest.mark.parametrize(("max_steps", "warns"), [(1, False), (9, False), (10, True), (48, True)])
def test_blocks_that_do_not_settle_are_a_warning_only_after_many_steps(max_steps, warns, capsys):
    from dgguf.cli.answer_writer import AnswerWriter

    tokens, events = generation([FIRST])
    writer = AnswerWriter(tokens, as_json=False, echo=True, show_thoughts=False)
    for event in events:
        writer.add(
            dataclasses.replace(event, converged=False) if isinstance(event, CanvasCommitted) else event
        )
    settings = SamplerSettings(max_steps=max_steps)
    writer.finish(seed=7, settings=settings, interrupted=False, table=False)
    assert ("warning: no block settled" in capsys.readouterr().err) is warns


def test_reused_tokens_count():
    s = gathered([PromptEncoded(done=9, total=9, reused=6, seconds=0.1), Finished("context", 0, 0.1)])
    assert (s.prompt_tokens, s.reused_tokens, s.seconds, s.reason) == (9, 6, 0.1, "context")
