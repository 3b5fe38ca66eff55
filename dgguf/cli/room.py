"""What a chat does where its context has no room for another answer."""

from collections.abc import Callable

import numpy as np

from dgguf.cli.messages import Keyboard
from dgguf.cli.output import say
from dgguf.errors import PromptError
from dgguf.text.chat import Message


def fit(
    messages: list[Message],
    encode: Callable[[], np.ndarray],
    context: int,
    canvas_length: int,
    *,
    when_full: str,
    keyboard: Keyboard | None,
) -> np.ndarray:
    """The ids of a conversation, (P,) int64; where they leave no room for a canvas, turns are dropped or not.

    Args:
        messages: of the conversation; those that are dropped are taken out.
        encode: makes ids of them.
        context, canvas_length: positions of all, and of a canvas.
        when_full: "ask", "drop" or "stop".
        keyboard: of the person who can be asked; None for nobody.

    Raises:
        PromptError: there is no room.
    """
    ids = encode()
    room = context - canvas_length
    if len(ids) <= room:
        return ids
    full = (
        f"the conversation has {len(ids)} tokens; with a canvas of {canvas_length} "
        f"it does not fit the context of {context}"
    )
    choice = when_full
    if choice == "ask" and keyboard and oldest_turn(messages):
        choice = keyboard.choose(full, {"d": "drop", "c": "clear", "k": "stop"})
    dropped = 0
    while choice == "clear" or (choice == "drop" and len(ids) > room):
        if not (n := oldest_turn(messages)):
            break
        del messages[:n]
        dropped += 1
        ids = encode()
    if dropped:
        say(f"dropped the {'oldest turn' if dropped == 1 else f'{dropped} oldest turns'}")
    if len(ids) > room:
        raise PromptError(f"{full}: /clear begins anew, --when-full drop forgets, -c asks for more")
    return ids


def oldest_turn(messages: list[Message]) -> int:
    """Messages before the second of the user; 0 if there is none."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user" and i]
    return asked[0] if asked else 0
