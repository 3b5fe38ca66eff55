"""Where a conversation's messages come from: a person who types, or a pipe."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dgguf.cli import last
from dgguf.interrupts import forget, undone
from dgguf.view.taken import keyboard

if TYPE_CHECKING:
    from prompt_toolkit.history import History

_FENCE = '"""'


class Keyboard:
    """Reads messages from a person, with editing and a history that is kept.

    Args:
        commands: that the Tab key completes, each with its "/".
    """

    def __init__(self, commands: Iterable[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.output import create_output

        bindings = KeyBindings()

        @bindings.add("escape", "enter")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        self._typed = ""
        self._screen = sys.stdout if sys.stdout.isatty() else sys.stderr
        self._reset_keyboard = keyboard()[1]
        self._prompt: PromptSession[str] = PromptSession(
            history=_history(),
            key_bindings=bindings,
            completer=WordCompleter([*commands], sentence=True),
            complete_while_typing=False,
            output=create_output(stdout=self._screen),
        )

    def expect(self, text: str) -> None:
        """The next message begins with what was typed before it was asked for."""
        self._typed += text

    def _ask(self, text: str, continuation: str = "") -> str:
        """One message or answer; the terminal is given back whatever happens."""
        typed, self._typed = self._typed, ""
        with undone(self._give_back):
            return self._prompt.prompt(text, prompt_continuation=continuation, default=typed)

    def _give_back(self) -> None:
        self._reset_keyboard()
        if os.environ.get("TERM") != "dumb":
            self._screen.write("\x1b[?2004l\x1b[?25h")  # pasted text is no longer marked; the cursor
            self._screen.flush()

    def messages(self) -> Iterator[str]:
        """What is typed, until Ctrl-D."""
        while True:
            try:
                text = self._ask("> ", "  ")
                while text.lstrip().startswith(_FENCE) and text.count(_FENCE) < 2:
                    text += "\n" + self._ask("  ")
                yield text.strip().removeprefix(_FENCE).removesuffix(_FENCE).strip("\n")
            except KeyboardInterrupt:
                forget()  # it gives up the line, not the conversation
            except EOFError:
                return

    def choose(self, question: str, choices: dict[str, str]) -> str:
        """Ask until one of the letters, or its word, is given; giving up is the last of them.

        What `expect` was told is no answer to this: it waits for the next message.
        """
        words = {
            "drop": "[d]rop the oldest turns",
            "clear": "[c]lear all of them",
            "stop": "[k]eep them, without an answer",
            "run": "[y]es, run it",
            "always": "[a]lways in this chat",
            "refuse": "[n]o",
        }
        text = f"{question}.\n{', '.join(words[choice] for choice in choices.values())}? "
        answers = {_first_word(words[choice]): choice for choice in choices.values()} | choices
        typed, self._typed = self._typed, ""
        try:
            while (given := self._ask(text).strip().lower()) not in answers:
                pass
            return answers[given]
        except (KeyboardInterrupt, EOFError):
            forget()
            return list(choices.values())[-1]
        finally:
            self._typed = typed


def _first_word(text: str) -> str:
    """Of "[y]es, run it" the word "yes"."""
    return text.partition(" ")[0].strip(",").replace("[", "").replace("]", "")


def piped_messages() -> Iterator[str]:
    """Every line of standard input; the lines between two fences are one message."""
    block: list[str] | None = None
    for number, raw in enumerate(sys.stdin.buffer):
        line = raw.decode("utf-8" if number else "utf-8-sig", "replace").rstrip("\r\n")
        if line.strip() == _FENCE:
            if block is not None:
                yield "\n".join(block)
            block = [] if block is None else None
        elif block is not None:
            block.append(line)
        else:
            yield line
    if block:
        yield "\n".join(block)


def _history() -> "History":
    """What was typed in earlier chats, and goes on being kept where that is possible."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class BestEffort(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError, UnicodeError):  # a full disk; bytes that are no UTF-8
                super().store_string(string)

    if not last.is_kept():
        return InMemoryHistory()
    try:
        file = last.folder() / "chat_history"
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return BestEffort(str(file))
