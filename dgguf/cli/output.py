"""What `dgguf run` prints: the answer to stdout, everything else to stderr."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from dgguf.diffusion.events import CanvasCommitted, Event
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.statistics import Statistics
from dgguf.view.terminal import safe

if TYPE_CHECKING:
    from dgguf.text.chat import AnswerText


def say(line: str) -> None:
    """A line for the user, beside the answer; dim on a terminal."""
    click.echo(line if os.environ.get("TERM") == "dumb" else click.style(line, dim=True), err=True)


def format_bytes(n_bytes: int) -> str:
    """A size in the largest unit that keeps it above 1."""
    return _in_units(n_bytes, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))) or f"{n_bytes} bytes"


def format_count(count: int) -> str:
    """A number in words that keep it above 1."""
    return _in_units(count, (("billion", 1e9), ("million", 1e6), ("thousand", 1e3))) or str(count)


def _in_units(value: int, units: tuple[tuple[str, float], ...]) -> str:
    return next((f"{value / factor:.2f} {unit}" for unit, factor in units if value >= factor), "")


@contextlib.contextmanager
def announce_compilation() -> Iterator[None]:
    """Say it, once, when kernels have to be compiled."""
    from dgguf.jit import CACHE_FOLDER, on_compile

    said = False
    kept = "kept for later runs" if CACHE_FOLDER else "not kept, as the cache folder cannot be written"

    def notice() -> None:
        nonlocal said
        if not said:
            said = True
            say(f"compiling kernels for this CPU and this model's types: half a minute or so, {kept}")

    with on_compile(notice):
        yield


class AnswerWriter:
    """Writes an answer as its blocks are committed, and what it cost when it ends.

    Args:
        reader: turns committed tokens into text.
        as_json: write one JSON object at the end instead of the text.
        echo: write the text; else whoever shows the events does.
        show_thoughts: write the thoughts to stderr.
    """

    def __init__(self, reader: "AnswerText", *, as_json: bool, echo: bool, show_thoughts: bool) -> None:
        self._reader = reader
        self._as_json = as_json
        self._echo = echo and not as_json
        self._show_thoughts = show_thoughts
        self.statistics = Statistics()
        self.text: dict[str, str] = {"answer": "", "thought": ""}
        # On a terminal the answer would be torn apart by progress lines: there it comes whole, at the end.
        self._whole = sys.stdout.isatty() and sys.stderr.isatty()

    def add(self, event: Event) -> None:
        """Take the next event of the generation."""
        self.statistics.add(event)
        if isinstance(event, CanvasCommitted):
            self._write(self._reader.push(event.tokens[: event.answer_length].tolist()))

    def finish(self, *, seed: int, settings: SamplerSettings, interrupted: bool, table: bool) -> None:
        """Write what is left, then the statistics. Also after Ctrl-C or an error, for what there is.

        Args:
            seed, settings: of the generation.
            interrupted: it did not come to its end.
            table: write all statistics, a line each.
        """
        self._write(self._reader.finish())
        s = self.statistics
        if self._as_json:
            result = {
                "text": self.text["answer"],
                "thoughts": self.text["thought"],
                "interrupted": interrupted,
                "seed": seed,
                "settings": dataclasses.asdict(settings),
                **dataclasses.asdict(s),
                "answer_tokens_per_second": s.answer_tokens_per_second,
                "canvas_positions_per_second": s.canvas_positions_per_second,
                "tokens_per_step": s.tokens_per_step,
            }
            click.echo(json.dumps(result, ensure_ascii=False))
        elif self._echo and self.text["answer"]:
            if self._whole:
                click.echo(safe(self.text["answer"], draft=False), nl=False)
            if not self.text["answer"].endswith("\n"):
                click.echo()
        if s.steps:
            say(summary(s, seed))
        if table:
            for line in statistics_table(s):
                say(line)
        if not interrupted:
            self._advise(settings.max_steps)

    def _write(self, pieces: Sequence[tuple[str, str]]) -> None:
        for kind, text in pieces:
            self.text[kind] += text
            if kind == "thought" and self._show_thoughts:
                click.echo(safe(text, draft=False) if sys.stderr.isatty() else text, nl=False, err=True)
            elif kind == "answer" and self._echo and not self._whole:
                click.echo(safe(text, draft=False) if sys.stdout.isatty() else text, nl=False)
        sys.stdout.flush()

    def _advise(self, max_steps: int) -> None:
        s = self.statistics
        if s.converged and not any(s.converged):
            say(
                f"warning: no block settled within {max_steps} steps: usual for random weights, "
                "otherwise a sign of a damaged file or of wrong numbers"
            )
        if s.reason == "stop" and not self.text["answer"].strip():
            say("the answer is empty: the model ended its turn at once; a fuller prompt or --think may help")
        if s.reason == "length":
            say("the answer was cut at the token limit: -n raises it")
        if s.reason == "context":
            say("the answer was cut because the context is full: -c raises it")


def count(number: int, noun: str) -> str:
    """A number of things: "1 step", "2 steps"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def summary(s: Statistics, seed: int) -> str:
    """One line of what an answer cost."""
    steps = "+".join(map(str, s.steps))
    reused = f" · reused {count(s.reused_tokens, 'token')}" if s.reused_tokens else ""
    return (
        f"{count(len(s.steps), 'block')} of {steps} step{'s' * (steps != '1')} · "
        f"{count(s.answer_tokens, 'answer token')} at {s.answer_tokens_per_second:.1f} tokens/s"
        f" · first block after {s.first_block_seconds:.1f} s{reused} · seed {seed}"
    )


def statistics_table(s: Statistics) -> list[str]:
    """Everything that was counted, a line each."""

    def per_block(values: Sequence[object]) -> str:
        return " ".join(map(str, values)) or "none"

    other = max(0.0, s.seconds - s.prompt_seconds - s.step_seconds - s.commit_seconds)
    rows = [
        ("prompt", f"{count(s.prompt_tokens, 'token')}, {s.reused_tokens} of them reused"),
        ("answer", f"{count(s.answer_tokens, 'token')}, {s.answer_tokens_per_second:.2f} tokens/s"),
        (
            "canvas",
            f"{count(s.canvas_positions, 'position')}, {s.canvas_positions_per_second:.2f} positions/s",
        ),
        ("steps per block", per_block(s.steps)),
        ("tokens per step", f"{s.tokens_per_step:.2f}"),
        ("settled", f"{sum(s.converged)} of {count(len(s.converged), 'block')}"),
        ("last mean entropy", per_block([f"{value:.4f}" for value in s.last_entropy]) + " nats"),
        ("revisions", per_block(s.revisions) + "  (changes after a token was accepted)"),
        ("time: prompt", f"{s.prompt_seconds:.2f} s"),
        ("time: denoising", f"{s.step_seconds:.2f} s"),
        ("time: committing", f"{s.commit_seconds:.2f} s"),
        ("time: other", f"{other:.2f} s"),
        ("time: all", f"{s.seconds:.2f} s"),
    ]
    return [f"  {name:<18} {value}" for name, value in rows]
