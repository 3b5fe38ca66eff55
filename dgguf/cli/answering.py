"""Loads a model, shows an answer of it and writes it: what commands that answer share."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from dgguf.cli.export import draw
from dgguf.cli.keeping import Keeping
from dgguf.cli.options import Command, Loading, Showing
from dgguf.errors import DggufError

if TYPE_CHECKING:
    from dgguf.cli.display import Display
    from dgguf.diffusion.events import Event
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.session import Session


@dataclass(frozen=True)
class Asked:
    """An answer that was asked for.

    Attributes:
        events: of it.
        seed, settings: of the generation.
    """

    events: "Generator[Event, None, None]"
    seed: int
    settings: "SamplerSettings"


def printing_options(command: Command) -> Command:
    """What of an answer is printed; the command gets `stats` and `as_json`."""
    text = "Print one JSON object instead of the text."
    command = click.option("--json", "as_json", is_flag=True, help=text)(command)
    text = "Print a table of what it cost and how it went."
    return click.option("--stats", is_flag=True, help=text)(command)


@contextlib.contextmanager
def opened(loading: Loading, display: "Display") -> "Iterator[Session]":
    """The model, which is loaded while `display` says so; it notes a GPU, of the CPU only the log tells."""
    import logging

    display.say(f"loading {loading.model}")
    with loading.open() as session:
        note = display.note if loading.gpu else logging.getLogger(__name__).info
        note(f"{session.file.path}: {session.backend.describe()}")
        yield session


def answer(
    ask: "Callable[[Session], Asked]",
    loading: Loading,
    showing: Showing,
    *,
    keeping: Keeping,
    table: bool,
    as_json: bool,
    verbose: bool,
) -> str:
    """Load the model and show its answer; what there is of the answer, returned too, is always written.

    Args:
        ask: is called with the model.
    """
    import logging

    from dgguf.cli.answer_writer import AnswerWriter
    from dgguf.cli.display import Display
    from dgguf.cli.log import show_log

    log = logging.getLogger(__name__)
    with contextlib.ExitStack() as stack:
        if verbose:
            stack.enter_context(show_log(logging.INFO))
        # Left in the opposite order: the answer is finished when the terminal is as it was.
        writer: AnswerWriter | None = None
        asked: Asked | None = None
        seen: list[Event] = []
        try:
            with Display(showing, as_json=as_json) as display:
                session = stack.enter_context(opened(loading, display))
                asked = ask(session)
                log.info(", ".join(f"{k} {v}" for k, v in dataclasses.asdict(asked.settings).items()))
                writer = AnswerWriter(
                    session.tokenizer,
                    as_json=as_json,
                    echo=not display.choice.shows_answer,
                    markdown=display.choice.markdown,
                    show_thoughts=verbose and not display.choice.is_live,
                )
                with contextlib.closing(asked.events):
                    for event in display.show(asked.events, session, keeping.record):
                        writer.add(event)
                        seen += [event] if keeping.export else []
        except DggufError:
            if writer and not writer.answer.statistics.prompt_tokens:  # refused: there is nothing to tell of
                writer = None
            raise
        finally:
            if writer and asked:
                cut_off = writer.answer.statistics.reason is None
                writer.finish(seed=asked.seed, settings=asked.settings, interrupted=cut_off, table=table)
        if keeping.export:
            draw(seen, session.tokenizer, keeping.export, showing)
        return writer.answer.text
