"""The rows under a canvas: where the generation stands, and how its entropy fell."""

from dataclasses import dataclass

from dgguf.units import count
from dgguf.view.frame import Line, Span, Style, fit
from dgguf.view.progress import Progress
from dgguf.view.terminal import safe

_BARS = "▁▂▃▄▅▆▇█"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True)
class Work:
    """How far a pass through the text network or the vision tower is.

    Attributes:
        layer, n_layers: done, of how many.
        image: that the tower reads, by its name, which is not safe for a terminal; "" for the text network.
        seconds_left: until it is read; None where nobody knows yet.
    """

    layer: int = 0
    n_layers: int = 0
    image: str = ""
    seconds_left: float | None = None

    def parts(self) -> list[str]:
        """In words, what matters most first."""
        if self.layer == self.n_layers and not self.image:
            return ["vocabulary"]  # what comes before the first layer and after the last
        done = f"layer {min(self.layer + 1, self.n_layers):>{len(str(self.n_layers))}}/{self.n_layers}"
        if not self.image:
            return [done]
        left = [] if self.seconds_left is None else [f"{self.seconds_left:.0f} s left"]
        return [f"reading {safe(self.image, draft=True)}", done, *left]


@dataclass(frozen=True)
class Activity:
    """What goes on between two events; a replay has none.

    Attributes:
        seconds: since the last event.
        work: the running pass.
        compiled: kernels compiled since the last event.
    """

    seconds: float
    work: Work = Work()
    compiled: int = 0

    def parts(self) -> list[str]:
        """In words, the spinner first."""
        spinner = _SPINNER[int(self.seconds * 10) % len(_SPINNER)]
        if self.compiled:
            return [f"{spinner} compiling kernels, once ({self.compiled} so far)", f"{self.seconds:.0f} s"]
        if not self.work.n_layers:
            return [spinner]
        first, *others = self.work.parts()
        return [f"{spinner} {first}", *others]


def status_line(progress: Progress, activity: Activity | None, width: int) -> Line:
    """One row: block, step, mean entropy in nats, accepted positions, speed; less where it is narrow."""
    parts = _parts(progress)
    if activity and activity.compiled:
        parts = [*activity.parts(), *parts]
    elif activity and activity.seconds > 0.5:
        parts = [*parts[:2], *activity.parts(), f"{activity.seconds:.1f} s", *parts[2:]]
    return (Span(fit(parts, width), Style.STATUS),)


def _parts(progress: Progress) -> list[str]:
    if progress.phase == "waiting":
        return ["prompt"]
    if progress.phase == "prompt" and progress.prompt:
        event = progress.prompt
        if event.done < event.total:
            left = (event.total - event.done) * event.seconds / max(1, event.done - event.reused)
            return [f"prompt {event.done}/{event.total} tokens", f"{left:.0f} s left"]
        return [
            f"prompt {count(event.total, 'token')}",
            *([f"reused {event.reused}"] if event.reused else []),
        ]
    parts = [
        f"block {progress.block + 1}",
        f"step {progress.step:>{len(str(progress.max_steps))}}/{progress.max_steps}",
    ]
    if progress.step:
        length = len(progress.draft)
        parts += [
            f"H {progress.mean_entropies[-1]:.2f} nats",
            f"accepted {int(progress.accepted.sum()):>{len(str(length))}}/{length}",
            f"{progress.step_seconds:.{1 if progress.step_seconds >= 1 else 2}f} s/step",
        ]
    if progress.answer.statistics.steps:
        parts.append(f"{progress.answer.statistics.answer_tokens_per_second:.0f} tok/s")
    return parts


def sparkline(values: list[float], width: int) -> str:
    """A bar a value, the latest last; of more values than columns the latest."""
    top = max(values, default=0.0)
    scale = (len(_BARS) - 1) / top if top > 0 else 0.0
    return "".join(_BARS[round(max(0.0, value) * scale)] for value in values[max(0, len(values) - width) :])


def entropy_line(progress: Progress, width: int) -> Line:
    """The mean entropy of this canvas's steps as a row of bars."""
    label = "mean entropy " if width >= 30 else "H "[:width]
    return (
        Span(label, Style.STATUS),
        Span(sparkline(progress.mean_entropies, width - len(label)), Style.SPARK),
    )


def border(progress: Progress, width: int) -> Line:
    """A rule that names the block, so that a fresh canvas does not look like lost work."""
    block = f"block {progress.block + 1}"
    match progress.phase:
        case "committed" if progress.committed:
            steps = count(progress.committed.steps, "step")
            how = "settled" if progress.committed.converged else "not settled"
            text = f"{block} committed · {how} after {steps}"
        case "finished":
            text = f"{block} · stopped at step {progress.step}/{progress.max_steps}, not committed"
        case "denoising" if not progress.step:
            text = f"{block} · fresh noise"
        case _:
            text = block
    text = fit([f"── {text} "], width)
    return (Span(text + "─" * (width - len(text)), Style.LABEL),)
