"""Generations without a model: written by hand for exact frames, or made up to look like real ones."""

import random
import re

import numpy as np

from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.diffusion.sampler import SeededNoise, accept
from dgguf.diffusion.settings import SamplerSettings

STORY = """\
The lighthouse keeper kept a small blue notebook, and in it he wrote down every sound the sea made.

On Mondays it hummed. On Tuesdays it argued with the rocks. But one night in March it said nothing at all, \
and the silence was so wide that he \
put on his boots and went down the ninety-nine steps to ask what was wrong.

"I have forgotten my words," whispered the sea.

So he opened the notebook, and read to it until morning."""


class Pieces:
    """Texts of tokens, the ids their places in a list; "<…>" is special and bytes are a byte."""

    def __init__(self, pieces):
        self.pieces = [*dict.fromkeys(pieces)]
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.channel_open_id = self.ids.get("<|channel>")
        self.channel_close_id = self.ids.get("<channel|>")

    def piece(self, token, *, special=False):
        piece = self.pieces[token]
        if isinstance(piece, bytes):
            return piece
        return b"" if self.is_special(token) and not special else piece.encode()

    def token_text(self, token):
        piece = self.pieces[token]
        return f"<0x{piece[0]:02X}>" if isinstance(piece, bytes) else piece

    def is_special(self, token):
        piece = self.pieces[token]
        return isinstance(piece, str) and piece.startswith("<") and piece.endswith(">") and len(piece) > 2

    def encode(self, pieces):
        return np.array([self.ids[piece] for piece in pieces], np.int64)


def generation(
    blocks,
    *,
    noise=("~", "#", "%"),
    prompt=("Hi",),
    stop="<turn|>",
    finish="stop",
    seconds=0.5,
    max_tokens=None,
    pins=(),
):
    """A generation whose drafts are given.

    Args:
        blocks: of each the drafts, step by step: (texts of the tokens, nats of each).
        noise: tokens that there are besides.

        pins: positions of the answer whose tokens are said to be pinned.

    Returns:
        the texts and the list of events; no step is accepted that has an entropy above 0.05 nats.
    """
    tokens = Pieces(
        [*noise, stop, *prompt, *(piece for block in blocks for draft, _ in block for piece in draft)]
    )
    length = len(blocks[0][0][0])
    settings = SamplerSettings(max_steps=max(4, *map(len, blocks)))
    seeded = SeededNoise(7, len(noise))  # so that noise is noise, whatever else is in the vocabulary
    events = [
        Started(
            model="by hand",
            seed=7,
            settings=settings,
            prompt=tokens.encode(prompt),
            max_tokens=max_tokens or length * len(blocks),
            stop_ids=frozenset([tokens.ids[stop]]),
            canvas_length=length,
            vocab_size=len(noise),
            context=8 * length,
            pins={i: tokens.ids[blocks[i // length][-1][0][i % length]] for i in pins},
        ),
        PromptEncoded(done=len(prompt), total=len(prompt), reused=0, seconds=0.25),
    ]
    answer_tokens = 0
    for block, drafts in enumerate(blocks):
        canvas = seeded.tokens(block, 0, length)
        pinned = np.isin(block * length + np.arange(length), list(pins))
        pinned = pinned if pinned.any() else None
        events.append(CanvasStarted(block, canvas, len(prompt) + block * length, pinned))
        for step, (draft, nats) in enumerate(drafts, 1):
            ids, entropy = tokens.encode(draft), np.array(nats, np.float32)
            accepted = entropy <= 0.05
            last = step == len(drafts)
            events.append(
                DenoisingStep(
                    block=block, step=step, max_steps=settings.max_steps, temperature=0.8, canvas=canvas,
                    tokens=ids, accepted=accepted, entropy=entropy, settled=last, seconds=seconds,
                    pinned=pinned,
                )
            )  # fmt: skip
            canvas = np.where(accepted, ids, seeded.tokens(block, step, length))
        stops = np.flatnonzero(ids == tokens.ids[stop])
        answer = int(stops[0]) if len(stops) else length
        answer_tokens += answer
        events.append(
            CanvasCommitted(
                block=block, tokens=ids, answer_length=answer, stopped=len(stops) > 0, steps=len(drafts),
                converged=True, encode_seconds=0.25, seconds=0.25 + seconds * len(drafts),
            )
        )  # fmt: skip
    total = sum(0.25 + seconds * len(drafts) for drafts in blocks)
    return tokens, [*events, Finished(finish, answer_tokens, total)]


def made_up(text=STORY, *, length=128, steps=20, seed=3, seconds=0.05):
    """A text that comes out of noise as a model's does: words settle here and there, some are taken back."""
    draw = random.Random(seed)
    words = re.findall(r"\s?[\w-]+|\s?\S|\n", text)
    others = [
        "and",
        "of",
        "to",
        "in",
        "water",
        "light",
        "old",
        "stone",
        "river",
        "over",
        "under",
        "never",
        "green",
        "quiet",
        "people",
        "again",
        "small",
        "7",
        ";",
        "(",
        "que",
    ]
    tokens = Pieces(
        ["<turn|>", "<eos>", "<pad>", *words, *(f" {word}" for word in others), "é", "世", "</", "0x"]
    )
    vocabulary = len(tokens.pieces)
    ids = [tokens.ids[word] for word in words] + [tokens.ids["<turn|>"]]
    blocks = [ids[i : i + length] for i in range(0, len(ids), length)]
    blocks[-1] += [tokens.ids["<eos>"]] * (length - len(blocks[-1]))
    settings, noise = SamplerSettings(), SeededNoise(seed, vocabulary)
    events = [
        Started(
            model="made up", seed=seed, settings=settings, prompt=np.array(ids[:4]),
            max_tokens=length * len(blocks), stop_ids=frozenset([tokens.ids["<turn|>"], tokens.ids["<eos>"]]),
            canvas_length=length, vocab_size=vocabulary, context=8192,
        ),
        PromptEncoded(done=4, total=4, reused=0, seconds=0.1),
    ]  # fmt: skip
    answered = 0
    for block, target in enumerate(blocks):
        # Where a position settles: early at the end of the answer, in clusters elsewhere.
        at = [min(steps - 2, max(1, round(draw.betavariate(2, 2.4) * steps))) for _ in target]
        at = [
            2 if t == tokens.ids["<eos>"] else round((a + b) / 2)
            for t, a, b in zip(target, at, at[1:] + at[:1], strict=True)
        ]
        wrong = {i: draw.randrange(vocabulary) for i in range(length) if draw.random() < 0.07 and at[i] > 6}
        canvas = noise.tokens(block, 0, length)
        events.append(CanvasStarted(block, canvas, 4 + block * length))
        draft = np.array([draw.randrange(vocabulary) for _ in target])
        for step in range(1, steps + 1):
            entropy = np.empty(length, np.float32)
            for i, token in enumerate(target):
                left = at[i] - step
                if left <= 0:
                    draft[i], entropy[i] = token, max(0.0, 0.04 * 0.4**-left * draw.random())
                elif i in wrong and left <= 3:  # a wrong word, and sure of it
                    draft[i], entropy[i] = wrong[i], 0.03
                else:
                    if draw.random() < 0.5:
                        draft[i] = token if draw.random() < 0.8 / left else draw.randrange(vocabulary)
                    entropy[i] = min(4.0, 0.12 * left**1.4 * draw.uniform(0.6, 1.4))
            accepted = accept(entropy, settings.entropy_bound)
            events.append(
                DenoisingStep(
                    block=block, step=step, max_steps=settings.max_steps, temperature=0.8 - step / 120,
                    canvas=canvas, tokens=draft.copy(), accepted=accepted, entropy=entropy,
                    settled=step == steps, seconds=seconds,
                )
            )  # fmt: skip
            canvas = np.where(accepted, draft, noise.tokens(block, step, length))
        stops = [i for i, t in enumerate(target) if tokens.is_special(t)]
        answer = stops[0] if stops else length
        answered += answer
        events.append(
            CanvasCommitted(
                block=block, tokens=draft.copy(), answer_length=answer, stopped=bool(stops), steps=steps,
                converged=True, encode_seconds=0.1, seconds=0.1 + steps * seconds,
            )
        )  # fmt: skip
    return tokens, [*events, Finished("stop", answered, len(blocks) * (0.1 + steps * seconds))]


SUDOKU = "530070000\n600195000\n098000060\n800060003\n400803001\n700020006\n060000280\n000419005\n000080079"
SOLVED = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179"


def made_up_sudoku(*, steps=9, seed=4, seconds=0.05, length=96):
    """A board that is filled as a model does it: guesses, some of them wrong and taken back."""
    draw = random.Random(seed)
    prompt = ["Solve this sudoku:", "\n", *SUDOKU.replace("0", ".")]
    digits = [*"123456789"]
    drafts, answer = [], [*SOLVED, "<turn|>", *["<eos>"] * (length - len(SOLVED) - 1)]
    at = [
        1 if s == g or s == "\n" else draw.randint(2, steps - 1) for s, g in zip(SOLVED, SUDOKU, strict=True)
    ]
    at += [1] * (length - len(at))
    guess = [piece if at[i] == 1 else draw.choice(digits) for i, piece in enumerate(answer)]
    for step in range(1, steps + 1):
        nats = []
        for i, piece in enumerate(answer):
            left = at[i] - step
            if left <= 0:
                guess[i] = piece
            elif left > 2 and draw.random() < 0.5:
                guess[i] = draw.choice(digits)
            nats.append(0.001 if left <= -1 else 0.03 if left <= 0 else 0.04 + 0.25 * left * draw.random())
        drafts.append(([*guess], nats))
    return generation([drafts], prompt=prompt, noise=(*digits, "\n", "x"), seconds=seconds)
