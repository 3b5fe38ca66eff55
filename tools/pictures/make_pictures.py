"""Draw the README's pictures, and a film to post, from real runs of dgguf.

    python tools/pictures/make_pictures.py [--model demo] [--out FOLDER] [--tour FOLDER] [--film FOLDER]

Writes run.svg, the opening picture: a story that comes out of noise; sudoku.svg: a board on which wrong
guesses are taken back; fill.svg: a text whose holes are filled; edit.svg: a text that is changed; schema.svg:
an answer that a schema holds; and decide.svg: probabilities of answers. With --tour dgguf/data also the
recordings that `dgguf tour` plays.
With --film also demo.gif, story and board after each other in about a minute, as a terminal shows them.
Seeds are tried from 0 on, and the first story that ends by itself and the first board that is solved are
taken; a model that manages neither (random weights) gets the last that was tried.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.cli.decision_table import table
from dgguf.constraints.language import language
from dgguf.decisions.questions import parse_question
from dgguf.diffusion.events import DenoisingStep, Finished
from dgguf.session import Session
from dgguf.view.choice import make_view
from dgguf.view.difference import difference
from dgguf.view.drawn_answer import DrawnAnswer
from dgguf.view.export import picture, svg
from dgguf.view.export.theme import DARK
from dgguf.view.frame import Line, Span, Style, fit, line_text, wrap
from dgguf.view.recorder import Recorder
from dgguf.view.recording import Recording, read_recording
from dgguf.view.screens import Screen, crop, screens
from dgguf.view.summary import summary
from tools.demo_eval.text_checks import prose_fault

WIDTH = 76
TRIES = 20
STORY = "Tell me a story."
STATE = "I love this little house. It is great!"
QUESTIONS = ["Is the text happy?", "mood: What is the mood? happy|sad|angry"]
SUDOKU = """\
Solve this sudoku:
534.7..1.
6..19.3.8
.9.34.5.7
.59761.2.
.2......1
.13924856
...5.72.4
2.7.1.6.5
..5.....9"""

HOLES = (
    "Once there was a kind boy named Tom. One day Tom met [[3]] by the river. So Tom gave it [[2]]. "
    "From that day on they were the best of [[1]]."
)
OLD = "Once there was a kind boy named Tom. One day Tom met a red fox by the river."
NEW = "Write a story about Mia and a red fox."
JSON = "Make a JSON object: name Mia, color green, pet fox"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "color": {"enum": ["red", "green", "blue"]},
        "pet": {"type": "string"},
    },
    "required": ["name", "color", "pet"],
}


def record(
    session: Session,
    prompt: str,
    max_tokens: int,
    good: Callable[[Recording], bool],
    kept: Path | None,
    schema: dict[str, object] | None = None,
) -> Recording:
    """A generation that is good, of the first seeds, recorded into `kept` if there is such a file to be."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(TRIES):
            path = kept or Path(folder) / f"{seed}.jsonl"
            with Recorder.to_file(path, session.tokenizer) as recorder:
                for _ in recorder.record(
                    session.stream(prompt, max_tokens=max_tokens, seed=seed, constraint=language(schema))
                ):
                    pass
            recording = read_recording(path)
            if good(recording):
                break
    print(f"{prompt.splitlines()[0]} seed {seed}{'' if good(recording) else ': none was good'}", flush=True)
    return recording


def is_whole(recording: Recording) -> bool:
    """Whether an answer settled and ended by itself, is plain prose, and was worth watching."""
    end, answer = recording.events[-1], recording.answer()
    n_steps = sum(isinstance(event, DenoisingStep) for event in recording.events)
    whole = isinstance(end, Finished) and end.reason == "stop" and end.answer_tokens >= 20
    return whole and answer.statistics.converged and 6 <= n_steps <= 40 and prose_fault(answer.text) is None


def is_solved(recording: Recording) -> bool:
    """Whether the board is right at its end, and some guess was taken back on the way."""
    *_, last = screens(
        recording.events, make_view("sudoku", recording.tokens), WIDTH, 40, pace=0.1, speed=None
    )
    caption = line_text(last.lines[-1]) if last.lines else ""
    return caption.startswith("solved") and not caption.endswith(" 0 taken back")


def run_command(recording: Recording, view: str, prompt: str, options: str = "") -> str:
    """The command that makes a recording."""
    command = f'dgguf run {recording.started.model} -p "{prompt.splitlines()[0]}'
    return command + "…" * ("\n" in prompt) + '"' + f" --view {view}" * (view != "text") + options


def is_valid(recording: Recording) -> bool:
    """Whether an answer is what was asked for, and was worth watching."""
    n_steps = sum(isinstance(event, DenoisingStep) for event in recording.events)
    found = json.loads(recording.answer().text)
    wanted = {"name": "Mia", "color": "green", "pet": "fox"}
    return 2 <= n_steps <= 24 and wanted.items() <= found.items()


def film(recording: Recording, view: str, command: str, pace: float) -> list[Screen]:
    """The screens of a recording below the command that makes it, from its typing to what it cost."""
    typed: list[Line] = wrap([Span("$ ", Style.LABEL), Span(command, Style.TEXT)], WIDTH)
    made = make_view(view, recording.tokens)
    shown = list(screens(recording.events, made, WIDTH, 40, pace=pace, speed=None))
    answer = recording.answer()
    cost = fit(summary(answer.statistics, answer.seed).split(" · "), WIDTH)
    end = (*shown[-1].lines, (), (Span(cost, Style.STATUS),))
    shown[-1] = dataclasses.replace(shown[-1], lines=end, seconds=4.0)
    shown.insert(0, dataclasses.replace(shown[0], lines=(), seconds=0.8))
    return [dataclasses.replace(screen, lines=(*typed, *screen.lines)) for screen in shown]


def decided(session: Session) -> list[Screen]:
    """The command that decides, and its table."""
    questions = [parse_question(line) for line in QUESTIONS]
    command = f'dgguf decide {session.name} "{STATE}"' + "".join(f' -q "{line}"' for line in QUESTIONS)
    typed: list[Line] = wrap([Span("$ ", Style.LABEL), Span(command, Style.TEXT)], WIDTH)
    shown = table(session.decide(STATE, questions), WIDTH, session.tokenizer)
    done = Finished("stop", 0, 0.0)
    return [Screen(done, 1.0, tuple(typed)), Screen(done, 6.0, (*typed, (), *shown))]


def fill(session: Session) -> Recording:
    """A text with holes, of the first seed with which that takes some steps."""
    for seed in range(TRIES):
        answer = session.fill(HOLES, STORY, seed=seed).answer
        if answer.statistics.steps[0] >= 6:
            break
    print(f"fill seed {seed}", flush=True)
    return answer.recording


def edit(session: Session) -> list[Screen]:
    """The command that edits, its canvas, and what it changed; of the first seed that does as asked."""
    for seed in range(TRIES):
        edited = session.edit(OLD, prompt=NEW, seed=seed)
        if "Mia met a red fox" in edited.text and "Tom" not in edited.text:
            break
    print(f"edit seed {seed}", flush=True)
    assert isinstance(edited.answer, DrawnAnswer)
    command = f'dgguf edit {session.name} story.txt -p "{NEW}"'
    *shown, last = film(edited.answer.recording, "text", command, 0.45)
    *lines, cost = last.lines
    changed = wrap(difference(OLD, edited.changes, marked=False), WIDTH)
    return [*shown, dataclasses.replace(last, lines=(*lines, *changed, (), cost))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the README's pictures.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tour", type=Path, metavar="FOLDER", help="also keep the recordings there")
    parser.add_argument("--film", type=Path, metavar="FOLDER", help="also draw a film of a minute there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with Session(options.model) as session:
        kept = {name: options.tour and options.tour / f"{name}.jsonl.gz" for name in ("story", "sudoku")}
        story = record(session, STORY, 192, is_whole, kept["story"])
        board = record(session, SUDOKU, 96, is_solved, kept["sudoku"])
        filled = fill(session)
        edited = edit(session)
        held = record(session, JSON, 96, is_valid, None, SCHEMA)
        decisions = decided(session)
    title = "dgguf"
    for name, shown in (
        ("run", film(story, "text", run_command(story, "text", STORY), 0.16)),
        ("sudoku", film(board, "sudoku", run_command(board, "sudoku", SUDOKU), 0.45)),
        ("fill", film(filled, "text", f'dgguf fill {options.model} -p "{STORY}" "{HOLES}"', 0.45)),
        ("edit", edited),
        ("schema", film(held, "text", run_command(held, "text", JSON, " --schema person.json"), 0.4)),
        ("decide", decisions),
    ):
        path = options.out / f"{name}.svg"
        path.write_text(svg.render(shown, WIDTH, crop(shown), DARK, title), encoding="utf-8")
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    if options.film:
        options.film.mkdir(parents=True, exist_ok=True)
        parts = [("text", story, STORY), ("sudoku", board, SUDOKU)]
        n_steps = sum(len(recording.events) for _, recording, _ in parts)
        pace = min(1.2, max(0.1, 48 / n_steps))
        shown = [
            screen
            for view, recording, prompt in parts
            for screen in film(recording, view, run_command(recording, view, prompt), pace)
        ]
        path = options.film / "demo.gif"
        picture.write_gif(path, shown, WIDTH, crop(shown), DARK, title, 1)
        seconds = sum(screen.seconds for screen in shown)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
