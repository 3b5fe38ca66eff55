"""Loads a model, shows one answer of it and writes it: what `run` and `resume` share."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgguf.cli.export import draw
from dgguf.cli.keeping import Keeping
from dgguf.cli.options import Loading, Showing

if TYPE_CHECKING:
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
                display.say(f"loading {loading.model}")
                session = stack.enter_context(loading.open())
                where = display.note if loading.gpu else log.info
                where(f"{session.file.path}: {session.backend.describe()}")
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
        finally:
            if writer and asked:
                cut_off = writer.answer.statistics.reason is None
                writer.finish(seed=asked.seed, settings=asked.settings, interrupted=cut_off, table=table)
        if keeping.export:
            draw(seen, session.tokenizer, keeping.export, showing)
        return writer.answer.text
