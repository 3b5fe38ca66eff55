"""`dgguf batch`: a file of prompts, answered row by row, and gone on with whatever stopped it."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.constraint import constraint_options
from dgguf.cli.options import Asking, Loading, generation_options

if TYPE_CHECKING:
    from dgguf.batch.run import Progress, Workers
    from dgguf.batch.work import Task
    from dgguf.cli.progress import Bar

_FORMATS = ("openai", "jsonl", "csv", "parquet")  # those of `dgguf.batch.results`, which needs more packages


@click.command(cls=Grouped, short_help="Answer a file of prompts.")
@model_argument
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--format",
    "form",
    metavar="NAME",
    type=click.Choice(_FORMATS),
    help=f"Of OUT, one of {', '.join(_FORMATS)}.  [default: by its ending .csv or .parquet, else openai]",
)
@click.option("--column", metavar="NAME", help="The prompts in CSV or Parquet.  [default: prompt or text]")
@click.option(
    "--decide",
    "questions",
    type=click.Path(path_type=Path),
    metavar="QUESTIONS.json",
    help="Answer these questions about each text, with probabilities.",
)
@click.option("--strict", is_flag=True, help="Check every row first; compute nothing if one is wrong.")
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Compute on Ray: at an address, or auto: the cluster that runs here, else one that is started.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Workers on Ray.  [default: as many as fit]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object about the run.")
@click.option("--system", help="A system message before every prompt that has none.")
@click.option("--think/--no-think", default=False, help="Let the model think before it answers.")
@click.option("--raw", is_flag=True, help="No chat template: go on from each prompt's text.")
@click.option("--special", is_flag=True, help="Let texts such as <|turn> in prompts become control tokens.")
@generation_options
@constraint_options
def batch(
    loading: Loading,
    asking: Asking,
    source: Path,
    out: Path,
    form: str | None,
    column: str | None,
    questions: Path | None,
    strict: bool,
    force: bool,
    ray: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Answer each row of the file IN with MODEL, and write OUT when all are answered.

    Rows are OpenAI's batch lines, objects with a "prompt", "messages" or "text" (.jsonl), plain lines, or
    records of .csv and .parquet files. The same command goes on where a run was stopped; what is done
    stands in OUT.journal until then. docs/batches.md says what rows may hold, and how to plan many.

    \b
    Examples:
      dgguf batch model.gguf prompts.txt -o answers.csv
      dgguf batch model.gguf requests.jsonl -o results.jsonl --seed 7
      dgguf batch model.gguf mails.csv --column body -o teams.csv --decide questions.json
      dgguf batch model.gguf prompts.parquet -o answers.parquet --ray auto --workers 8 -t 1
    """
    from dgguf.batch.run import Job, check_names, run
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.models import offer
    from dgguf.interrupts import forget

    form = form or {".csv": "csv", ".parquet": "parquet"}.get(out.suffix.lower(), "openai")
    job = Job(source, out, column, form, strict, force, asking.seed)  # type: ignore[arg-type]
    check_names(job)
    if ray is None:
        offer(loading.model)
    task = _task(asking, questions, source.resolve().parent)

    def opened(seed: int) -> contextlib.AbstractContextManager["Workers"]:
        return _workers(loading, dataclasses.replace(task, seed=seed), ray, workers)

    with contextlib.ExitStack() as stack:
        stack.enter_context(announce_compilation())
        shown = _Shown(stack, job.journal)
        try:
            progress = run(job, task.settings(), opened, shown.begin, shown.advance, lambda: shown.stop())
            if progress.stopped:
                raise KeyboardInterrupt
        except (KeyboardInterrupt, SystemExit):
            shown.tell_how_to_go_on()
            raise
    forget()
    _end(progress, job.out, shown.seconds, as_json)


def _task(asking: Asking, questions: Path | None, folder: Path) -> "Task":
    """What all rows are asked for, but for the run's seed. What is wrong with it is told here."""
    from dgguf.batch.work import Task
    from dgguf.decisions.questions import read_questions

    asking.constraint()
    if questions is not None:
        read_questions(questions)
    return Task(
        seed=0,
        folder=str(folder),
        max_tokens=asking.max_tokens,
        canvas=asking.canvas,
        turbo=asking.turbo,
        sampler=asking.sampler,
        system=asking.system,
        think=asking.think,
        raw=asking.raw,
        special=asking.special,
        image_tokens=asking.image_tokens,
        schema=None if asking.schema is None else json.dumps(_json(asking.schema)),
        regex=asking.regex,
        choice=asking.choice,
        questions=None if questions is None else _json(questions),
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes().decode("utf-8-sig"))


@contextlib.contextmanager
def _workers(loading: Loading, task: "Task", ray: str | None, n: int | None) -> "Iterator[Workers]":
    """What computes: this process, or workers on Ray."""
    if ray is None:
        from dgguf.batch.local import LocalWorker
        from dgguf.batch.work import RowWorker

        with loading.open() as session:
            yield LocalWorker(RowWorker(session, task))
        return
    from dgguf.batch.cluster import Cluster, open_workers
    from dgguf.cli.output import say

    options = {
        "model": _whole_path(loading.model),
        "context": loading.context,
        "exact": loading.exact,
        "keep_weights": loading.keep_weights,
        "mmproj": None if loading.mmproj is None else _whole_path(loading.mmproj),
    }
    with open_workers(Cluster(ray, n, loading.threads or 1, options), task) as found:
        say(f"workers on Ray: {len(found.actors)}, threads of each: {loading.threads or 1}")
        yield found


def _whole_path(name: str) -> str:
    """A file's path as workers find it, who have another working directory; else the name as it is."""
    path = Path(name)
    return str(path.resolve()) if path.is_file() else name


class _Shown:
    """What is said while rows are computed, and whether Ctrl-C asks to stop.

    Args:
        stack: is left when the last row is computed.
        journal: its name, for messages.
    """

    def __init__(self, stack: contextlib.ExitStack, journal: Path) -> None:
        self._stack, self._journal = stack, journal
        self._bar: Bar | None = None
        self._began = time.monotonic()
        self._n_tokens = 0
        self.progress: Progress | None = None
        self.stop: Callable[[], bool] = lambda: False

    @property
    def seconds(self) -> float:
        """Since the first row was begun."""
        return time.monotonic() - self._began

    def begin(self, progress: "Progress") -> None:
        from dgguf.cli.output import note, say
        from dgguf.cli.progress import bar
        from dgguf.interrupts import asked_once

        self.progress, self._began = progress, time.monotonic()
        if progress.n_dropped:
            note(f"{progress.n_dropped:,} bytes at the end of {self._journal} were not whole and are dropped")
        if progress.n_before:
            say(f"going on: {progress.n_before:,} of {progress.n_rows:,} rows are answered already")
        self._bar = self._stack.enter_context(
            bar(
                "answering rows",
                progress.n_rows,
                here=progress.n_before,
                amount="{:,}".format,
                is_rate=False,
                also=lambda seconds: f"{self._n_tokens / seconds:.1f} tokens/s",
            )
        )
        self.stop = self._stack.enter_context(
            asked_once(lambda: say("stopping when the canvas is finished; Ctrl-C again stops now"))
        )

    def advance(self, progress: "Progress") -> None:
        self._n_tokens = progress.completion_tokens
        if self._bar:
            self._bar.advance(progress.n_done - self._bar.done)

    def tell_how_to_go_on(self) -> None:
        from dgguf.cli.output import say

        if (found := self.progress) and found.n_done:
            done = f"{found.n_done:,} of {found.n_rows:,} rows are answered and kept in {self._journal}"
            say(f"{done}: the same command goes on with the others")


def _end(progress: "Progress", out: Path, seconds: float, as_json: bool) -> None:
    """Say what was done; raises where rows failed."""
    from dgguf.cli.output import say
    from dgguf.errors import BatchError
    from dgguf.units import count, format_duration
    from dgguf.view.terminal import safe_json

    rate = progress.completion_tokens / seconds if seconds else 0.0
    if as_json:
        report = {
            "rows": progress.n_rows,
            "failed": progress.n_failed,
            "answered_before": progress.n_before,
            "seed": progress.seed,
            "seconds": round(seconds, 3),
            "prompt_tokens": progress.prompt_tokens,
            "completion_tokens": progress.completion_tokens,
            "tokens_per_second": round(rate, 3),
            "out": str(out),
        }
        click.echo(safe_json(json.dumps(report, ensure_ascii=False, indent=2)))
    rows, tokens = count(progress.n_rows, "row"), count(progress.completion_tokens, "token")
    say(f"{rows} · {tokens} in {format_duration(seconds)}, {rate:.1f}/s · seed {progress.seed} · {out}")
    if progress.n_failed:
        raise BatchError(
            f"{progress.n_failed:,} of {progress.n_rows:,} rows failed; {out} has an error for each of them"
        )
