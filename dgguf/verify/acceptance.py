"""The acceptance of a model file, within a time: one report to paste where somebody asks what it does."""

import contextlib
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dgguf import __version__
from dgguf.answer import Answer, AnswerBuilder
from dgguf.backends.cpu.backend import CpuBackend
from dgguf.benchmark import PeakMemory
from dgguf.diffusion.statistics import Statistics
from dgguf.errors import DggufError, one_line
from dgguf.machine import peak_resident_bytes, processor, system_memory, usable_cores
from dgguf.session import Session
from dgguf.text.chat import ChatTemplate
from dgguf.units import format_bytes
from dgguf.verify.known_answers import KNOWN_ANSWERS, KnownAnswer
from dgguf.verify.published import is_published_vocabulary, template_faults, token_faults

BUDGET_SECONDS = 20 * 60.0
USUAL_STEPS = range(10, 31)  # in which a canvas of the published model settles
_SEED = 1
PASS, FAIL, SKIPPED, NO_TIME = "pass", "fail", "skipped", "no time"


@dataclass(frozen=True)
class Budget:
    """How long all of it may take.

    Attributes:
        clock: seconds, which only rise.
        end: by the clock.
    """

    clock: Callable[[], float]
    end: float

    @classmethod
    def begin(cls, seconds: float = BUDGET_SECONDS, clock: Callable[[], float] = time.monotonic) -> "Budget":
        return cls(clock, clock() + seconds)

    @property
    def left(self) -> float:
        return self.end - self.clock()


def accept(session: Session, budget: Budget, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask a model what is known, and note what it cost.

    Args:
        session: freshly opened.
        budget: no prompt is begun, or gone on with, when it is used up.
        say: told what is being done, a line each.

    Returns:
        JSON types: "checks", each with a "status", one of `PASS`, `FAIL`, `SKIPPED` and `NO_TIME`, and
        beside them "speed", "memory" and "machine".
    """
    checks: dict[str, Any] = {"tokens": _tokens(session), "template": _template(session)}
    with PeakMemory() as private:
        rows, answers, interrupted = ask_all(session, budget, say)
    checks["prompts"] = _prompts(rows)
    checks["settling"] = settling(answers)
    return {
        "interrupted": interrupted,
        "checks": checks,
        "picture": _picture(session),
        "speed": speed(answers),
        "memory": {
            "peak_private_bytes": private.bytes,
            "peak_resident_bytes": peak_resident_bytes(),
            "mapped_bytes": session.file.n_bytes,
        },
        "machine": _machine(session),
    }


def passed(checks: dict[str, Any]) -> bool:
    """Whether every check passed: what was skipped, or had no time, did not."""
    return all(check["status"] == PASS for check in checks.values())


def ask_all(
    session: Session, budget: Budget, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[Answer], bool]:
    """Ask all known prompts: a row each, the answers that there was time for, and whether Ctrl-C came."""
    rows: list[dict[str, Any]] = []
    answers = []
    with contextlib.suppress(KeyboardInterrupt):  # what there is by then is worth a report
        for number, known in enumerate(KNOWN_ANSWERS, 1):
            say(f"prompt {number} of {len(KNOWN_ANSWERS)}, {known.name} ({max(0.0, budget.left):.0f} s left)")
            row, answer = _ask(session, known, budget)
            rows.append(row)
            if answer:
                answers.append(answer)
                steps = "+".join(map(str, row["steps"]))
                say(f"  {row['status']}: {one_line(row['fault'] or row['answer']):.60} · {steps} steps")
            else:
                say(f"  {row['status']}{': ' * bool(row['fault'])}{row['fault']}")
    return (
        rows + [_not_asked(known) for known in KNOWN_ANSWERS[len(rows) :]],
        answers,
        len(rows) < len(KNOWN_ANSWERS),
    )


def _not_asked(known: KnownAnswer) -> dict[str, Any]:
    return {"name": known.name, "status": NO_TIME, "fault": "", "answer": "", "steps": []}


def _ask(session: Session, known: KnownAnswer, budget: Budget) -> tuple[dict[str, Any], Answer | None]:
    row = _not_asked(known)
    began = budget.clock()
    builder = AnswerBuilder(session.tokenizer)
    events = session.stream(known.prompt, max_tokens=session.config.canvas_length, seed=_SEED)
    try:
        with contextlib.closing(events):
            while budget.left > 0 and (event := next(events, None)) is not None:
                builder.add(event)
    except DggufError as error:
        return row | {"status": FAIL, "fault": str(error)}, None
    row["seconds"] = budget.clock() - began
    if builder.statistics.reason is None:
        return row, None
    answer = builder.answer()
    fault = known.fault(answer.text)
    settled = answer.statistics.converged
    row |= {"status": FAIL if fault else PASS, "fault": fault, "answer": answer.text, "settled": settled}
    return row | {"steps": answer.statistics.steps}, answer


def _tokens(session: Session) -> dict[str, Any]:
    if not is_published_vocabulary(session.tokenizer):
        return {"status": SKIPPED, "faults": ["not the published vocabulary"]}
    faults = token_faults(session.tokenizer)
    return {"status": FAIL if faults else PASS, "faults": faults}


def _template(session: Session) -> dict[str, Any]:
    try:
        faults = template_faults(ChatTemplate.from_metadata(session.file.metadata, str(session.file.path)))
    except DggufError as error:
        faults = [str(error)]
    return {"status": FAIL if faults else PASS, "faults": faults}


def _prompts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    states = [row["status"] for row in rows]
    status = FAIL if FAIL in states else NO_TIME if NO_TIME in states else PASS
    return {"status": status, "right": states.count(PASS), "of": len(rows), "answers": rows}


def settling(answers: list[Answer]) -> dict[str, Any]:
    """Whether all canvases settled, in the usual number of steps in the median."""
    steps = [n for answer in answers for n in answer.statistics.steps]
    settled = [done for answer in answers for done in answer.statistics.converged]
    if not steps:
        return {"status": NO_TIME, "canvases": 0, "settled": 0, "median_steps": None}
    median = statistics.median(steps)
    good = all(settled) and USUAL_STEPS[0] <= median <= USUAL_STEPS[-1]
    found = {"canvases": len(steps), "settled": sum(settled), "median_steps": median}
    return {"status": PASS if good else FAIL, **found, "usual": [USUAL_STEPS[0], USUAL_STEPS[-1]]}


def speed(answers: list[Answer]) -> dict[str, float | None]:
    """Of the prompt that took longest to encode, and of all answers but the first, which warms up."""
    encoded = [s for s in (answer.statistics for answer in answers) if s.prompt_seconds]
    longest = max(encoded, key=lambda s: s.prompt_tokens - s.reused_tokens, default=Statistics())
    new_tokens = longest.prompt_tokens - longest.reused_tokens
    warm = [answer.statistics for answer in answers[1:]]
    steps, seconds = sum(sum(s.steps) for s in warm), sum(s.seconds for s in warm)
    return {
        "prompt_tokens_per_s": new_tokens / longest.prompt_seconds if longest.prompt_seconds else None,
        "seconds_per_step": sum(s.step_seconds for s in warm) / steps if steps else None,
        "answer_tokens_per_s": sum(s.answer_tokens for s in warm) / seconds if seconds else None,
    }


def _picture(session: Session) -> dict[str, Any]:
    """Whether a file for pictures lies beside the model; none is shown here."""
    found = sorted(session.file.paths[0].parent.glob("*mmproj*.gguf"))
    return {
        "mmproj": str(found[0]) if found else None,
        "note": "it lies there; this check shows no pictures" if found else "none there",
    }


def _machine(session: Session) -> dict[str, Any]:
    cpu = session.backend if isinstance(session.backend, CpuBackend) else None
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_bytes": system_memory()[1],
        "backend": session.backend.describe(),
        "cpu_path": cpu and cpu.path,
        "threads": cpu and cpu.threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numba": importlib.metadata.version("numba"),
        "dgguf": __version__,
    }


def summary(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A report for a reader: names, and what was found of each."""
    for name, check in report["checks"].items():
        yield f"{check['status']:<7} {name}", _detail(name, check)
    for name, value in report.get("speed", {}).items():
        yield name.replace("_", " "), "unknown" if value is None else f"{value:.2f}"
    for name, value in report.get("memory", {}).items():
        yield name.replace("_", " "), "unknown" if value is None else format_bytes(value)
    if picture := report.get("picture"):
        yield "a file for pictures", picture["note"]


def _detail(name: str, check: dict[str, Any]) -> str:
    if name == "prompts":
        return f"{check['right']} of {check['of']} right"
    if name == "settling":
        number = f"{check['settled']} of {check['canvases']} canvases settled"
        return f"{number}, in {check['median_steps']} steps in the median"
    return one_line("; ".join(check["faults"]))
