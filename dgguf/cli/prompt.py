"""Where a prompt comes from: the command line, a file, a pipe, or a pipe and one of the others."""

import os
import stat
import sys
from collections.abc import Callable
from typing import IO, Any

import click

from dgguf.errors import PromptError

_MOST_BYTES = 1 << 24  # of a text that is to stay as it is
_PATIENCE = 0.5  # seconds for which a pipe may be silent without a word

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def file_option(what: str = "prompt") -> Decorator:
    """-f, of a command that reads a prompt, or another text; it gets `file`."""
    text = f"Read the {what} from a file; - for standard input."
    return click.option("-f", "--file", type=click.File("rb"), help=text)


def no_stdin_option(what: str = "prompt") -> Decorator:
    """--no-stdin, of a command that reads a pipe beside a prompt, or another text; it gets `no_stdin`."""
    text = f"Do not read a pipe beside the {what}, as within a loop that reads lines."
    return click.option("--no-stdin", is_flag=True, help=text)


def read_prompt(
    words: list[str | None],
    file: IO[bytes] | None,
    *,
    use_stdin: bool = True,
    what: str = "prompt",
    command: str = "run",
) -> str:
    """The prompt, or another text.

    What comes through a pipe stands before what is given otherwise, with a newline between. BOM and CR are
    taken out, and what is not UTF-8 becomes U+FFFD.

    Args:
        words: the places on the command line where it can stand; None where nothing does.
        file: of -f.
        use_stdin: whether standard input may be read.
        what, command: what it is called, and the command that takes it.

    Raises:
        click.UsageError: there is none.
    """
    given = [word for word in words if word is not None]
    if file is not None:
        given = [read_file(file)]
    elif given:
        given = [typed(given[0])]
    elif sys.stdin.isatty() or not use_stdin:
        raise click.UsageError(
            f'there is no {what}: give one as in `dgguf {command} MODEL "…"`, by -f or by a pipe'
        )
    if use_stdin and not _is_stdin(file) and (not given or _sends_data()):
        _say_silence()
        piped = read_file(sys.stdin.buffer)
        if given and piped.strip():
            return f"{piped.removesuffix(chr(10))}\n{given[0]}"
        return given[0] if given else piped
    return given[0]


def typed(text: str) -> str:
    """A text of the command line; what is not UTF-8 becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_file(file: IO[bytes]) -> str:
    """The text of a file, without BOM and CR; what is not UTF-8 becomes U+FFFD."""
    return _read(file).decode("utf-8-sig", "replace").replace("\r\n", "\n")


def read_exactly(file: IO[bytes]) -> str:
    """The text of a file with all that is in it.

    Raises:
        PromptError: it is no text in UTF-8, too long, or cannot be read.
    """
    name = getattr(file, "name", "standard input")
    data = _read(file, _MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise PromptError(f"{name}: a text of more than {_MOST_BYTES >> 20} MB is not supported")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{name} is no text in UTF-8: byte {error.object[error.start]:#04x} at {error.start}; "
            "convert it first"
        ) from None
    if "\0" in text:
        raise PromptError(f"{name} is no text: it has a NUL byte at {data.index(0)}")
    return text


def _read(file: IO[bytes], most: int = -1) -> bytes:
    try:
        return file.read(most)
    except OSError as error:  # of reading, which names no file
        raise PromptError(f"{file.name}: cannot read the file: {error.strerror}") from None


def _is_stdin(file: IO[bytes] | None) -> bool:
    return file is not None and file is getattr(sys.stdin, "buffer", None)


def _sends_data() -> bool:
    """Whether standard input is a pipe, or a file with something left; no socket, terminal or device."""
    try:
        number = sys.stdin.fileno()
        status = os.fstat(number)
        if stat.S_ISREG(status.st_mode):
            return os.lseek(number, 0, os.SEEK_CUR) < status.st_size
        return stat.S_ISFIFO(status.st_mode)
    except (OSError, ValueError):
        return False


def _say_silence() -> None:
    """Name a pipe that keeps us waiting."""
    import select

    from dgguf.cli.output import say

    try:
        ready = select.select([sys.stdin.fileno()], [], [], _PATIENCE)[0]
    except (OSError, ValueError):  # Windows' pipes; no file
        return
    if not ready:
        say("waiting for the pipe on standard input; `</dev/null` or --no-stdin goes on without it")
