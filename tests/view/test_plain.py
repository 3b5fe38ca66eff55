"""The plain view: a line an event, the events passed on."""

import io

import numpy as np

from dgguf.diffusion.events import CanvasCommitted, DenoisingStep, Finished, PromptEncoded
from dgguf.view import plain

TOKENS = np.arange(4)
EVENTS = [
    PromptEncoded(done=30, total=90, reused=10, seconds=4.0),
    PromptEncoded(done=90, total=90, reused=10, seconds=16.0),
    DenoisingStep(
        block=0, step=2, max_steps=48, temperature=0.8, seconds=3.14159,
        canvas=TOKENS, tokens=TOKENS, settled=True,
        accepted=np.array([True, False, True, True]), entropy=np.array([0, 0.5, 0, 0.5], np.float32),
    ),
    CanvasCommitted(
        0, TOKENS, answer_length=3, stopped=True, steps=2, converged=True, encode_seconds=1, seconds=6.5
    ),
    CanvasCommitted(
        1, TOKENS, answer_length=4, stopped=False, steps=48, converged=False, encode_seconds=1, seconds=60
    ),
    CanvasCommitted(
        2, TOKENS, answer_length=1, stopped=True, steps=1, converged=True, encode_seconds=1, seconds=1
    ),
    Finished(reason="stop", answer_tokens=7, seconds=90.0),
]  # fmt: skip


def test_lines():
    out = io.StringIO()
    assert list(plain.show(EVENTS, out)) == EVENTS
    assert out.getvalue().splitlines() == [
        "prompt 30/90 tokens · 12 s left",
        "prompt 90 tokens · 10 reused · 16.00 s",
        "block 1 · step  2/48 · mean entropy  0.2500 nats · accepted 3/4 · 3.14 s/step",
        "block 1 committed · settled after 2 steps · 3 answer tokens · 6.50 s",
        "block 2 committed · not settled after 48 steps · 4 answer tokens · 60.00 s",
        "block 3 committed · settled after 1 step · 1 answer token · 1.00 s",
    ]


def test_a_recording_may_claim_that_nothing_was_encoded():
    event = PromptEncoded(done=3, total=9, reused=3, seconds=2.0)
    assert plain.describe(event) == "prompt 3/9 tokens · 12 s left"
