"""What is kept of an answer beside its text: a recording, and a drawing."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dgguf.cli.export import check_out, draw
from dgguf.cli.options import Command, Showing, bundled

if TYPE_CHECKING:
    from dgguf.diffusion.events import Event
    from dgguf.text.tokenizer import TokenTexts


@dataclass(frozen=True)
class Keeping:
    """What is written beside the text.

    Attributes:
        record: the file of a recording.
        export: the file of a drawing.
        force: the drawing may replace another file.
    """

    record: Path | None
    export: Path | None
    force: bool

    def check(self) -> None:
        """See that the files may be written, before anything is computed for them."""
        if self.record is not None:
            from dgguf.view.recorder import check_replaceable

            check_replaceable(self.record)
        if self.export is not None:
            check_out(self.export, force=self.force)

    def keep(self, events: "Sequence[Event]", tokens: "TokenTexts", showing: Showing) -> None:
        """Write the files of an answer whose events have all come."""
        if self.record is not None:
            from dgguf.view.recorder import Recorder

            with Recorder.to_file(self.record, tokens) as recorder:
                collections.deque(recorder.record(events), maxlen=0)
        if self.export is not None:
            draw([*events], tokens, self.export, showing)


def keeping_options(command: Command) -> Command:
    """The command gets `keeping: Keeping`."""
    command = bundled(command, "keeping", Keeping)
    for option in (
        click.option("--force", is_flag=True, help="Overwrite the file of --export if it exists."),
        click.option(
            "--export",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Draw what happened into this file, as `dgguf export` does: .gif, .html …",
        ),
        click.option(
            "--record",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write every step to this file, for `dgguf replay` and `dgguf export`; gzip if it "
            "ends in .gz.",
        ),
    ):
        command = option(command)
    return command
