"""Decisions as lines for a terminal: each question, its canvas with the slots, and a bar for each option."""

from dgguf.decisions.decide import Decision
from dgguf.text.tokenizer import TokenTexts
from dgguf.units import count
from dgguf.view.frame import Line, Span, Style, clip, fit, wrap
from dgguf.view.terminal import cell_width, safe

WIDTHS = 40, 120  # columns that a table takes at least and at most
_PARTS = " ▏▎▍▌▋▊▉"  # eighths of a cell
_NUMBERS = len("100.0 % ±10.0")
_SLOT = "▒"


def table(decisions: list[Decision], width: int, tokens: TokenTexts) -> list[Line]:
    """The lines of all decisions, none of them wider than `width` columns.

    Args:
        width: of the terminal; see WIDTHS.
        tokens: texts of the tokens.
    """
    width = max(WIDTHS[0], min(width, WIDTHS[1]))
    lines: list[Line] = []
    slots: dict[tuple[int, ...], set[int]] = {}  # of each canvas
    for decision in decisions:
        slots.setdefault(decision.canvas, set()).add(decision.slot)
    for n, decision in enumerate(decisions):
        lines += [()] if lines else []
        if n == 0 or decision.canvas != decisions[n - 1].canvas:
            canvas = _canvas(decision.canvas, slots[decision.canvas], width, tokens)
            lines += [*canvas, ()] if canvas else []
        lines += _lines(decision, width)
    return lines


def _canvas(ids: tuple[int, ...], slots: set[int], width: int, tokens: TokenTexts) -> list[Line]:
    """A canvas with noise in its slots, without the pads at its end; no lines of none."""
    n_pads = next((n for n, token in enumerate(reversed(ids)) if token != ids[-1]), len(ids))
    shown = ids[: len(ids) - n_pads]
    spans = []
    for place, token in enumerate(shown):
        style = Style.SPECIAL if tokens.is_special(token) else Style.TEXT
        text = safe(tokens.token_text(token), draft=True)
        spans.append(Span(_SLOT, Style.NOISE) if place in slots else Span(text, style))
    if not spans:
        return []
    end = Span(f" and {count(n_pads, 'pad')}", Style.LABEL)
    return wrap([Span("  canvas ", Style.LABEL), *spans, end], width)


def percent(share: float) -> str:
    """A share of a whole, which may be next to nothing."""
    return f"{100 * share:.1f} %" if share >= 5e-4 else "less than 0.1 %"


def _lines(decision: Decision, width: int) -> list[Line]:
    question = decision.question
    title = [Span(safe(question.text, draft=True), Style.COMMITTED)]
    if question.name is not None and question.name != question.text:
        title.insert(0, Span(safe(question.name, draft=True) + ": ", Style.LABEL))
    lines = wrap(title, width)
    labels = [safe(_text(value), draft=True) for value in decision.probabilities]
    room = min(max(map(cell_width, labels)), width // 3)
    for label, (value, p) in zip(labels, decision.probabilities.items(), strict=True):
        is_answer = value == decision.answer
        style = Style.SETTLED if is_answer else Style.TEXT
        error = decision.standard_error if is_answer else None
        numbers = f"{100 * p:5.1f} %" + (f" ±{100 * error:.1f}" if error is not None else "")
        cells = width - 2 - room - 1 - 1 - _NUMBERS
        name = clip((Span(label, style),), room)
        pad = " " * (room - sum(span.width for span in name) + 1)
        bar = Span(f"{pad}{_bar(p, cells)} ", Style.LIKELY if is_answer else Style.NOISE)
        lines.append((Span("  ", style), *name, bar, Span(numbers, style)))
    facts = [f"confidence {decision.confidence:.2f}", f"labels hold {percent(decision.mass)}"]
    if question.kind == "score":
        facts.insert(0, f"score {decision.score:.2f} of 0 to {len(labels) - 1}")
    facts.append(count(decision.reads, "read"))
    return [*lines, (Span("  " + fit(facts, width - 2), Style.LABEL),)]


def _text(value: str | bool) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


def _bar(share: float, cells: int) -> str:
    """A bar of `cells` columns, filled to the eighth of one."""
    eighths = round(share * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + _PARTS[rest])[:cells].ljust(cells)
