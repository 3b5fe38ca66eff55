"""The learning curve of a training run as an SVG picture."""

import json
from collections import defaultdict
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _TOP, _LEGEND = 860, 400, 50, 30, 190
_COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#7f7f7f",
    "#bcbd22", "#000000", "#aec7e8", "#ff9896",
)  # fmt: skip

Curves = dict[str, list[tuple[float, float]]]


def draw_curve(history: Path, out: Path) -> None:
    """Draw a run's history.jsonl: shares of right answers above, losses below, over minutes."""
    solved: Curves = defaultdict(list)
    losses: Curves = defaultdict(list)
    for line in history.read_text().splitlines():
        entry = json.loads(line)
        for skill, value in entry.get("losses", {}).items():
            losses[skill].append((entry["minutes"], value))
        for skill, (share, _) in entry.get("solved", {}).items():
            solved[skill].append((entry["minutes"], share))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{2 * _HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    parts += _panel(solved, "held-out prompts answered right, small samples", 0, 1.0)
    highest = max((y for curve in losses.values() for _, y in curve[5:]), default=1.0)
    parts += _panel(losses, "cross-entropy of noisy positions, nats", _HEIGHT, highest)
    out.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _panel(curves: Curves, title: str, top: int, highest: float) -> list[str]:
    """Axes, one line a curve, and their names."""
    latest = max((x for curve in curves.values() for x, _ in curve), default=1.0)
    width, height = _WIDTH - _LEFT - _LEGEND, _HEIGHT - 2 * _TOP
    floor = top + _TOP + height
    parts = [
        f'<text x="{_LEFT}" y="{top + 20}">{title}</text>',
        f'<path d="M{_LEFT} {top + _TOP}V{floor}H{_LEFT + width}" fill="none" stroke="black"/>',
        f'<text x="{_LEFT + width}" y="{floor + 16}" text-anchor="end">{latest:.0f} min</text>',
    ]
    for i in range(5):
        y = floor - height * i / 4
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{highest * i / 4:.2f}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(
            f"{_LEFT + width * x / latest:.1f},{floor - height * min(y / highest, 1):.1f}" for x, y in curve
        )
        y = top + _TOP + 12 + 16 * i
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{_LEFT + width + 12}" y="{y}" fill="{colour}">{name}</text>')
    return parts
