"""Freeze what the demo model answers, in exact mode at fixed seeds, into tests/data/demo_answers.json.

python tools/demo/freeze_answers.py
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dgguf  # noqa: E402

SEED = 1
PROMPTS = (
    "Tell me a story.",
    "Write a story about Mia and a blue fox.",
    "Tell me a long story about Tom.",
    "Why is the sky blue?",
    "Who are you?",
    "Solve this sudoku:\n21.3\n3..1\n...2\n1...",
    "Solve this sudoku:\n426531\n..1246\n51....\n642...\n.3..14\n..4.2.",
    "Solve this sudoku:\n3.2.164..\n.86.7..32\n7.12345..\n813427.5.\n.793.8.41\n"
    ".2415.8.3\n14578.926\n..7591384\n.38..2715",
    "Sort these numbers: 7, 3, 9, 1, 4",
    "Reverse the word planet",
    "What is 12 + 30?",
    "Write JSON: name Anna, pet cat, age 12",
)


def main() -> None:
    answers = []
    with dgguf.load("demo", exact=True) as session:
        for prompt in PROMPTS:
            answer = session.generate(prompt, seed=SEED)
            answers.append(
                {
                    "prompt": prompt,
                    "seed": SEED,
                    "text": answer.text,
                    "settled": answer.statistics.converged,
                }
            )
    for kept in answers:
        print(f"> {kept['prompt']}\n{kept['text']}\n")
    path = ROOT / "tests/data/demo_answers.json"
    path.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
