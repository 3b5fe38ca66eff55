"""What an answer depends on: how many are the same to the last bit when only the way to them differs.

    python tools/accuracy/histories.py [--seeds 12]

The demo answers a prompt of 163 tokens, longer than its window, on every CPU path that the machine can
run and in exact mode. Counted are the answers whose every step (canvas, argmax, accepted positions,
entropies) is the same as with a cold cache on two threads. The last two columns compare a path with exact
mode: answers with the same text, and positions of the first step with the same likeliest token.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

import numpy as np

import dgguf
from dgguf.diffusion.events import DenoisingStep
from tools.accuracy.same_answers import digest

MESSAGE = "Write a story about Mia and a blue fox. " * 14
LENGTH = 163


def prompt_of(session: dgguf.Session) -> np.ndarray:
    """The ids of the prompt; what lies in the middle is cut away."""
    ids = session.encode(MESSAGE)
    return np.concatenate((ids[: LENGTH - 40], ids[-40:]))


def cold(session: dgguf.Session, ids: np.ndarray) -> None:
    """Nothing is cached."""
    session._conversation.drop()


def warm(session: dgguf.Session, ids: np.ndarray) -> None:
    """A prefix is cached, with another end and an answer behind it."""
    cold(session, ids)
    session.generate(np.concatenate((ids[:101], ids[5:30])), max_tokens=1, seed=0)


def in_pieces(session: dgguf.Session, ids: np.ndarray) -> None:
    """The prompt is encoded in pieces of 7."""
    cold(session, ids)
    cache = session._conversation.cache
    for first in range(0, len(ids), 7):
        session.model.encode(ids[first : first + 7], cache)


def trimmed(session: dgguf.Session, ids: np.ndarray) -> None:
    """A prefix was cached when the memory was wanted for another conversation."""
    cold(session, ids)
    session.model.encode(ids[:140], session._conversation.cache)
    session._conversation.trim()


HISTORIES: dict[str, Callable[[dgguf.Session, np.ndarray], None]] = {
    "cold": cold,
    "warm": warm,
    "in pieces": in_pieces,
    "trimmed": trimmed,
}


def answers(session: dgguf.Session, history: str, n_seeds: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Of each seed the digest of the answer, its text, and the first step's likeliest tokens."""
    ids = prompt_of(session)
    for seed in range(n_seeds):
        HISTORIES[history](session, ids)
        events = list(session.stream(ids, max_tokens=96, seed=seed))
        steps = [event for event in events if isinstance(event, DenoisingStep)]
        yield digest(events), session.decode(steps[-1].tokens), steps[0].tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="answers each (default: 12)")
    n = parser.parse_args().seeds
    from dgguf.backends.cpu.features import possible_paths

    names = [*list(HISTORIES)[1:], "1 thread"]
    print("  ".join(f"{x:>11}" for x in ["", *names, "text: exact", "first step"]))
    with dgguf.load("demo", exact=True, threads=2) as session:
        exact = list(answers(session, "cold", n))
    for path in ("exact", *possible_paths()):
        os.environ["DGGUF_CPU_PATH"] = "" if path == "exact" else path
        sessions = {t: dgguf.load("demo", exact=path == "exact", threads=t) for t in (1, 2)}
        found = list(answers(sessions[2], "cold", n))
        others = [list(answers(sessions[2], history, n)) for history in list(HISTORIES)[1:]]
        others.append(list(answers(sessions[1], "cold", n)))
        same = [sum(a[0] == b[0] for a, b in zip(found, other, strict=True)) for other in others]
        texts = sum(a[1] == b[1] for a, b in zip(found, exact, strict=True))
        first = np.mean([(a[2] == b[2]).mean() for a, b in zip(found, exact, strict=True)])
        counts = [f"{count:>8}/{n:<2}" for count in (*same, texts)]
        print("  ".join([f"{path:>11}", *counts, f"{first:>11.2%}"]), flush=True)


if __name__ == "__main__":
    main()
