"""`dgguf chat`: a conversation."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.options import model_options, sampler_options, view_options

if TYPE_CHECKING:
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.diffusion.statistics import Statistics
    from dgguf.session import Session
    from dgguf.text.chat import Message

CHAT_VIEWS = ("auto", "text", "grid", "sudoku", "plain", "none")
_FENCE = '"""'


@click.command()
@click.argument("model")
@click.option("--system", help="A system message.")
@click.option("--think/--no-think", default=False, help="Let the model think before it answers.")
@click.option(
    "--when-full",
    type=click.Choice(("ask", "drop", "stop")),
    default="ask",
    help="When the context is full: drop the oldest turns, or stop; ask is stop where nobody can be asked.",
)
@model_options
@sampler_options
@view_options(CHAT_VIEWS)
def chat(model: str, **options: Any) -> None:
    """Talk with MODEL. On a terminal lines can be edited, and earlier ones come back by the arrow keys.

    Enter sends, Alt-Enter starts a new line, Ctrl-C stops an answer, Ctrl-D ends. /help lists commands.
    Through a pipe every line is a message; several lines between two lines of \"\"\" are one.

    \b
    Examples:
      dgguf chat demo
      dgguf chat model.gguf --system "Be brief." --think
      printf 'Hello\\nTell me more.\\n' | dgguf chat demo --seed 1
    """
    converse(model, **options)


def converse(
    model: str,
    *,
    system: str | None,
    think: bool,
    seed: int | None,
    context: int | None,
    threads: int | None,
    exact: bool,
    gpu: Any,
    max_tokens: int,
    view: str,
    pace: float,
    thoughts: Any,
    when_full: str = "ask",
    **sampler: float | None,
) -> None:
    """Read messages and answer them until they end."""
    from dgguf.cli.display import Display
    from dgguf.cli.models import offer
    from dgguf.session import Session

    offer(model)

    def display() -> Display:
        return Display(view, pace=pace, thoughts=thoughts)

    with contextlib.ExitStack() as stack:
        with display() as loading:
            loading.say(f"loading {model}")
            session = stack.enter_context(
                Session(model, threads=threads, context=context, exact=exact, gpu=gpu)
            )
            if gpu:
                loading.note(session.backend.describe())
            settings = session.settings(**sampler)
        keyboard = Keyboard() if sys.stdin.isatty() else None
        talk = Chat(session, settings, display, max_tokens, keyboard, when_full)
        talk.system, talk.think, talk.seed = system, think, seed
        talk.run(keyboard.messages() if keyboard else piped_messages())


class Chat:
    """A conversation and its commands.

    Args:
        session: of the model.
        settings: of the sampler.
        display: makes what shows an answer.
        max_tokens: of an answer.
        keyboard: of the person; None where messages come through a pipe.
        when_full: "ask", "drop" or "stop".

    Attributes:
        system, think, seed: as in `dgguf run`; a command changes them.
        messages: so far; of answers without the thoughts.
    """

    def __init__(
        self,
        session: "Session",
        settings: "SamplerSettings",
        display: Callable[[], Any],
        max_tokens: int,
        keyboard: "Keyboard | None",
        when_full: str,
    ) -> None:
        self._session = session
        self._settings = settings
        self._display = display
        self._max_tokens = max_tokens
        self._keyboard = keyboard
        self._when_full = when_full
        self._statistics: Statistics | None = None
        self.system: str | None = None
        self.think = False
        self.seed: int | None = None
        self.messages: list[Message] = []

    def run(self, messages: Iterator[str]) -> None:
        """Answer messages and obey commands until they end."""
        from dgguf.cli.output import say
        from dgguf.errors import DggufError, sentence

        if self._keyboard:
            say(f"{Path(self._session.name).name}: type a message. /help lists commands, Ctrl-D ends.")
        for text in messages:
            try:
                if not text.strip():
                    continue
                if text.startswith("/"):
                    if not self.command(text):
                        return
                else:
                    self.answer(text)
            except KeyboardInterrupt:
                if not self._keyboard:
                    raise
                say("stopped")
            except (DggufError, OSError) as error:
                if not self._keyboard:
                    raise
                say(f"error: {sentence(error)}")

    def answer(self, text: str) -> None:
        """Answer one message; what was answered before Ctrl-C stays in the conversation."""
        from dgguf.cli.output import AnswerWriter
        from dgguf.session import new_seed

        self.messages.append({"role": "user", "content": text})
        written, interrupted = "", True
        try:
            ids = self._make_room()
            seed = new_seed() if self.seed is None else self.seed
            writer: AnswerWriter | None = None
            try:
                with self._display() as display:
                    writer = AnswerWriter(
                        self._session.reader(ids),
                        as_json=False,
                        echo=not display.shows_answer,
                        show_thoughts=False,
                    )
                    events = self._session.stream(
                        ids, settings=self._settings, max_tokens=self._max_tokens, seed=seed
                    )
                    with contextlib.closing(events):
                        for event in display.show(events, self._session, None):
                            writer.add(event)
                interrupted = False
            finally:
                if writer:
                    writer.finish(seed=seed, settings=self._settings, interrupted=interrupted, table=False)
                    self._statistics, written = writer.statistics, writer.text["answer"]
        finally:
            if written.strip() or not interrupted:
                self.messages.append({"role": "assistant", "content": written})
            else:
                self.messages.pop()

    def _encode(self) -> Any:
        return self._session.encode(self.messages, system=self.system, think=self.think)

    def _make_room(self) -> Any:
        """The ids of the conversation; where they leave no room for a canvas, turns are dropped or not."""
        from dgguf.cli.output import say
        from dgguf.errors import PromptError

        ids = self._encode()
        room = self._session.context - self._session.config.canvas_length
        if len(ids) <= room:
            return ids
        full = (
            f"the conversation has {len(ids)} tokens; with a canvas of {self._session.config.canvas_length} "
            f"it does not fit the context of {self._session.context}"
        )
        choice = self._when_full
        if choice == "ask" and self._keyboard and len(self.messages) > 1:
            choice = self._keyboard.choose(full, {"d": "drop", "c": "clear", "k": "stop"})
        dropped = 0
        while (
            choice in ("drop", "clear") and len(self.messages) > 1 and (choice == "clear" or len(ids) > room)
        ):
            del self.messages[:2]
            dropped += 1
            ids = self._encode()
        if dropped:
            say(f"dropped the {'oldest turn' if dropped == 1 else f'{dropped} oldest turns'}")
        if len(ids) > room:
            raise PromptError(f"{full}: /clear begins anew, --when-full drop forgets, -c asks for more")
        return ids

    def command(self, text: str) -> bool:
        """Obey a line that starts with "/"; whether to go on."""
        from dgguf.cli.output import say

        name, _, argument = text[1:].strip().partition(" ")
        argument = argument.strip()
        if name in ("exit", "quit", "bye"):
            return False
        known = {
            "help": self._help,
            "clear": self._clear,
            "system": self._set_system,
            "think": self._set_think,
            "seed": self._set_seed,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
        }
        if name not in known:
            say(f"there is no command /{name}; /help lists them")
        else:
            known[name](argument)
        return True

    def _help(self, argument: str) -> None:
        from dgguf.cli.output import say

        for line in (
            "/clear           forget the conversation; the system message stays",
            "/system [TEXT]   show, or set, the system message; /system - takes it away",
            "/think on|off    let the model think before it answers",
            "/seed N|random   the same seed repeats an answer",
            "/save FILE       write the conversation as JSON",
            "/load FILE       go on from such a file",
            "/stats           what the last answer cost",
            "/exit            end; so does Ctrl-D",
            "Alt-Enter starts a new line, Ctrl-C stops an answer.",
        ):
            say(line)

    def _clear(self, argument: str) -> None:
        from dgguf.cli.output import say

        self.messages.clear()
        say("a new conversation")

    def _set_system(self, argument: str) -> None:
        from dgguf.cli.output import say

        if argument:
            self.system = None if argument == "-" else argument
        say(f"system message: {self.system}" if self.system else "there is no system message")

    def _set_think(self, argument: str) -> None:
        from dgguf.cli.output import say

        self.think = {"on": True, "off": False}.get(argument, not self.think)
        say(f"thinking is {'on' if self.think else 'off'}")

    def _set_seed(self, argument: str) -> None:
        from dgguf.cli.output import say

        if argument.isdecimal() and int(argument) < 1 << 64:
            self.seed = int(argument)
        elif argument == "random":
            self.seed = None
        elif argument:
            say("a seed is a number from 0 to 2^64 - 1, or random")
            return
        say("a new seed for each answer" if self.seed is None else f"seed {self.seed} for every answer")

    def _save(self, argument: str) -> None:
        from dgguf.cli.output import say
        from dgguf.errors import PromptError

        if not argument:
            raise PromptError("/save needs the name of a file")
        path = Path(argument).expanduser()
        if path.exists() and not _is_conversation(path):
            raise PromptError(f"{path}: this file exists and is no conversation; choose another name")
        content = {"system": self.system, "messages": self.messages}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        say(f"{path}: {len(self.messages)} messages")

    def _load(self, argument: str) -> None:
        from dgguf.cli.output import say
        from dgguf.errors import PromptError

        path = Path(argument).expanduser()
        if not argument or not _is_conversation(path):
            raise PromptError(f"{argument or '/load'}: this is no conversation that /save wrote")
        content = json.loads(path.read_text(encoding="utf-8"))
        self.system, self.messages = content.get("system"), content["messages"]
        say(f"{path}: {len(self.messages)} messages")

    def _stats(self, argument: str) -> None:
        from dgguf.cli.output import say, statistics_table

        for line in statistics_table(self._statistics) if self._statistics else ["there is no answer yet"]:
            say(line)


class Keyboard:
    """Reads messages from a person, with editing and a history that is kept."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.output import create_output

        history: History = InMemoryHistory()
        with contextlib.suppress(OSError):
            history = FileHistory(str(_history_file()))
        bindings = KeyBindings()

        @bindings.add("escape", "enter")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        commands = ["help", "clear", "system", "think", "seed", "save", "load", "stats", "exit"]
        self._prompt: PromptSession[str] = PromptSession(
            history=history,
            key_bindings=bindings,
            completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
            complete_while_typing=False,
            output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def messages(self) -> Iterator[str]:
        """What is typed, until Ctrl-D."""
        while True:
            try:
                text = self._prompt.prompt("> ", prompt_continuation="  ")
                while text.lstrip().startswith(_FENCE) and text.count(_FENCE) < 2:
                    text += "\n" + self._prompt.prompt("  ")
                yield text.strip().removeprefix(_FENCE).removesuffix(_FENCE).strip("\n")
            except KeyboardInterrupt:
                continue  # gives up the line, not the conversation
            except EOFError:
                return

    def choose(self, question: str, choices: dict[str, str]) -> str:
        """Ask until one of the letters is given; giving up is the last of them."""
        words = {"drop": "[d]rop the oldest turns", "clear": "[c]lear all of them", "stop": "[k]eep them"}
        text = f"{question}.\n{', '.join(words[choice] for choice in choices.values())}? "
        while True:
            try:
                given = self._prompt.prompt(text).strip().lower()[:1]
            except (KeyboardInterrupt, EOFError):
                return list(choices.values())[-1]
            if given in choices:
                return choices[given]


def piped_messages() -> Iterator[str]:
    """Every line of standard input; the lines between two fences are one message."""
    block: list[str] | None = None
    for raw in sys.stdin.buffer:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
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


def _is_conversation(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return all(
            message["role"] in ("user", "assistant") and isinstance(message["content"], str)
            for message in content["messages"]
        ) and isinstance(content.get("system"), str | None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _history_file() -> Path:
    import platformdirs

    folder = Path(platformdirs.user_state_dir("dgguf", appauthor=False))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chat_history"
    file.touch(mode=0o600)
    return file
