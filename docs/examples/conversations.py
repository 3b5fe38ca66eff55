"""Two conversations in one session: each keeps its past, and their answers come in turns, a canvas each."""

import dgguf

with dgguf.load("demo") as session:
    prompts = {"story": "Tell me a story.", "sort": "Sort: 7 3 9 1 5"}
    streams = {
        name: session.stream(prompt, conversation=session.conversation(), max_tokens=192, seed=1)
        for name, prompt in prompts.items()
    }
    while streams:
        for name, events in list(streams.items()):
            for event in events:
                if isinstance(event, dgguf.CanvasCommitted):
                    print(f"{name}: {session.decode(event.tokens[: event.answer_length])}")
                    break  # the other one's turn: between canvases
            else:
                del streams[name]
    print(f"keys and values take {session.turns.n_bytes() / 1e6:.1f} MB")
