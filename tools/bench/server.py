"""What the server adds to an answer: processor time a step, memory, and time to start.

    python tools/bench/server.py MODEL [--rounds 6] [--tokens 512]

The same answer is asked for again and again in one process: from the session itself, and through the worker
and /v1/chat/completions, without drafts and with them, each as the bytes that would be sent. They take turns,
and the processor time of the whole process counts, not time: other programs only count where they take cache
from it. Memory and the time to be ready are those of processes of their own, with and without a server.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.diffusion.events import DenoisingStep
from dgguf.server import completions
from dgguf.server.answering import Answers, Plan
from dgguf.server.requests import ChatRequest
from dgguf.server.worker import Worker
from dgguf.session import Session

PROMPT = "Tell me a story."


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the server adds.")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    if os.environ.get("DGGUF_BENCH_START"):  # a process of its own: see `started`
        _start(options.model)
        return
    with Session(options.model, threads=1) as session:
        request = ChatRequest(
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=options.tokens,
            seed=1,
            sampler={"max_steps": options.steps},
        )
        made = completions.plan(request, session)
        worker = Worker(session, 4)
        answers = Answers(worker, session)
        worker.start()
        ways = {
            "session": lambda: _plain(session, made),
            "served": lambda: asyncio.run(_served(made, answers, drafts=False)),
            "served with drafts": lambda: asyncio.run(_served(made, answers, drafts=True)),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, way in ways.items():
                began = time.process_time()
                steps = way()
                if number:  # the first of each is left out
                    found[name].append(1e3 * (time.process_time() - began) / steps)
        worker.stop()
    least = {name: min(times) for name, times in found.items()}
    for name, times in found.items():
        more = statistics.median(a - b for a, b in zip(times, found["session"], strict=True))
        added, ratio = least[name] - least["session"], least[name] / least["session"]
        print(f"{name:<20} {least[name]:8.2f} ms of processor time a step at least, {ratio:.3f}")
        print(f"{'':<20} {added:+8.2f} ms by the least, {more:+.2f} by the median of differences")
    for kind in ("session", "server"):
        runs = [started(options.model, kind) for _ in range(max(3, options.rounds // 2))]
        seconds, memory = (min(run[i] for run in runs) for i in (0, 1))
        print(f"{kind:<20} {seconds:8.2f} s of processor time to be ready, {memory / 1e6:.0f} MB of its own")


def _plain(session: Session, made: Plan) -> int:
    conversation = session.conversation()
    events = session.stream(
        made.prompt, settings=made.settings, max_tokens=made.max_tokens, seed=1, conversation=conversation
    )
    return sum(isinstance(event, DenoisingStep) for event in events)


async def _served(made: Plan, answers: Answers, *, drafts: bool) -> int:
    before = answers.worker.measures()["steps_total"]
    answers.worker._idle.clear()  # a conversation of its own, as the others have
    async for _ in completions.stream(made, answers, "m", drafts=drafts, with_usage=True):
        pass
    return round(answers.worker.measures()["steps_total"] - before)


def started(model: str, kind: str) -> tuple[float, int]:
    """Seconds of processor time until a process is ready, and bytes of its own memory then."""
    command = [sys.executable, __file__, model]
    done = subprocess.run(
        command, env=os.environ | {"DGGUF_BENCH_START": kind}, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    return told["seconds"], told["bytes"]


def _start(model: str) -> None:
    session = Session(model, threads=1)
    if os.environ["DGGUF_BENCH_START"] == "server":
        from dgguf.server.app import Server
        from dgguf.server.run import listen

        Server(session, queue=16, name="m").application()
        listen("127.0.0.1", 0).close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    own = re.search(r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert own is not None
    print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "bytes": 1024 * int(own[1])}))


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
