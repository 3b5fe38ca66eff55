"""See that a process which answers all night long stays as it was, and that processes share a model's file.

    python tools/trust/long_nights.py prompts [--model demo] [--count 200]
    python tools/trust/long_nights.py chat [--turns 100]
    python tools/trust/long_nights.py share MODEL.gguf [--processes 4]

`prompts` asks ten prompts again and again, and `chat` lets one conversation grow; the first ten answers are
to warm up. Memory is what belongs to the process alone and to no file. Times are the processor's and the
clock's, of the last ten answers against the ten after warming up. As a growing chat's turns take longer by
themselves, its last ten are asked once more in a fresh session. `share` opens one file in several processes
at once, lets each compute a step, and reads from Linux what they share.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.session import Session
from tests.support.process_state import ProcessState, memory, process_state
from tests.support.synthetic.writer import TINY, write_model

TEN = 10
NAMES = ("Mia", "Tom", "Ann", "Ben", "Eva", "Leo", "Zoe", "Max", "Ida", "Sam")
PROMPTS = [f"Write a story about {name} and a blue fox." for name in NAMES]
CONTEXT = 16384  # of the growing chat
ASKS = ["Tell me more.", "And then?", "Sort: 7 3 9 1 5", "Tell me a story."]
# What each of several processes does: it says when it has computed a step, and waits.
_SHARER = """
import sys
sys.path.insert(0, sys.argv[2])
from dgguf.session import Session
with Session(sys.argv[1], context=1024) as session:
    session.generate("Hi", settings=session.settings(max_steps=1), max_tokens=1, seed=1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Run one of the trials and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    trials = parser.add_subparsers(dest="trial", required=True)
    prompts = trials.add_parser("prompts")
    prompts.add_argument("--count", type=int, default=200)
    chat = trials.add_parser("chat")
    chat.add_argument("--turns", type=int, default=100)
    prompts.add_argument("--model", default="demo")
    share = trials.add_parser("share")
    share.add_argument("model")
    share.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # where others leave nothing
        if options.trial == "prompts":
            ask_prompts(options.model, options.count)
        elif options.trial == "chat":
            model = Path(folder) / "tiny.gguf"  # the demo's template shows it the last message alone
            write_model(model, replace(TINY, context_length=CONTEXT), "Q8_0", seed=3)
            grow_chat(model, options.turns)
        else:
            share_file(options.model, options.processes)


def ask_prompts(model: str, count: int) -> None:
    """Ten prompts again and again, each time with the same work."""
    states, clock, processor = [], [], []
    with Session(model) as session:
        for i in range(count):
            began, cpu = time.perf_counter(), time.process_time()
            session.generate(PROMPTS[i % TEN], max_tokens=64, seed=i % TEN)
            clock.append(time.perf_counter() - began)
            processor.append(time.process_time() - cpu)
            states.append(process_state())
    print(f"{count} prompts")
    print_states(states)
    print_times("by the processor", processor[TEN : 2 * TEN], processor[-TEN:])
    print_times("by the clock", clock[TEN : 2 * TEN], clock[-TEN:])


def grow_chat(model: Path, turns: int) -> None:
    """One conversation that grows; then its last turns in a fresh session."""
    messages: list[dict[str, str]] = []
    states, processor, asked = [], [], []
    with Session(model, context=CONTEXT) as session:
        for i in range(turns):
            messages.append({"role": "user", "content": ASKS[i % len(ASKS)]})
            asked.append([*messages])
            processor.append(answer(session, messages, i))
            states.append(process_state())
        n_tokens = len(session.encode(messages))
    print(f"a chat of {turns} turns, {n_tokens} tokens at its end")
    print_states(states)
    with Session(model, context=CONTEXT) as session:
        answer(session, asked[-TEN - 1], turns - TEN - 1)  # encodes what is before
        again = [answer(session, asked[i], i) for i in range(turns - TEN, turns)]
    print_times("by the processor, against a fresh session", again, processor[-TEN:])


def answer(session: Session, messages: list[dict[str, str]], seed: int) -> float:
    """Answer a conversation, which then holds the answer too; seconds of the processor."""
    began = time.process_time()
    text = session.generate(messages, settings=session.settings(max_steps=8), max_tokens=64, seed=seed).text
    messages.append({"role": "assistant", "content": text or "Yes."})
    return time.process_time() - began


def print_states(states: list[ProcessState]) -> None:
    """How what the process holds changed after the first ten answers."""
    after = states[TEN - 1]
    changes = [(state.private_bytes - after.private_bytes) / 1e6 for state in states[TEN:]]
    print(
        f"  private memory      {after.private_bytes / 1e6:.0f} MB after ten, then {min(changes):+.1f} to ",
        end="",
    )
    print(f"{max(changes):+.1f} MB, at the end {changes[-1]:+.1f}")
    last = states[-1]
    print(f"  descriptors         {after.descriptors} after ten, {last.descriptors} at the end")
    print(f"  threads             {after.threads} after ten, {last.threads} at the end")
    print(f"  temporary files     {len(last.temporary - after.temporary)} more")


def print_times(what: str, first: list[float], last: list[float]) -> None:
    """Ten answers against ten others of the same work."""
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    print(
        f"  last ten / first    {statistics.median(ratios):.3f} (median of the ten ratios), "
        f"{sum(last) / sum(first):.3f} (sums), {what}"
    )


def share_file(model: str, count: int) -> None:
    """Open a file in several processes, and see what they share."""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", _SHARER, model, root]
    sharers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for sharer in sharers:
            assert sharer.stdout is not None
            assert sharer.stdout.readline() == b"ready\n"
        seen = [memory(sharer.pid) for sharer in sharers]
    finally:
        for sharer in sharers:
            sharer.communicate()
    print(f"{count} processes, a file of {Path(model).stat().st_size / 1e9:.2f} GB")
    for each in seen:
        print(
            "  "
            + "   ".join(
                f"{key} {each[key] / 1e9:.2f} GB" for key in ("Rss", "Pss", "Shared_Clean", "Anonymous")
            )
        )
    print(f"  together {sum(each['Pss'] for each in seen) / 1e9:.2f} GB (sum of Pss)")


if __name__ == "__main__":
    main()
