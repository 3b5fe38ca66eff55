"""Images and videos on the command line: their options, what is said and shown of them, pasted paths."""

import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np

    from dgguf.cli.options import Asking
    from dgguf.images import ImageInput
    from dgguf.session import Session
    from dgguf.text.chat import Message
    from dgguf.videos import Pictures

BUDGETS = (70, 140, 280, 560, 1120)  # those of `dgguf.images`, which needs numpy
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp")
_MUCH = 2.0  # times that an image shrinks, from where small print is lost


def picture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What stands before the prompt; the command gets `images` and `videos`."""
    for option in (
        click.option(
            "--video",
            "videos",
            type=click.Path(path_type=Path),
            multiple=True,
            help="A video that stands before the prompt: 32 frames of it at most. May be repeated.",
        ),
        click.option(
            "--image",
            "images",
            type=click.Path(path_type=Path),
            multiple=True,
            help="An image that stands before the prompt. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def preview_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--no-preview, of a command that draws the images it is given; stands above `generation_options`."""
    return click.option(
        "--no-preview",
        "preview",
        is_flag=True,
        callback=lambda context, parameter, value: not value,
        help="Do not draw images in the terminal, only name them.",
    )(command)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the vision tower is, and how large images are."""
    for option in (
        click.option(
            "--mmproj",
            metavar="FILE|none",
            help="The vision tower's file.  [default: the one beside the model]",
        ),
        click.option(
            "--image-tokens",
            type=click.Choice([str(budget) for budget in BUDGETS]),
            callback=lambda context, parameter, value: value and int(value),
            help="Rows of the prompt that an image may take; more for small print.  [default: 280]",
        ),
    ):
        command = option(command)
    return command


def read_pictures(images: Sequence[Path], videos: Sequence[Path], asking: "Asking") -> "Pictures | None":
    """Open what a prompt shows, and show what it has become; None for a prompt that shows nothing."""
    if not (images or videos):
        return None
    from dgguf.cli.output import say
    from dgguf.images import DEFAULT_BUDGET, read_image
    from dgguf.videos import Pictures, read_video

    budget = asking.image_tokens or DEFAULT_BUDGET
    pictures = Pictures([read_image(each, budget) for each in images], [*map(read_video, videos)])
    announce(pictures, say, preview=asking.preview)
    return pictures


def encode_with_pictures(
    session: "Session", asking: "Asking", prompt: "str | list[Message]", pictures: "Pictures | None"
) -> "np.ndarray":
    """The ids of a prompt, or of messages, with pictures before the last text."""
    from dgguf.prompts import with_pictures
    from dgguf.videos import NO_PICTURES

    pictures = pictures or NO_PICTURES
    if not isinstance(prompt, str):
        prompt = [*prompt[:-1], *with_pictures(str(prompt[-1]["content"]), pictures)]
        pictures = NO_PICTURES
    return session.encode(
        prompt,
        images=pictures.images,
        videos=pictures.videos,
        system=asking.system,
        think=asking.think,
        raw=asking.raw,
        special=asking.special,
    )


def announce(
    pictures: "Pictures",
    say: Callable[[str], None],
    *,
    first_image: int = 1,
    first_video: int = 1,
    preview: bool = False,
) -> None:
    """Say what each image and each video has become, and when much of one was lost.

    Args:
        first_image, first_video: number of the first one.
        preview: draw each, a video's first frame, where stderr is a terminal that can show one.
    """
    for number, image in enumerate(pictures.images, first_image):
        say(image.caption(number))
        if image.shrunk > _MUCH:
            larger = [budget for budget in BUDGETS if budget > image.budget]
            hint = f"; --image-tokens {larger[-1]} keeps more" if larger else ""
            say(
                f"warning: it shrinks {image.shrunk:.1f} times from {image.original[0]}x{image.original[1]}, "
                f"so small print may be lost{hint}"
            )
        _preview(image, preview)
    for number, video in enumerate(pictures.videos, first_video):
        say(video.caption(number))
        _preview(video.frames[0], preview)


def _preview(image: "ImageInput", wanted: bool) -> None:
    if wanted and sys.stderr.isatty():
        from dgguf.view.preview import show

        show(image.pixels, sys.stderr)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in _VIDEO_SUFFIXES


def pasted_image(text: str) -> tuple[Path | None, str]:
    """The path of an image or a video at the front of a message, as terminals paste a file; and the rest.

    It may be quoted, have its spaces behind backslashes, or be a file:// address. None where there is none.
    """
    line = text.strip()
    if not re.match(r"['\"]?(/|~|\.{1,2}/|[A-Za-z]:[\\/]|file://)", line):
        return None, text
    parts = _words(line)
    if not parts:
        return None, text
    name, rest = parts
    if name.startswith("file://"):
        from urllib.parse import unquote, urlparse

        name = unquote(urlparse(name).path)
    try:
        path = Path(name).expanduser()
        found = path.suffix.lower() in (*_SUFFIXES, *_VIDEO_SUFFIXES) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # there may be no such user
        return None, text
    return (path, rest) if found else (None, text)


def pasted_images(text: str) -> tuple[list[Path], str]:
    """All images and videos at the front of a message, see `pasted_image`, and the rest."""
    paths: list[Path] = []
    path, text = pasted_image(text)
    while path:
        paths.append(path)
        path, text = pasted_image(text)
    return paths, text


def _words(line: str) -> tuple[str, str] | None:
    """The first word of a line as a shell reads it, and the rest; None where a quote is left open."""
    posix = sys.platform != "win32"
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=posix)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        word = lexer.get_token()
    except ValueError:
        return None
    return (word if posix else word.strip("'\""), stream.read().strip()) if word else None
