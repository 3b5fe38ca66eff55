"""What a strength of an edit keeps and changes: stories of the demo that get another hero, animal and colour.

python tools/accuracy/edits.py --cases 40
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dgguf
from tools.demo.checks import is_grammatical, tells
from tools.demo.stories import Facts, draw_facts, tell_friend, with_article

STRENGTHS = (0.15, 0.3, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=40)
    cases = parser.parse_args().cases
    print(f"{'strength':<10}{'as asked':>9}{'grammatical':>13}{'rest kept':>11}{'words':>7}{'steps':>7}")
    with dgguf.load("demo", threads=1) as session:
        for strength in STRENGTHS:
            rng = random.Random(1)
            right, good, kept, changed, steps = 0, 0, 0.0, 0.0, 0
            for seed in range(cases):
                old, new = draw_facts(rng), draw_facts(rng)
                text = tell_friend(old, rng)
                animal = with_article(f"{new.colour} {new.animal}")
                asked = f"Write a story about {new.name} and {animal}."
                edited = session.edit(text, prompt=asked, strength=strength, seed=seed)
                right += tells(edited.text, Facts(name=new.name, colour=new.colour, animal=new.animal))
                good += is_grammatical(edited.text)
                kept += sum(word in edited.text for word in (old.number, old.food, old.place)) / 3
                changed += sum(len(c.before.split()) for c in edited.changes) / len(text.split())
                steps += edited.answer.statistics.steps[0]
            shares = f"{kept / cases:>11.0%}{changed / cases:>7.0%}{steps / cases:>7.1f}"
            print(f"{strength:<10}{right:>9}{good:>13}{shares}", flush=True)


if __name__ == "__main__":
    main()
