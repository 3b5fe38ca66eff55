"""`dgguf chat`: a conversation."""

import contextlib
import sys
from pathlib import Path

import click

from dgguf.cli.commands import Grouped, model_argument
from dgguf.cli.images import preview_option
from dgguf.cli.options import (
    Asking,
    Loading,
    Showing,
    conversation_options,
    generation_options,
    markdown_option,
    view_options,
)
from dgguf.view.names import CHAT_VIEWS


@click.command(cls=Grouped, short_help="Talk with a model.")
@model_argument
@conversation_options
@click.option(
    "--when-full",
    type=click.Choice(("ask", "drop", "stop")),
    default="ask",
    help="When the context is full: drop the oldest turns, or stop; where nobody is, ask means stop.",
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="Let the model call the functions of a Python file; each call is shown, and run if you say so.",
)
@preview_option
@generation_options
@view_options(CHAT_VIEWS)
@markdown_option
def chat(
    loading: Loading, asking: Asking, showing: Showing, when_full: str, tools: Path | None, go_on: bool
) -> None:
    """Talk with MODEL. On a terminal lines can be edited, and earlier ones come back by the arrow keys.

    Enter sends, Alt-Enter starts a new line, Ctrl-C stops an answer, Ctrl-D ends. /help lists commands.
    Through a pipe every line is a message; several lines between two lines of \"\"\" are one.

    \b
    Examples:
      dgguf chat demo
      dgguf chat model.gguf --system "Be brief." --think
      dgguf chat model.gguf --tools weather.py
      printf 'Hello\\nTell me more.\\n' | dgguf chat demo --seed 1
    """
    converse(loading, asking, showing, when_full, tools=tools, go_on=go_on)


def converse(
    loading: Loading,
    asking: Asking,
    showing: Showing,
    when_full: str = "ask",
    *,
    tools: Path | None = None,
    go_on: bool = False,
) -> None:
    """Read messages and answer them until they end.

    Args:
        tools: a Python file whose functions the model may call.
    """
    from dgguf.cli import last
    from dgguf.cli.answering import opened
    from dgguf.cli.dialog import Dialog
    from dgguf.cli.display import Display
    from dgguf.cli.messages import Keyboard, piped_messages
    from dgguf.cli.models import offer
    from dgguf.cli.output import say

    functions = {}
    if tools is not None:
        from dgguf.functions import read_functions

        functions = read_functions(tools)
    offer(loading.model)
    with contextlib.ExitStack() as stack:
        with Display(showing) as display:
            session = stack.enter_context(opened(loading, display))
        keyboard = Keyboard(Dialog.COMMANDS) if sys.stdin.isatty() else None
        if keyboard:
            keyboard.expect(display.typed)
        dialog = Dialog(session, asking, showing, keyboard=keyboard, when_full=when_full, functions=functions)
        model = session.file.path
        if go_on:
            system, dialog.messages = last.recall(model)
            dialog.system = dialog.system or system
            say(f"going on after {len(dialog.messages)} messages")
        try:
            dialog.run(keyboard.messages() if keyboard else piped_messages())
        finally:
            last.remember(model, dialog.system, dialog.messages)
