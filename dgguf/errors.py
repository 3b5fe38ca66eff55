"""Everything that can go wrong for a user, as one tree.

DggufError                  exit code 1, one clear sentence: what, where, what to do
├── ModelFileError          the file: missing, truncated, lying, of an unknown type
│   ├── UnsupportedModelError   a sound file, but not a model that dgguf runs
│   └── FileChangedError        cut or written to while it was in use, or its disk failed
├── TokenizerError          the vocabulary or the chat template in the file
├── PromptError             what was asked for does not fit (context, empty prompt, settings)
│   └── ImageError              an image: no such file, damaged, too large
├── ConstraintError         a schema, a regular expression or choices that an answer cannot be held to
├── NumericsError           the network computed something that is not a number
├── DownloadError           the hub, the network, or a file that arrived damaged
│   └── NoAnswerError           the hub could not be asked what it has
├── ConversionError         `dgguf quantize`: the source, the recipe or the disk
├── RecordingError          a recording of a generation cannot be read or written
└── BackendError            the machine cannot run what was asked for
"""

import errno
from collections.abc import Mapping

_MOST, _TAIL = 499, 160  # characters of a message, and of its end where the middle is left out


def extra(name: str, options: str = "") -> str:
    """How to install the packages of an extra of pyproject.toml: from an index, and in a checkout.

    Args:
        options: of pip install, each with a space behind it.
    """
    return f"pip install {options}'dgguf[{name}]', in a checkout pip install {options}'.[{name}]'"


class DggufError(Exception):
    """Base of every error that dgguf reports to a user without a traceback.

    Whatever its message quotes from a file, it is one line, under 500 characters, and controls no terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class ModelFileError(DggufError):
    """The model file is missing, truncated, contradicts itself or holds an unknown type."""


class UnsupportedModelError(ModelFileError):
    """The file is sound but holds no DiffusionGemma, or lacks something one needs."""


class FileChangedError(ModelFileError):
    """A mapped file was cut or written to while it was in use, or its disk failed: it must be opened anew."""


class TokenizerError(DggufError):
    """The file's vocabulary or chat template cannot be used."""


class PromptError(DggufError):
    """The prompt or the settings do not fit the model or the context."""


class ImageError(PromptError):
    """An image cannot be read."""


class ConstraintError(DggufError):
    """A JSON schema, a regular expression or choices that no answer can be held to."""


class NumericsError(DggufError):
    """The network produced values that are not finite."""


class DownloadError(DggufError):
    """A model cannot be downloaded."""


class NoAnswerError(DownloadError):
    """The hub does not say which files it has: no network, no access, no such repository."""


class ConversionError(DggufError):
    """A checkpoint cannot be converted as asked."""


class RecordingError(DggufError):
    """A recording of a generation cannot be read, written or drawn as asked."""


class BatchError(DggufError):
    """The input, the journal or the results of a batch cannot be used."""


class BackendError(DggufError):
    """This machine cannot run the computation that was asked for."""


def one_line(text: str) -> str:
    """A text as one line of fewer than 500 visible characters; the middle of a longer one is left out."""
    if len(text) > _MOST:
        text = text[: _MOST - _TAIL - 3] + " … " + text[-_TAIL:]
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def sentence(error: Exception) -> str:
    """What went wrong, for a user to read: of an error of ours or of the machine; long ones are cut."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; a smaller context (-c) needs less"
    if isinstance(error, OSError):
        where = error.filename or ("the output" if error.errno == errno.ENOSPC else "")
        return one_line(f"{where}: {error.strerror}" if where else str(error))
    return one_line(str(error))


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """A clause for a message about a name that is not known; "" where none is near.

    Args:
        known: what to suggest by each name that may have been meant.
    """
    import difflib

    near = dict.fromkeys(known[match] for match in difflib.get_close_matches(name, known, 2))
    return f" Did you mean {' or '.join(near)}?" if near else ""
