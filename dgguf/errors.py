"""Everything that can go wrong for a user, as one tree.

DggufError                  exit code 1, one clear sentence: what, where, what to do
├── ModelFileError          the file: missing, truncated, lying, of an unknown type
│   └── UnsupportedModelError   a sound file, but not a model that dgguf runs
├── TokenizerError          the vocabulary or the chat template in the file
├── PromptError             what was asked for does not fit (context, empty prompt, settings)
├── NumericsError           the network computed something that is not a number
├── DownloadError           the hub, the network, or a file that arrived damaged
├── ConversionError         `dgguf quantize`: the source, the recipe or the disk
├── RecordingError          a recording of a generation cannot be read or written
└── BackendError            the machine cannot run what was asked for
"""

import contextlib
import errno
import os
from collections.abc import Iterator

_MOST_LETTERS = 2000  # of a message: what it quotes from a file can have megabytes


class DggufError(Exception):
    """Base of every error that dgguf reports to a user without a traceback."""


class ModelFileError(DggufError):
    """The model file is missing, truncated, contradicts itself or holds an unknown type."""


class UnsupportedModelError(ModelFileError):
    """The file is sound but holds no DiffusionGemma, or lacks something one needs."""


class TokenizerError(DggufError):
    """The file's vocabulary or chat template cannot be used."""


class PromptError(DggufError):
    """The prompt or the settings do not fit the model or the context."""


class NumericsError(DggufError):
    """The network produced values that are not finite."""


class DownloadError(DggufError):
    """A model cannot be downloaded."""


class ConversionError(DggufError):
    """A checkpoint cannot be converted as asked."""


class RecordingError(DggufError):
    """A recording of a generation cannot be read, written or drawn as asked."""


class BackendError(DggufError):
    """This machine cannot run the computation that was asked for."""


def sentence(error: Exception) -> str:
    """What went wrong, for a user to read: of an error of ours or of the machine; long ones are cut."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; a smaller context (-c) needs less"
    text = str(error)
    if isinstance(error, OSError):
        where = error.filename or ("the output" if error.errno == errno.ENOSPC else "")
        text = f"{where}: {error.strerror}" if where else text
    if len(text) > _MOST_LETTERS:  # what to do stands at the end
        text = f"{text[: _MOST_LETTERS // 2]} … {text[-_MOST_LETTERS // 2 :]}"
    return text


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError within the name of the file, which one of writing (a full disk) has not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
