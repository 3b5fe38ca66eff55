"""Follow a generation event by event, and stop it early."""

import dgguf

with dgguf.load("demo") as session:
    for event in session.stream("Tell me a story.", max_tokens=64, seed=7):
        if isinstance(event, dgguf.Started):
            print(f"{len(event.prompt)} prompt tokens, a canvas of {event.canvas_length}")
        elif isinstance(event, dgguf.DenoisingStep):
            kept = event.accepted.mean()
            print(f"step {event.step:2}: entropy {event.mean_entropy:.2f} nats, {kept:.0%} kept")
            if event.step == 8:
                draft = event.tokens
                break  # closes the iterator: nothing more is computed
    print("the draft so far:", session.decode(draft)[:60])
