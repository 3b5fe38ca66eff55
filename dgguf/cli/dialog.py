"""A conversation with a model: messages are answered, lines that start with "/" are commands."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import click
import numpy as np

from dgguf.cli import saved
from dgguf.cli.answer_writer import AnswerWriter
from dgguf.cli.chat_commands import COMMANDS, SYNONYMS
from dgguf.cli.display import Display
from dgguf.cli.export import check_out, draw
from dgguf.cli.images import pasted_images
from dgguf.cli.messages import Keyboard
from dgguf.cli.options import Asking, Showing
from dgguf.cli.output import NOTE, fail, say
from dgguf.cli.room import fit
from dgguf.cli.tool_use import MOST_ROUNDS, ToolUse
from dgguf.cli.waiting_pictures import WaitingPictures
from dgguf.diffusion.events import Event
from dgguf.diffusion.generate import choose_length
from dgguf.diffusion.statistics import Statistics
from dgguf.errors import DggufError, FileChangedError, PromptError, sentence
from dgguf.functions import Function
from dgguf.interrupts import forget
from dgguf.prompts import with_pictures
from dgguf.request import new_seed
from dgguf.session import Session
from dgguf.text.chat import Message, text_of
from dgguf.videos import NO_PICTURES
from dgguf.view.names import CHAT_VIEWS
from dgguf.view.summary import statistics_facts

_SEED_DIGITS = 20


class Dialog:
    """Messages and their answers, and the commands between them.

    Args:
        session: of the model.
        asking: what the answers are asked for; commands change some of it.
        showing: how answers are shown.
        keyboard: of the person; None where messages come through a pipe.
        when_full: "ask", "drop" or "stop".
        functions: that the model may call, by name.

    Attributes:
        system, think, seed: as in `Asking`; a command changes them.
        messages: so far; of answers without the thoughts.
    """

    def __init__(
        self,
        session: Session,
        asking: Asking,
        showing: Showing,
        *,
        keyboard: Keyboard | None,
        when_full: str,
        functions: Mapping[str, Function] = MappingProxyType({}),
    ) -> None:
        self._session = session
        self._settings = asking.settings(session)
        self._max_tokens = asking.max_tokens
        self._canvas_length = choose_length(asking.canvas, asking.max_tokens, session.config.canvas_length)
        self._turbo = asking.turbo
        self._showing = showing
        self._keyboard = keyboard
        self._when_full = when_full
        self._tools = ToolUse(session, functions, keyboard)
        self._written = ""  # by the model, in answer to what it was asked last
        self._statistics: Statistics | None = None
        self.system = asking.system
        self.think = asking.think
        self.seed = asking.seed
        self.messages: list[Message] = []
        draws = asking.preview and keyboard is not None
        self._waiting = WaitingPictures(session, asking.image_tokens, preview=draws)
        self._seen: list[Event] = []  # of the last answer

    def run(self, messages: Iterator[str]) -> None:
        """Answer messages and obey commands until they end.

        Raises:
            FileChangedError: at the end, if the model's file has changed: it could answer nothing more.
        """
        if self._keyboard:
            say(f"{Path(self._session.name).name}: type a message. /help lists commands, Ctrl-D ends.")
        changed: FileChangedError | None = None
        for text in messages:
            try:
                if not text.strip():
                    continue
                if text.strip() in ("exit", "quit"):
                    return
                paths, rest = pasted_images(text)
                if paths:
                    self._waiting.add(paths)
                if text.startswith("/") and not paths:
                    if not self.command(text):
                        break
                elif rest.strip():
                    self.answer(rest)
            except KeyboardInterrupt:
                if not self._keyboard:
                    raise
                forget()
                say("stopped")
            except (DggufError, OSError) as error:
                if not self._keyboard:
                    raise
                fail(sentence(error))
                if isinstance(error, FileChangedError):  # no message can be answered any more
                    say("/save keeps the conversation, /exit ends")
                    changed = error
        if changed:
            raise changed

    def answer(self, text: str) -> None:
        """Answer one message; what was answered before Ctrl-C stays in the conversation."""
        shown = self._waiting.pictures
        try:
            self._reply(with_pictures(text, shown)[0], takes_waiting=True)
        except PromptError:
            if shown is not NO_PICTURES:  # else every later message would fail with them
                self._waiting.clear()
                say("the images of this message were dropped; /image adds one again")
            raise

    def _reply(self, message: Message, *, takes_waiting: bool = False) -> None:
        """Answer a message, and go on where the answer calls tools; see `answer`.

        Args:
            takes_waiting: the images that wait are in it.
        """
        self.messages.append(message)
        written, interrupted = "", True
        try:
            for _ in range(MOST_ROUNDS):
                self._written = ""
                try:
                    self._write_answer()
                finally:
                    written = self._written
                called = self._tools.message(written)
                if called is None:
                    break
                self.messages.append(called)
                written = ""
            else:
                say(f"the model has called tools in {MOST_ROUNDS} rounds: it is asked no more")
            interrupted = False
        finally:
            if written.strip() or not interrupted:
                if takes_waiting:
                    self._waiting.clear()
                self.messages.append({"role": "assistant", "content": written})
            elif self.messages[-1] is message:
                self.messages.pop()

    def _write_answer(self) -> None:
        """Ask the model once; what it has written, also before Ctrl-C, is `_written`."""
        ids = self._fit_context()
        seed = new_seed() if self.seed is None else self.seed
        writer: AnswerWriter | None = None
        interrupted = True
        self._tools.begin()
        try:
            with Display(self._showing) as display:
                writer = AnswerWriter(
                    self._session.tokenizer,
                    as_json=False,
                    echo=not display.choice.shows_answer,
                    markdown=display.choice.markdown,
                    show_thoughts=False,
                )
                events = self._session.stream(
                    ids,
                    settings=self._settings,
                    max_tokens=self._max_tokens,
                    seed=seed,
                    canvas_length=self._canvas_length,
                    turbo=self._turbo,
                    images=self._session.read_images(self.messages),
                    videos=self._session.read_videos(self.messages),
                )
                with contextlib.closing(events):
                    self._seen = []
                    for event in display.show(events, self._session, None):
                        writer.add(self._tools.without_calls(event))
                        self._seen.append(event)
            interrupted = False
        finally:
            if writer and self._keyboard and display.typed:
                self._keyboard.expect(display.typed)
            if writer:
                quiet = interrupted or self._tools.called  # an empty answer that calls is as it should be
                writer.finish(seed=seed, settings=self._settings, interrupted=quiet, table=False)
                self._statistics, self._written = writer.answer.statistics, writer.answer.text

    def _encode(self) -> np.ndarray:
        tools = self._tools.declarations
        return self._session.encode(self.messages, system=self.system, think=self.think, tools=tools)

    def _fit_context(self) -> np.ndarray:
        """The ids of the conversation; where they leave no room for a canvas, turns are dropped or not."""
        return fit(
            self.messages,
            self._encode,
            self._session.context,
            self._canvas_length,
            when_full=self._when_full,
            keyboard=self._keyboard,
        )

    def command(self, text: str) -> bool:
        """Obey a line that starts with "/"; whether to go on."""
        name, _, argument = text[1:].strip().partition(" ")
        name, argument = SYNONYMS.get(name, name), argument.strip()
        if name == "exit":
            return False
        if name not in self._COMMANDS:
            say(f"there is no command /{name}; /help lists them")
        else:
            self._COMMANDS[name](self, argument)
        return True

    def _help(self, argument: str) -> None:
        from dgguf.cli.tables import Facts, echo

        echo(Facts(COMMANDS, indent=0, style=NOTE), err=True)
        say("Alt-Enter starts a new line, Ctrl-C stops an answer.")

    def _clear(self, argument: str) -> None:
        self.messages.clear()
        self._waiting.clear()
        say("a new conversation")

    def _set_system(self, argument: str) -> None:
        if argument:
            self.system = None if argument == "-" else argument
        say(f"system message: {self.system}" if self.system else "there is no system message")

    def _set_think(self, argument: str) -> None:
        if argument not in ("", "on", "off"):
            raise PromptError("/think is followed by on, by off, or by nothing to change it")
        self.think = argument == "on" if argument else not self.think
        say(f"thinking is {'on' if self.think else 'off'}")

    def _set_seed(self, argument: str) -> None:
        if argument.isdecimal() and len(argument) <= _SEED_DIGITS and int(argument) < 1 << 64:
            self.seed = int(argument)
        elif argument == "random":
            self.seed = None
        elif argument:
            say("a seed is a number from 0 to 2^64 - 1, or random")
            return
        say("a new seed for each answer" if self.seed is None else f"seed {self.seed} for every answer")

    def _add_image(self, argument: str) -> None:
        if not argument:
            raise PromptError("/image needs the path of an image, as in /image photo.jpg")
        paths, rest = pasted_images(argument)
        self._waiting.add([saved.typed_path(argument, "/image")] if rest else paths)

    def _add_video(self, argument: str) -> None:
        paths, rest = pasted_images(argument)
        self._waiting.add_pictures(
            [], paths if paths and not rest else [saved.typed_path(argument, "/video")]
        )

    def _save(self, argument: str) -> None:
        path = saved.write(argument, self.system, self.messages)
        say(f"{path}: {len(self.messages)} messages")

    def _load(self, argument: str) -> None:
        path, self.system, self.messages = saved.read(argument)
        self._waiting.clear()
        say(f"{path}: {len(self.messages)} messages")

    def _export(self, argument: str) -> None:
        path = saved.typed_path(argument, "/export")
        if not self._statistics:
            raise PromptError("/export draws the last answer, and there is none yet")
        try:
            check_out(path, force=False)
        except click.UsageError as error:
            raise PromptError(error.message.removesuffix("; --force overwrites it")) from None
        draw(self._seen, self._session.tokenizer, path, self._showing)

    def _retry(self, argument: str) -> None:
        if not any(message["role"] == "user" for message in self.messages):
            raise PromptError("/retry answers the last message again, and there is none yet")
        if self.seed is not None:
            say(f"the seed is {self.seed} for every answer: /seed random gives another one")
        asked = max(i for i, message in enumerate(self.messages) if message["role"] == "user")
        said = self.messages[asked:]
        del self.messages[asked:]
        try:
            self._reply(said[0])
        finally:
            if not any(message is said[0] for message in self.messages):
                self.messages += said  # it was given up: the answer of before stays

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        values = {"max_tokens": self._max_tokens, **dataclasses.asdict(self._settings)}
        if name and name not in values:
            raise PromptError(f"/set knows {', '.join(values)}, not {name}")
        if value:
            try:
                number = type(values[name])(value)
            except ValueError:
                raise PromptError(f"/set {name} needs a number, not {value}") from None
            if name == "max_tokens" and number < 1:
                raise PromptError(f"max_tokens must be at least 1, not {number}")
            if name == "max_tokens":
                self._max_tokens = int(number)
            else:
                self._settings = dataclasses.replace(self._settings, **{name: number})
            values[name] = number
        for known in [name] if name else values:
            say(f"{known} {values[known]}")

    def _set_view(self, argument: str) -> None:
        if argument not in CHAT_VIEWS:
            raise PromptError(f"/view knows {', '.join(CHAT_VIEWS)}{', not ' * bool(argument)}{argument}")
        self._showing = dataclasses.replace(self._showing, view=argument)

    def _show(self, argument: str) -> None:
        session = self._session
        n_used = len(self._encode()) if self.messages else 0
        say(f"{session.file.path}: {session.backend.describe()}")
        say(f"{n_used} of {session.context} positions used, {len(self.messages)} messages")

    def _history(self, argument: str) -> None:
        for message in self.messages:
            if message["content"] is not None:  # it calls tools
                say(f"{'> ' if message['role'] == 'user' else ''}{text_of(message)}")
        if not self.messages:
            say("nothing was said yet")

    def _stats(self, argument: str) -> None:
        if self._statistics:
            from dgguf.cli.tables import Facts, echo

            echo(Facts(statistics_facts(self._statistics), style=NOTE), err=True)
        else:
            say("there is no answer yet")

    _COMMANDS: ClassVar = {
        "help": _help,
        "clear": _clear,
        "system": _set_system,
        "think": _set_think,
        "seed": _set_seed,
        "image": _add_image,
        "video": _add_video,
        "save": _save,
        "load": _load,
        "export": _export,
        "history": _history,
        "retry": _retry,
        "set": _set,
        "view": _set_view,
        "show": _show,
        "stats": _stats,
    }
    COMMANDS: ClassVar = tuple(f"/{name}" for name in (*_COMMANDS, "exit"))
