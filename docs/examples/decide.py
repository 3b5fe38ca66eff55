"""Questions about a text, answered with probabilities: the text is read once for all of them.

`mass` is what the labels hold of the probability: little of it where a model does not know what is asked.
"""

import dgguf

STATE = "Mia has a blue fox. They went to the sea, and the fox was happy."
QUESTIONS = [
    "Is it about a fox?",
    "who: Who is it about? Mia|Tom|Max",
    "mood: How happy is it? sad<calm<happy",
]

with dgguf.load("demo") as session:
    for decision in session.decide(STATE, QUESTIONS):
        chances = ", ".join(f"{value} {p:.2f}" for value, p in decision.probabilities.items())
        print(f"{decision.question.text} {decision.answer} ({chances})")
        print(
            f"  mass {decision.mass:.1e}, {decision.reused_tokens} of {decision.prompt_tokens} tokens reused"
        )
