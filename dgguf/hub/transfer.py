"""One file over HTTP, however often the connection breaks."""

import contextlib
import re
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from io import FileIO
from typing import Any, Protocol

from dgguf.errors import DownloadError
from dgguf.hub.failures import Patience, UnusableAnswerError, network_errors, reason
from dgguf.hub.repository import HubFile

_TRIES = 5  # attempts in a row that bring nothing


class Progress(Protocol):
    """Whoever shows how far a download is."""

    def advance(self, units: int) -> None:
        """So many bytes more have come."""


# Given a file's name, its bytes and those that are here, shows how far it is within a context.
Shown = Callable[[str, int, int], AbstractContextManager[Progress]]


class _Nobody:
    def advance(self, units: int) -> None:
        pass


def not_shown(name: str, n_bytes: int, here: int) -> AbstractContextManager[Progress]:
    """Nobody sees how far a download is."""
    return contextlib.nullcontext(_Nobody())


def fetch(file: HubFile, out: FileIO, say: Callable[[str], None], shown: Shown = not_shown) -> None:
    """Append to a file until it has all its bytes, whose digest nobody has looked at.

    Args:
        file: what to fetch.
        out: its first bytes, fewer than all; stands at its end.
        say: is told of a connection that broke, and of pauses.
        shown: is told what has come.

    Raises:
        DownloadError: the hub has not got it any more, or gives it to others only.
        network_errors(): too often in a row nothing came. What came is in `out`.
        OSError: `out` cannot be written.
    """
    position, resuming, said = out.tell(), True, False
    patience = Patience(_TRIES, say)
    with shown(file.name.rsplit("/", 1)[-1], file.n_bytes, position) as progress:
        while position < file.n_bytes:
            before, broke = position, ""
            try:
                with contextlib.closing(_pieces(file, position, resuming)) as pieces:
                    for piece in pieces:
                        piece = piece[: file.n_bytes - position]
                        _write(out, piece)
                        position += len(piece)
                        progress.advance(len(piece))
                        if position == file.n_bytes:
                            return
                raise UnusableAnswerError("the connection was closed early")
            except _errors_of_files() as error:
                raise DownloadError(_why(error, file)) from None
            except network_errors() as error:
                resuming = resuming and not _is_out_of_range(error)
                if position == before:
                    patience.wait(error)
                    continue
                broke = reason(error)
            patience.progressed()
            if not said:
                say(f"the connection broke ({broke}): going on at {position / file.n_bytes:.0%}")
                said = True


def speed(file: HubFile, seconds: float) -> float | None:
    """Bytes a second at which the beginning of a file comes; None if nothing does.

    Args:
        seconds: how long it may be looked at.
    """
    began, came = time.monotonic(), 0
    taken = 0.0
    with (
        contextlib.suppress(*network_errors(), *_errors_of_files()),
        contextlib.closing(_pieces(file, 0, False)) as pieces,
    ):
        for piece in pieces:
            came, taken = came + len(piece), time.monotonic() - began
            if taken > seconds:
                break
    return came / taken if came and taken else None


def _write(out: FileIO, piece: bytes) -> None:
    """Write all of it, which a disk that fills up may take in part."""
    view = memoryview(piece)
    while view:
        view = view[out.write(view) or 0 :]


def _pieces(file: HubFile, position: int, resuming: bool) -> Generator[bytes, None, None]:
    """What comes of a file from a position on, as it comes.

    A server that ignores where to begin sends the beginning once more: it is left out.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(file.repository, file.name, revision=file.commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # the client drops the token elsewhere
    if position and resuming:
        headers["Range"] = f"bytes={position}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        left_out = position - _first_byte(response, file)
        if left_out < 0:
            raise UnusableAnswerError(f"{response.url.host} leaves out {-left_out} bytes of {file.name}")
        for piece in response.iter_bytes():
            yield piece[left_out:]
            left_out = max(0, left_out - len(piece))


def _first_byte(response: Any, file: HubFile) -> int:
    """Where in the file an answer begins, whose headers must be those of this file."""
    at, length = response.url.host, response.headers.get("Content-Length", "")
    is_plain = response.headers.get("Content-Encoding", "identity") == "identity"
    first, total = "0", length if is_plain else ""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if not found or not is_plain:
            raise UnusableAnswerError(f"{at} does not say which part of {file.name} it sends")
        first, total = found[1], found[2].strip("*")
    elif response.status_code != 200:
        raise UnusableAnswerError(f"{at} answers {response.status_code} instead of {file.name}")
    if total and total != str(file.n_bytes):
        raise UnusableAnswerError(
            f"{at} sends a file of {total} bytes for {file.name}, which has {file.n_bytes}"
        )
    return int(first)


def _errors_of_files() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    return (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.GatedRepoError)


def _why(error: Exception, file: HubFile) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.EntryNotFoundError):
        return f"{file.repository} has no file {file.name} any more: pull again"
    return (
        f"the hub does not give {file.name} of {file.repository} with this HF_TOKEN or none: accept its "
        "terms on the hub, then set HF_TOKEN or log in with `hf auth login`"
    )


def _is_out_of_range(error: Exception) -> bool:
    """Whether a server says that the file ends before where it was to go on, as some that cannot do so."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code == 416
