"""One page to scrub through a generation: it needs no network and no other file.

How tokens are drawn is `SHARED`, and in which colours `theme_css`: the server's page has both, too.
"""

import itertools
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Event, TopTokens
from dgguf.text.tokenizer import TokenTexts
from dgguf.thumbnails import Thumbnail
from dgguf.view.export.shown import data_uri
from dgguf.view.export.theme import THEMES
from dgguf.view.frame import Line
from dgguf.view.screens import Screen
from dgguf.view.terminal import safe

SHARED = Path(__file__).with_name("canvas.js")
_PAGE = Path(__file__).with_name("page.html")


def render(
    shown: Sequence[Screen],
    width: int,
    tokens: TokenTexts,
    title: str,
    question: str,
    facts: str,
    images: Sequence[Thumbnail] = (),
) -> str:
    """The page.

    Args:
        shown: the screens.
        width: their columns.
        tokens: texts of the tokens.
        title: of the page.
        question, images: what was asked, and what stands above it.
        facts: one line of how it was made.
    """
    rows: dict[Line, int] = {}
    frames: list[dict[str, Any]] = []
    texts: dict[int, str] = {}
    for screen in shown:
        frame: dict[str, Any] = {"rows": [rows.setdefault(line, len(rows)) for line in screen.lines]}
        frame |= {"seconds": round(screen.seconds, 3), "label": _label(screen.event)}
        if isinstance(screen.event, DenoisingStep):
            event = screen.event
            frame |= {
                "block": event.block,
                "step": event.step,
                "entropy": [round(float(h), 4) for h in event.entropy],
                "tokens": event.tokens.tolist(),
                "accepted": [int(a) for a in event.accepted],
            }
            ids = event.tokens.tolist()
            if top := event.top:
                frame |= _likeliest(top)
                ids += itertools.chain.from_iterable(frame["top_tokens"])
            texts |= {t: safe(tokens.token_text(t), draft=True) for t in ids if t not in texts}
        frames.append(frame)
    data = {
        "columns": width,
        "rows": [
            [[span.text, span.style, span.position, int(span.thought) + 2 * span.pinned] for span in line]
            for line in rows
        ],
        "frames": frames,
        "texts": texts,
    }
    # "<" never stands in the data as itself, so nothing in it can end the script.
    encoded = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _filled(
        {
            "<!--TITLE-->": escape(title),
            "<!--IMAGES-->": "".join(map(_figure, images)),
            "<!--QUESTION-->": escape(question),
            "<!--FACTS-->": escape(facts),
            '"DATA"': encoded,
        }
    )


def _filled(texts: dict[str, str]) -> str:
    """The page with its styles and script, and with texts in place of their marks, in this order."""
    page = _PAGE.read_text(encoding="utf-8")
    shared = SHARED.read_text(encoding="utf-8").replace("\nexport ", "\n")  # a script, no module
    for mark, text in ({"/*THEME*/": theme_css(), "/*SHARED*/": shared} | texts).items():
        page = page.replace(mark, text)
    return page


def _figure(image: Thumbnail) -> str:
    caption, png = escape(safe(image.caption, draft=True)), image.png()
    picture = f'<img src="{data_uri(png)}" alt="{caption}">' if png else ""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _likeliest(top: TopTokens) -> dict[str, list[list[Any]]]:
    """A row a position; what has no probability, such as the padding of rows, is left out."""
    probabilities = [[round(float(p), 3) for p in row] for row in top.probabilities]
    kept = [[k for k, p in enumerate(row) if p > 0] for row in probabilities]
    return {
        "top_tokens": [[row[k] for k in ks] for row, ks in zip(top.tokens.tolist(), kept, strict=True)],
        "probabilities": [[row[k] for k in ks] for row, ks in zip(probabilities, kept, strict=True)],
    }


def _label(event: Event) -> str:
    match event:
        case DenoisingStep():
            return f"block {event.block + 1} · step {event.step}/{event.max_steps}"
        case CanvasStarted():
            return f"block {event.block + 1} · fresh noise"
    return f"block {event.block + 1} · committed" if isinstance(event, CanvasCommitted) else "the answer"


def theme_css() -> str:
    """The colours of both themes as variables, dark unless light is asked for, and the rules for spans."""
    return (
        f":root,:root[data-theme=dark]{{color-scheme:dark;{_variables('dark')}}}\n"
        f":root[data-theme=light]{{color-scheme:light;{_variables('light')}}}\n"
        "@media (prefers-color-scheme:light){:root:not([data-theme])"
        f"{{color-scheme:light;{_variables('light')}}}}}\n"
        f"{_style_css()}.thought-in{{font-style:italic}}.pinned{{text-decoration:underline}}\n"
        ".share{fill:var(--noise);opacity:.45}.now{stroke:var(--text);vector-effect:non-scaling-stroke}"
        ".mean{fill:none;stroke:var(--spark);stroke-width:2;vector-effect:non-scaling-stroke}\n"
    )


def _variables(name: str) -> str:
    theme = THEMES[name]
    variables = f"--ground:{theme.ground};--frame:{theme.frame};"
    variables += "".join(f"--{style}:{look.colour};" for style, look in theme.looks.items())
    return variables + "".join(
        f"--{style}-ground:{look.ground};" for style, look in theme.looks.items() if look.ground
    )


def _style_css() -> str:
    """Rules for the styles; the colours are variables of the theme."""
    return "".join(
        f".{style}{{color:var(--{style})"
        + ";font-weight:700" * look.bold
        + ";font-style:italic" * look.italic
        + ";text-decoration:underline" * look.underline
        + ";text-decoration:line-through" * look.strike
        + (f";background:var(--{style}-ground)" if look.ground else "")
        + "}"
        for style, look in THEMES["dark"].looks.items()
    )
