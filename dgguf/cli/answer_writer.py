"""What `dgguf run` prints: the answer to stdout, everything else to stderr."""

import dataclasses
import json
import sys
from collections.abc import Sequence

import click

from dgguf.answer import AnswerBuilder, Piece
from dgguf.cli.output import NOTE, say, warn
from dgguf.diffusion.events import Event
from dgguf.diffusion.settings import SamplerSettings
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.sudoku import asked_board, grid_fault
from dgguf.view.summary import statistics_facts, summary
from dgguf.view.terminal import safe, safe_json

_MANY_STEPS = 10  # in which a sound model settles; whoever sets fewer does not expect it


class AnswerWriter:
    """Writes an answer as its blocks are committed, and what it cost when it ends.

    Args:
        texts: texts of the tokens.
        as_json: write one JSON object at the end instead of the text.
        echo: write the text; else whoever shows the events does.
        show_thoughts: write the thoughts to stderr.
        markdown: write the text as its Markdown means, when it is whole.

    Attributes:
        answer: as far as it has come.
    """

    def __init__(
        self, texts: TokenTexts, *, as_json: bool, echo: bool, show_thoughts: bool, markdown: bool = False
    ) -> None:
        self.answer = AnswerBuilder(texts)
        self._texts = texts
        self._as_json = as_json
        self._echo = echo and not as_json
        self._show_thoughts = show_thoughts
        # On a terminal the answer would be torn apart by progress lines: there it comes whole, at the end.
        self._whole = markdown or (sys.stdout.isatty() and sys.stderr.isatty())
        self._markdown = markdown

    def add(self, event: Event) -> None:
        """Take the next event of the generation."""
        self._write(self.answer.add(event))

    def finish(self, *, seed: int, settings: SamplerSettings, interrupted: bool, table: bool) -> None:
        """Write what is left, then the statistics. Also after Ctrl-C or an error, for what there is.

        Args:
            seed, settings: of the generation.
            interrupted: it did not come to its end.
            table: write all statistics, a line each.
        """
        self._write(self.answer.finish())
        s, text = self.answer.statistics, self.answer.text
        if self._as_json:
            if_any = {"replaced": s.replaced, "rows": s.frozen_rows, "frozen_rows": s.frozen_rows}
            result = {
                "text": text,
                "thoughts": self.answer.thoughts,
                "interrupted": interrupted,
                "seed": seed,
                "settings": dataclasses.asdict(settings),
                **{k: v for k, v in dataclasses.asdict(s).items() if if_any.get(k, True)},
                "answer_tokens_per_second": s.answer_tokens_per_second,
                "canvas_positions_per_second": s.canvas_positions_per_second,
                "tokens_per_step": s.tokens_per_step,
            }
            click.echo(safe_json(json.dumps(result, ensure_ascii=False)))
        elif self._echo and self._markdown and text:
            from dgguf.cli.tables import Markdown, echo

            echo(Markdown(text))
        elif self._echo and text:
            if self._whole:
                click.echo(safe(text, draft=False), nl=False)
            if not text.endswith("\n"):
                click.echo()
        if s.steps:
            say(summary(s, seed))
        if table:
            from dgguf.cli.tables import Facts, echo

            echo(Facts(statistics_facts(s), style=NOTE), err=True)
        if not interrupted:
            self._advise(settings.max_steps)

    def _write(self, pieces: Sequence[Piece]) -> None:
        for kind, text, _ in pieces:
            if kind == "thought" and self._show_thoughts:
                click.echo(safe(text, draft=False) if sys.stderr.isatty() else text, nl=False, err=True)
            elif kind == "answer" and self._echo and not self._whole:
                click.echo(safe(text, draft=False) if sys.stdout.isatty() else text, nl=False)
        sys.stdout.flush()

    def _grid_fault(self) -> str:
        """What is wrong with the answer to a sudoku; "" if nothing is, or it is none."""
        started = self.answer.started
        board = asked_board(started, self._texts) if started else None
        return "" if board is None else grid_fault(board, self.answer.text)

    def _advise(self, max_steps: int) -> None:
        s = self.answer.statistics
        if s.converged and not any(s.converged) and max_steps >= _MANY_STEPS:
            warn(
                f"no block settled within {max_steps} steps, so the answer may have faults; if it is no text "
                "at all, the weights are random or the file is damaged (`dgguf check` reads it whole)"
            )
        if fault := self._grid_fault():
            hint = "; `dgguf run … --pin-givens` holds these" if "other than given" in fault else ""
            warn(f"this sudoku is not solved: {fault}{hint}")
        started = self.answer.started
        if s.reason == "stop" and not self.answer.text.strip() and started and not started.constraints:
            say("the answer is empty: the model ended its turn at once; a fuller prompt or --think may help")
        if s.reason == "length":
            say("the answer was cut at the token limit: -n raises it")
        if s.reason == "context":
            say("the answer was cut because the context is full: -c raises it")
