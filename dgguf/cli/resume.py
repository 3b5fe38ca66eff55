"""`dgguf resume`: a recorded answer from one of its steps on, with another seed."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dgguf.cli.answering import Asked, answer, printing_options
from dgguf.cli.commands import Grouped, complete_models
from dgguf.cli.keeping import Keeping, keeping_options
from dgguf.cli.options import Loading, Showing, loading_options, seed_option, view_options
from dgguf.view.names import VIEWS

if TYPE_CHECKING:
    from dgguf.session import Session


def _place(text: str) -> tuple[int, int]:
    """Block, from 1, and step of BLOCK:STEP."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}:[0-9]{1,6}", text):
        raise click.UsageError(f"--at {text!r:.60} is no BLOCK:STEP, such as 1:4; blocks count from 1")
    block, step = map(int, text.split(":"))
    return block, step


@click.command(cls=Grouped, short_help="Go on from a step of a recording.")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option(
    "--at",
    metavar="BLOCK:STEP",
    required=True,
    help="The last step that stays, as `dgguf replay` counts; step 0 is the fresh canvas.",
)
@click.option("--model", shell_complete=complete_models, help="The model.  [default: the recording's]")
@seed_option
@loading_options
@view_options(VIEWS)
@keeping_options
@printing_options
def resume(
    loading: Loading,
    showing: Showing,
    keeping: Keeping,
    recording: Path,
    at: str,
    seed: int | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Take the answer of a RECORDING back to one of its steps, and let it go on from there with another seed.

    All up to that step is as it was, to the last bit. A warning says so if the model, or the way it is
    computed, is not what was recorded.

    \b
    Examples:
      dgguf run demo -p "Tell me a story." --record story.jsonl
      dgguf resume story.jsonl --at 1:4
      dgguf resume story.jsonl --at 1:4 --seed 7 --record other.jsonl
    """
    from dgguf.cli.models import offer
    from dgguf.request import new_seed
    from dgguf.view.recording import read_recording

    block, step = _place(at)
    read = read_recording(recording)
    if keeping.record is not None and keeping.record.exists() and keeping.record.samefile(recording):
        raise click.UsageError("--record is the recording that is read: choose another name")
    keeping.check()
    loading = dataclasses.replace(loading, model=loading.model or read.started.model)
    offer(loading.model)
    seed = new_seed() if seed is None else seed

    def ask(session: "Session") -> Asked:
        events = session.resume(read, block=block - 1, step=step, seed=seed)
        return Asked(events, seed, read.started.settings)

    answer(ask, loading, showing, keeping=keeping, table=stats, as_json=as_json, verbose=False)
