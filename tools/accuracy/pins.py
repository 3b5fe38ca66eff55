"""What pins do on the demo: whether each stands, what a Sudoku's givens save, and holes in stories.

python tools/accuracy/pins.py honoured --cases 500   random pins in every canvas; none of them change nothing
python tools/accuracy/pins.py sudoku --cases 40      solved and steps of each size, free and givens pinned
python tools/accuracy/pins.py nouns --cases 50       a noun of a story as a hole: how often a noun comes back
"""

import argparse
import random
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dgguf
from dgguf.diffusion.events import CanvasCommitted
from dgguf.fill import pinned
from dgguf.template import Template
from tools.demo.puzzles import dug, written
from tools.demo.stories import draw_scene
from tools.demo.words import ANIMALS, FOODS, THINGS

GIVENS = ((4, 6), (4, 5), (6, 18), (6, 14), (9, 55), (9, 50))
PROMPTS = ("Tell me a story.", "Sort: 7 3 9 1 5", "Hello", 'Write "abc" backwards.')
NOUNS = (*ANIMALS, *THINGS, *FOODS)


def committed(session: dgguf.Session, prompt: str, **options: object) -> tuple[list[int], int]:
    """The ids of all canvases, and the steps that they took."""
    events = [e for e in session.stream(prompt, **options) if isinstance(e, CanvasCommitted)]
    return np.concatenate([e.tokens for e in events]).tolist(), sum(e.steps for e in events)


def honoured(session: dgguf.Session, cases: int) -> None:
    rng, stood, n_pins, same = np.random.default_rng(1), 0, 0, 0
    for case in range(cases):
        length = int(rng.choice([16, 32, 64, 96]))
        most = length * int(rng.integers(1, 3))
        places = rng.choice(most, int(rng.integers(1, most // 2)), replace=False).tolist()
        pins = {place: int(rng.integers(session.config.vocab_size)) for place in places}
        request = {"seed": case, "max_tokens": most, "canvas_length": length}
        request["settings"] = session.settings(max_steps=int(rng.integers(1, 9)))
        prompt = PROMPTS[case % len(PROMPTS)]
        found, _ = committed(session, prompt, pins=pins, **request)
        seen = {place: token for place, token in pins.items() if place < len(found)}
        n_pins += len(seen)
        stood += all(found[place] == token for place, token in seen.items())
        if case < cases // 10:
            same += committed(session, prompt, pins={}, **request) == committed(session, prompt, **request)
    print(f"{stood} of {cases} sets stand in every committed canvas, {n_pins} pins")
    print(f"{same} of {cases // 10} answers are the same with an empty set and with none")


def sudoku(session: dgguf.Session, cases: int) -> None:
    numbers = np.random.default_rng(1)
    names = ("solved free", "pinned", "steps free", "pinned", "worse", "both solve", "pinned")
    print(f"{'size, givens':<14}" + "".join(map("{:>13}".format, names)))
    for n, givens in GIVENS:
        solved, steps, worse, both = {False: 0, True: 0}, {False: 0, True: 0}, 0, []
        for seed in range(cases):
            puzzle, solution = dug(n, givens, numbers, held_out=True)
            text, wanted = written(puzzle), written(solution)
            right, taken = {}, []
            for hold in (False, True):
                given = Template.of_board(puzzle)
                pins = (
                    pinned(session, given, canvas_length=None, constraints="") if hold else {"max_tokens": 96}
                )
                found, n_steps = committed(session, f"Solve this sudoku:\n{text}", seed=seed, **pins)
                end = next((i for i, token in enumerate(found) if token in session.tokenizer.stop_ids), None)
                right[hold] = session.tokenizer.decode(found[:end]) == wanted
                solved[hold] += right[hold]
                steps[hold] += n_steps
                taken.append(n_steps)
            both += [taken] if all(right.values()) else []
            worse += right[False] and not right[True]
        means = [steps[hold] / cases for hold in (False, True)]
        case = f"{n}x{n}, {givens}"
        free, held = np.mean(both, axis=0)
        counts = f"{solved[False]:>13}{solved[True]:>13}{means[0]:>13.1f}{means[1]:>13.1f}{worse:>13}"
        print(f"{case:<14}{counts}{free:>13.1f}{held:>13.1f}", flush=True)


def nouns(session: dgguf.Session, cases: int) -> None:
    rng, nouns, known = random.Random(1), 0, 0
    for seed in range(cases):
        text = ""
        while not (found := re.search(rf" ({'|'.join(NOUNS)})\b", text)):
            text = draw_scene(rng).told(6)
        hole = len(session.tokenizer.encode(found[0]))
        template = f"{text[: found.start()]} [[{hole}]]{text[found.end() :]}"
        filled = session.fill(template, "Tell me a story.", seed=seed).holes[0].text
        nouns += filled in NOUNS
        known += filled == found[1]
    print(f"{nouns} of {cases} holes got a noun of stories; {known} the one they had")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("honoured", "sudoku", "nouns"))
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    with dgguf.load(options.model, threads=1) as session:
        {"honoured": honoured, "sudoku": sudoku, "nouns": nouns}[options.what](session, options.cases)


if __name__ == "__main__":
    main()
