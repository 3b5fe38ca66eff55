"""What a strength of an edit keeps and changes: stories of the demo that get another hero, animal and colour.

python tools/accuracy/edits.py --cases 40
"""

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dgguf
from tools.demo.stories import Scene, draw_scene
from tools.demo.words import COLOURS, with_article
from tools.demo_eval.judges import judge
from tools.demo_eval.verdict import Entry

STRENGTHS = (0.15, 0.3, 0.5, 1.0)


def drawn(rng: random.Random) -> Scene:
    """A story's scene with a coloured animal."""
    return replace(draw_scene(rng), pet_colour=rng.choice(COLOURS), asked=("hero", "a_pet", "food", "place"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=40)
    cases = parser.parse_args().cases
    print(f"{'strength':<10}{'as asked':>9}{'readable':>10}{'rest kept':>11}{'words':>7}{'steps':>7}")
    with dgguf.load("demo", threads=1) as session:
        for strength in STRENGTHS:
            rng = random.Random(1)
            right, readable, kept, changed, steps = 0, 0, 0.0, 0.0, 0
            for seed in range(cases):
                old, new = drawn(rng), drawn(rng)
                text = old.told(6)
                animal = f"{new.pet_colour} {new.pet}"
                asked = f"Write a story about {new.hero} and {with_article(animal)}."
                edited = session.edit(text, prompt=asked, strength=strength, seed=seed)
                entry = Entry(id="", kind="story", messages=[asked], names=list(new.people), facts=[animal])
                outcome = judge(entry, [edited.text]).outcome
                right += outcome == "right"
                readable += outcome in ("right", "wrong")
                kept += sum(word in edited.text for word in (old.number, old.foods, old.place)) / 3
                changed += sum(len(c.before.split()) for c in edited.changes) / len(text.split())
                steps += edited.answer.statistics.steps[0]
            shares = f"{kept / cases:>11.0%}{changed / cases:>7.0%}{steps / cases:>7.1f}"
            print(f"{strength:<10}{right:>9}{readable:>10}{shares}", flush=True)


if __name__ == "__main__":
    main()
