"""dgguf in a program with an event loop: the model computes in a thread of its own, one answer at a time."""

import asyncio
from collections.abc import AsyncIterator

import dgguf


async def stream(session: dgguf.Session, prompt: str, **options) -> AsyncIterator:
    """The events of an answer, as they come; leaving the loop cancels it."""
    events = session.stream(prompt, **options)
    try:
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event
    finally:
        await asyncio.to_thread(events.close)


async def main() -> None:
    with dgguf.load("demo") as session:
        one_at_a_time = asyncio.Lock()  # a second answer in the same session must wait
        async with one_at_a_time:
            async for event in stream(session, "Sort: 7 3 9 1 5", max_tokens=96, seed=1):
                if isinstance(event, dgguf.DenoisingStep):
                    print(f"step {event.step}: {event.mean_entropy:.3f} nats")
                if isinstance(event, dgguf.CanvasCommitted):
                    print(session.decode(event.tokens[: event.answer_length]))
        async with one_at_a_time:
            answer = await asyncio.to_thread(session.generate, "Tell me a story.", max_tokens=96, seed=1)
            print(answer.text)


asyncio.run(main())
