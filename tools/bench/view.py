"""Measure what the live view costs: the same generation without and with it, in turn, on a pseudo-terminal.

    python tools/bench/view.py MODEL.gguf [--steps 8] [--runs 3] [--view text] [--width 80] [--height 24]

The canvas gets all its steps. Drawing runs beside the kernels, so it is seen in the time of a run, in the
processor time of the process, and as seconds spent drawing.
"""

import argparse
import collections
import os
import pty
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from rich.color import ColorSystem

from dgguf.session import Session
from dgguf.view.choice import make_view
from dgguf.view.live import Live
from dgguf.view.painter import Painter


class MeasuredPainter(Painter):
    """Notes when it wrote a frame."""

    frames: list[float]

    def _write(self, text: str) -> None:
        super()._write(text)
        self.frames.append(time.perf_counter())


class MeasuredLive(Live):
    """Notes how long it drew."""

    seconds = 0.0

    def _draw(self, *arguments) -> None:
        began = time.perf_counter()
        super()._draw(*arguments)
        self.seconds += time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the live view costs.")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--view", choices=("text", "grid", "sudoku"), default="text")
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--height", type=int, default=24)
    options = parser.parse_args()

    session = Session(options.model)
    settings = session.settings(max_steps=options.steps, stability_threshold=options.steps)
    master, slave = pty.openpty()
    threading.Thread(target=_drain, args=(master,), daemon=True).start()
    screen = os.fdopen(slave, "w", encoding="utf-8")

    def run(live: Live | None) -> tuple[float, float]:
        events = session.stream("Why is the sky blue?", settings=settings, max_tokens=1, seed=1)
        if live:
            view = make_view(options.view, session.tokenizer)
            events = live.show(events, view, session.work)
        began, cpu = time.perf_counter(), time.process_time()
        collections.deque(events, maxlen=0)
        return time.perf_counter() - began, time.process_time() - cpu

    run(None)  # compiles, and reads the file
    bare, seen, drawing, frames = [], [], [], []
    for _ in range(options.runs):
        bare.append(run(None))
        painter = MeasuredPainter(screen, lambda: (options.width, options.height), ColorSystem.EIGHT_BIT)
        painter.frames = []
        with MeasuredLive(painter) as live:
            seen.append(run(live))
        drawing.append(live.seconds / seen[-1][0])
        frames.append(painter.frames)
    without, beside = (statistics.median(wall for wall, _ in runs) for runs in (bare, seen))
    print(f"without a view  {without:7.2f} s   processor {statistics.median(c for _, c in bare):7.2f} s")
    print(
        f"--view {options.view:<8} {beside:7.2f} s   processor {statistics.median(c for _, c in seen):7.2f} s"
        f"   {100 * (beside / without - 1):+.1f} %"
    )
    print(
        f"drawing         {100 * statistics.median(drawing):7.2f} % of the time, "
        f"at most {max(map(_most_in_a_second, frames))} writes in a second"
    )


def _drain(master: int) -> None:
    while os.read(master, 1 << 16):
        pass


def _most_in_a_second(times: list[float]) -> int:
    return max(sum(first <= time < first + 1 for time in times) for first in times)


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
