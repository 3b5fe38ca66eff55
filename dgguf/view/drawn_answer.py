"""An answer that knows how it came about, so that it can be drawn."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

from dgguf.answer import Answer, AnswerBuilder
from dgguf.diffusion.events import Event
from dgguf.errors import RecordingError
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.export.write import Drawing, check_name, page, write
from dgguf.view.recording import Recording


@dataclass(frozen=True)
class DrawnAnswer(Answer):
    """An answer of a session.

    Attributes:
        recording: everything that happened; what `export` draws.
    """

    recording: Recording = field(repr=False, compare=False)

    def export(self, path: str | Path, *, force: bool = False, **drawing: Any) -> None:
        """Draw how the answer came about; the name's suffix, one of `view.names.EXPORTS`, says as what.

        Args:
            path: of the file.
            force: overwrite it if it exists.
            drawing: fields of `view.export.write.Drawing`, such as theme="light" or purpose="slide".

        Raises:
            RecordingError: the kind is unknown, the file exists, or there is nothing to draw.
            TypeError: there is no such field.
        """
        known = [f.name for f in fields(Drawing)]
        if unknown := sorted(drawing.keys() - set(known)):
            raise TypeError(f"export has no argument {', '.join(unknown)}; there are {', '.join(known)}")
        path = Path(path)
        check_name(path)
        if path.exists() and not force:
            raise RecordingError(f"{path} exists; force=True overwrites it")
        write(self.recording, path, Drawing(**drawing))

    def _repr_html_(self) -> str:
        """The page to scrub through, for a notebook."""
        try:
            inside = page(self.recording, Drawing())
        except RecordingError:  # nothing was generated
            return f"<pre>{escape(self.text)}</pre>"
        return f'<iframe srcdoc="{escape(inside)}" style="width:100%;height:660px;border:0"></iframe>'


def drawn_answer(tokens: TokenTexts, events: Iterable[Event]) -> DrawnAnswer:
    """The answer of a generation, whose events are all taken."""
    builder, seen = AnswerBuilder(tokens), []
    for event in events:
        builder.add(event)
        seen.append(event)
    return DrawnAnswer(**vars(builder.answer()), recording=Recording(tokens, seen))
