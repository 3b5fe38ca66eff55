"""An animated picture in one SVG file: no script, no font and nothing else from outside."""

import io
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from dgguf.view.export.shown import Placed, data_uri
from dgguf.view.export.theme import Look, Theme
from dgguf.view.frame import Line, Span, Style
from dgguf.view.screens import Screen

CELL, ROW, FONT_SIZE = 8.4, 18, 14  # pixels
PADDING, BAR = 14, 32
_FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def render(
    shown: Sequence[Screen],
    width: int,
    height: int,
    theme: Theme,
    title: str,
    pictures: Sequence[Placed] = (),
) -> str:
    """The screens one after the other, over and over.

    Args:
        shown: at least one.
        width, height: in columns and rows.
        theme: its colours.
        title: in the bar above.
        pictures: that stand at the top of every screen.
    """
    w, h = width * CELL + 2 * PADDING, height * ROW + 2 * PADDING + BAR
    rows: dict[Line, int] = {}  # every row that differs is drawn once
    frames = []
    for i, screen in enumerate(shown):
        uses = [
            f'<use href="#r{rows.setdefault(line, len(rows))}" y="{y * ROW}"/>'
            for y, line in enumerate(screen.lines)
            if line
        ]
        frames.append(f'<g transform="translate({i * w:.1f})">{"".join(uses)}</g>')
    drawn = "".join(f'<g id="r{number}">{_row(line, theme)}</g>' for line, number in rows.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.1f} {h}" width="{w:.0f}" height="{h}">'
        f"<title>{escape(title)}</title><style>{_css(shown, w, theme)}</style><defs>{drawn}</defs>"
        f'<rect width="{w:.1f}" height="{h}" rx="10" fill="{theme.ground}"/>'
        f'<path d="M0 {BAR}V10A10 10 0 0 1 10 0H{w - 10:.1f}A10 10 0 0 1 {w:.1f} 10V{BAR}Z" '
        f'fill="{theme.frame}"/>'
        + "".join(
            f'<circle cx="{18 + 18 * i}" cy="{BAR / 2}" r="5.5" fill="{colour}"/>'
            for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        )
        + f'<text class="status" x="{w / 2:.1f}" y="{BAR / 2 + 5}" text-anchor="middle">'
        f"{escape(title)}</text>"
        f'<svg x="{PADDING}" y="{BAR + PADDING}" width="{width * CELL:.1f}" height="{height * ROW}">'
        f'{"".join(map(_picture, pictures))}<g class="film">{"".join(frames)}</g></svg></svg>\n'
    )


def _picture(placed: Placed) -> str:
    png = io.BytesIO()
    placed.image.save(png, "PNG")
    width, height = placed.image.size
    return (
        f'<image x="{placed.column * CELL:.1f}" width="{width}" height="{height}" '
        f'href="{data_uri(png.getvalue())}"/>'
    )


def _css(shown: Sequence[Screen], w: float, theme: Theme) -> str:
    total = sum(screen.seconds for screen in shown)
    steps, now = [], 0.0
    for i, screen in enumerate(shown):
        steps.append(f"{100 * now / total:.3f}%{{transform:translateX({-i * w:.1f}px)}}")
        now += screen.seconds
    end = f"transform:translateX({-(len(shown) - 1) * w:.1f}px)"
    return (
        f"text{{font:{FONT_SIZE}px {_FONTS};white-space:pre;fill:{theme.looks[Style.TEXT].colour}}}"
        + "".join(f".{style}{{{css_of(look)}}}" for style, look in theme.looks.items())
        + f".film{{animation:film {total:.2f}s step-end infinite}}"
        + f"@keyframes film{{{''.join(steps)}100%{{{end}}}}}"
        + f"@media (prefers-reduced-motion:reduce){{.film{{animation:none;{end}}}}}"
    )


def css_of(look: Look) -> str:
    """The look of a style in CSS for SVG text."""
    return (
        f"fill:{look.colour}"
        + ";font-weight:700" * look.bold
        + ";font-style:italic" * look.italic
        + ";text-decoration:underline" * look.underline
        + ";text-decoration:line-through" * look.strike
    )


def _row(line: Line, theme: Theme) -> str:
    column, out = 0, []
    for span in _joined(line):
        width = span.width
        if ground := theme.looks[span.style].ground:
            out.append(
                f'<rect x="{column * CELL:.1f}" width="{width * CELL:.1f}" height="{ROW}" fill="{ground}"/>'
            )
        text = span.text.strip(" ")
        if text:
            first = column + len(span.text) - len(span.text.lstrip(" "))
            columns = Span(text, span.style).width
            marks = ' font-style="italic"' * span.thought + ' text-decoration="underline"' * span.pinned
            out.append(
                f'<text class="{span.style}" x="{first * CELL:.1f}" y="{FONT_SIZE}"{marks} '
                f'textLength="{columns * CELL:.1f}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
            )
        column += width
    return "".join(out)


def _mark(span: Span) -> tuple[Style, bool, bool]:
    return span.style, span.thought, span.pinned


def _joined(line: Line) -> list[Span]:
    """Neighbours of one style as one span: a picture does not ask which token a letter is of."""
    out: list[Span] = []
    for span in line:
        if out and _mark(out[-1]) == _mark(span):
            out[-1] = replace(out[-1], text=out[-1].text + span.text)
        else:
            out.append(span)
    return out
