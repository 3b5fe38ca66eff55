"""`dgguf tour`: a minute that shows what a canvas does. It plays recordings, so it begins at once."""

import sys
import time
from pathlib import Path

import click

from dgguf.cli.values import Finite

_DATA = Path(__file__).parents[1] / "data"
# What is played: name of the recording, seconds of a step, and what is said before.
_STOPS = (
    (
        "story",
        0.7,
        "A canvas of tokens begins as noise. Each step reads all of it at once, keeps what it is sure of and "
        "throws the rest back into noise: grey is noise, purple and blue are guesses, bold is settled.",
    ),
    (
        "sudoku",
        1.5,
        "Nothing is final before the canvas settles: a sudoku is filled everywhere at once, and guesses that "
        "turn out wrong are taken back. They flash.",
    ),
)
_PROMPTS = ("Tell me a story.", "Write a story about Mia and a blue fox.", "Sort: 7 3 9 1 5")
_READING = 4.0  # seconds for what is said


@click.command(short_help="See in a minute what a canvas does.")
@click.option("--pace", type=Finite(0, 10), default=1.0, help="How many times slower; 0 waits for nothing.")
def tour(pace: float) -> None:
    """See in a minute what diffusion of text is, then try it.

    \b
    Examples:
      dgguf tour
      dgguf tour --pace 2
    """
    from dgguf.cli.display import Display
    from dgguf.cli.options import Showing
    from dgguf.cli.output import say
    from dgguf.cli.replay import play
    from dgguf.cli.tables import Facts, echo
    from dgguf.view.recording import read_recording

    for number, (name, seconds, words) in enumerate(_STOPS, 1):
        recording = read_recording(_DATA / f"{name}.jsonl.gz")
        echo("", Facts([(f"{number}/{len(_STOPS)}", words)], indent=0), "", err=True)
        display = Display(Showing(view="auto", pace=seconds * pace, thoughts="dim"))
        if display.choice.is_live:
            time.sleep(_READING * pace)
        play(recording, display, speed=None)
    prompts = [(str(number), f'dgguf run demo "{prompt}"') for number, prompt in enumerate(_PROMPTS, 1)]
    echo("", "Now you:", Facts(prompts), err=True)
    say("? explains the colours meanwhile, --export story.gif keeps what was seen, `dgguf chat demo` talks")
    if sys.stdin.isatty() and sys.stderr.isatty():
        choices = click.Choice([*map(str, range(1, len(_PROMPTS) + 1)), ""])
        given = click.prompt(
            "1, 2, 3, or Enter to end",
            default="",
            type=choices,
            show_default=False,
            show_choices=False,
            err=True,
        )
        if given:
            from dgguf.cli.run import run

            root = click.get_current_context().find_root()
            run.main(["demo", _PROMPTS[int(given) - 1]], "run", parent=root, standalone_mode=False)
