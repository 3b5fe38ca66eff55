"""Ask a model, and read what the answer cost."""

import dgguf

with dgguf.load("demo") as session:  # or a path; threads=4, context=2048, exact=True, gpu=dgguf.Gpu()
    answer = session.generate("Write a story about Mia and a blue fox.", max_tokens=64, seed=7)
    print(answer.text)

    steps = sum(answer.statistics.steps)
    print(f"{len(answer.tokens)} tokens in {steps} steps; seed {answer.seed} gives them again")

    # A conversation is a list of messages. What the KV cache holds already is not computed again.
    messages = [
        {"role": "user", "content": "Sort: 7 3 9 1 5"},
        {"role": "assistant", "content": "1 3 5 7 9"},
        {"role": "user", "content": "Sort: 4 8 2"},
    ]
    print(session.generate(messages, max_tokens=64, seed=1).text)
