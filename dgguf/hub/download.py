"""Brings files of the hub into its cache: one process a file, checked by their digests."""

import contextlib
import errno
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dgguf.errors import DownloadError
from dgguf.hub.cache import cache, folder, lock_of, name_in_cache, partial, room, sha256
from dgguf.hub.environment import check_network
from dgguf.hub.failures import network_errors, reason
from dgguf.hub.repository import HubFile
from dgguf.hub.transfer import Shown, fetch, not_shown
from dgguf.units import format_bytes

Say = Callable[[str], None]
_SOON = 0.2  # seconds; who waits longer for another process is told


def download(files: Sequence[HubFile], say: Say = lambda line: None, shown: Shown = not_shown) -> Path:
    """See that files are in the cache and whole, and download those that are not.

    An earlier download of them is gone on with. The same file is downloaded by one process at a time; others
    wait for it. What is whole is only read.

    Args:
        files: from `choose`.
        say: is told what is needed, checked and waited for, a line each.
        shown: is told how far each file is.

    Returns:
        The first of them.

    Raises:
        DownloadError: no room, no network, a cache that cannot be written, or a file that is not what the hub
            says it is.
    """
    check_network()
    with _explained(files, say):
        paths = {file.name: _whole(file, say, shown) for file in files}
        missing = [file for file in files if paths[file.name] is None]
        if missing:
            _check_room(missing, say)
        for file in missing:
            paths[file.name] = _bring(file, say, shown)
    first = paths[files[0].name]
    assert first is not None
    return first


def _whole(file: HubFile, say: Say, shown: Shown, *, is_checked: bool = False) -> Path | None:
    """Where a file has its name in the cache; None if it is not there, or is damaged.

    Args:
        is_checked: its size will do, as another process has just computed its digest.
    """
    here = _contents(file)
    if here is None or here.stat().st_size != file.n_bytes:
        return None
    if file.sha256 and not is_checked and _digest(file, here, say, shown) != file.sha256:
        return None
    return _name(file, here)


def _digest(file: HubFile, path: Path, say: Say, shown: Shown) -> str:
    """The digest of what is here of a file."""
    say(f"checking {file.name}")
    with shown("checking", file.n_bytes, 0) as progress:
        return sha256(path, progress.advance)


def _contents(file: HubFile) -> Path | None:
    """What the cache has of a file, whole or not; of another version only where no link leads to it.

    There nothing but the digest can tell whether the file has changed with the version.
    """
    named = name_in_cache(file.repository, file.name)
    candidates = [_blob(file), _place(file), *([named] if named and not named.is_symlink() else [])]
    return next((path for path in candidates if path.is_file()), None)


def _bring(file: HubFile, say: Say, shown: Shown) -> Path:
    """Download a file; the other processes that want it wait. What is damaged in the cache is deleted."""
    from huggingface_hub import constants, hf_hub_download

    with _only_writer(file, say) as has_waited:
        if found := _whole(file, say, shown, is_checked=has_waited):
            return found
        for path in (_blob(file), _place(file)):
            if path.is_file():
                say(f"{file.name} in the cache is damaged: it is downloaded again")
            path.unlink(missing_ok=True)  # also a link to what is no more
        if file.n_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
            try:
                with warnings.catch_warnings():  # of space that copies take: there are none
                    warnings.simplefilter("ignore")
                    return Path(hf_hub_download(file.repository, file.name))
            except Exception as error:  # of hf_xet any
                raise DownloadError(f"the download of {file.name} failed: {error}; pull again") from error
        return _name(file, _fetch_blob(file, say, shown))


def _fetch_blob(file: HubFile, say: Say, shown: Shown) -> Path:
    """The contents of a file, from the hub, under the name of their digest."""
    blob, begun = _blob(file), partial(file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    if begun.exists() and begun.stat().st_size > file.n_bytes:
        say(f"what is here of {file.name} is longer than the file: it starts anew")
        begun.unlink()
    for is_last in (False, True):
        with begun.open("ab", buffering=0) as out:
            fetch(file, out, say, shown)
            os.fsync(out.fileno())
        if not file.sha256:
            break
        if _digest(file, begun, say, shown) == file.sha256:
            break
        begun.unlink()
        if is_last:
            raise DownloadError(
                f"{file.name} arrived damaged twice: its digest is not the hub's; it was deleted, "
                "pull it again"
            )
        say(f"{file.name} arrived damaged, its digest is not the hub's: it starts anew")
    begun.replace(blob)
    return blob


def _blob(file: HubFile) -> Path:
    return folder(file.repository) / "blobs" / file.blob


def _place(file: HubFile) -> Path:
    return folder(file.repository) / "snapshots" / file.commit / file.name


def _name(file: HubFile, here: Path) -> Path:
    """Give contents their name in the cache: a link, or where there are none, the file itself.

    Nothing is written where they have it already, as in a cache that only others may write.
    """
    from huggingface_hub import constants

    named = name_in_cache(file.repository, file.name)
    if named and named.samefile(here):
        return named
    place, main = _place(file), folder(file.repository) / "refs" / "main"
    if here != place:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):  # which its first versions do not know
                raise OSError(errno.EPERM, "the user does not want links")
            place.symlink_to(os.path.relpath(here, place.parent))
        except OSError:
            here.replace(place)
    main.parent.mkdir(parents=True, exist_ok=True)
    new = main.with_name(f"main.{os.getpid()}")
    new.write_text(file.commit, encoding="ascii")
    new.replace(main)
    return place


@contextlib.contextmanager
def _only_writer(file: HubFile, say: Say) -> Iterator[bool]:
    """Hold the lock of a file, and tell whether another process had it; the lock of a dead one is free."""
    from huggingface_hub.utils import WeakFileLock

    lock = lock_of(file.repository, file.blob)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        has_waited = False
        try:
            stack.enter_context(WeakFileLock(lock, timeout=_SOON))
        except TimeoutError:
            say(f"another process downloads {file.name}: waiting for it")
            stack.enter_context(WeakFileLock(lock))
            has_waited = True
        yield has_waited


def _check_room(files: Sequence[HubFile], say: Say) -> None:
    """See that the disk can take the files, and tell how much of them and of it there is."""
    place, free = room()
    here = begun_of(files)
    needed = max(0, sum(file.n_bytes for file in files) - here)
    already = f"{format_bytes(here)} are here already; " if here else ""
    damaged = sum(path.stat().st_size for file in files if (path := _blob(file)).is_file())
    if free + damaged < needed:
        raise DownloadError(
            f"the download takes {format_bytes(needed)}, but the disk of {place} has only "
            f"{format_bytes(free)} free; {already}HF_HOME moves the cache"
        )
    say(f"{already}{format_bytes(needed)} to download, {format_bytes(free)} free in {place}")


def begun_of(files: Sequence[HubFile]) -> int:
    """How many bytes of files an earlier download left."""
    return sum(partial(file).stat().st_size for file in files if partial(file).exists())


def _goes_on(files: Sequence[HubFile]) -> str:
    """How much is here of the files that are not done; "" if nothing is."""
    unfinished = [file for file in files if not _blob(file).exists()]
    share = begun_of(unfinished) / max(1, sum(file.n_bytes for file in unfinished))
    return f"{share:.0%} are here: pull again, and it goes on from there" if share else ""


@contextlib.contextmanager
def _explained(files: Sequence[HubFile], say: Say) -> Iterator[None]:
    """Errors of the network and of the disk become one sentence."""
    repository = files[0].repository
    try:
        yield
    except network_errors() as error:
        after = _goes_on(files) or "nothing came"
        raise DownloadError(f"the download from {repository} failed: {reason(error)}; {after}") from error
    except (KeyboardInterrupt, SystemExit):
        if after := _goes_on(files):
            say(after)
        raise
    except BrokenPipeError:
        raise  # of whoever read what is said
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DownloadError(
                f"the disk of {cache()} is full ({why}); what is here is kept: make room and pull again, "
                "or move the cache with HF_HOME"
            ) from error
        raise DownloadError(
            f"the cache cannot be used: {error.filename or cache()}: {why}; HF_HOME moves it"
        ) from error
