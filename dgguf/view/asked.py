"""What a generation was asked: the prompt's own words, out of the ids that the model was given."""

from dgguf.diffusion.events import Started
from dgguf.text.tokenizer import TokenTexts
from dgguf.view.frame import Line, Span, Style, clip, wrap
from dgguf.view.terminal import safe

_USER = b"user\n"  # how a user's turn begins in the chat template, behind a control token


def asked_text(started: Started, tokens: TokenTexts) -> str:
    """The last message of a user; of a raw prompt, which has no turns, all of it."""
    parts = [b""]
    for token in started.prompt.tolist():
        if tokens.is_special(token):
            parts.append(b"")
        else:
            parts[-1] += tokens.piece(token)
    messages = [part.removeprefix(_USER) for part in parts if part.startswith(_USER)]
    return (messages[-1] if messages else b"".join(parts)).decode(errors="replace").strip()


def heading(started: Started, tokens: TokenTexts, width: int, most: int = 2) -> list[Line]:
    """What was shown, a line each, and the question as at most so many, marked as what was typed.

    Of an empty prompt that shows nothing there is no line.
    """
    shown = [clip((Span(safe(each.caption, draft=True), Style.LABEL),), width) for each in started.images]
    text = safe(asked_text(started, tokens)[: width * (most + 1)], draft=True)
    if not text:
        return shown
    lines = wrap([Span(text, Style.TEXT)], max(1, width - 2))
    if len(lines) > most:
        last = clip(lines[most - 1], max(1, width - 4))
        lines = [*lines[: most - 1], (*last, Span(" …", Style.LABEL))]
    return [*shown, *((Span("  " if i else "> ", Style.LABEL), *line) for i, line in enumerate(lines))]
