"""A cache of compiled kernels that a crash, a full disk or another program may have damaged.

Machine code is believed only with its digest: what a crash cut, or left as zeros, would be run. An
entry that cannot be loaded is compiled again; one that cannot be saved is done without.
"""

import contextlib
import hashlib
import logging
import pickle
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from numba.core import serialize

_dumps: Any = serialize.dumps
_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32
_failure = ""  # of the last attempt to keep a kernel
_only_kept: ContextVar[bool] = ContextVar("_only_kept", default=False)


def not_kept() -> str:
    """Why a kernel of this process could not be kept; "" if all were."""
    return _failure


def note_failure(error: Exception) -> None:
    """Remember that a kernel could not be kept."""
    global _failure
    _failure = str(error) or type(error).__name__


def seal(data: bytes) -> bytes:
    """The bytes behind their SHA-256."""
    return hashlib.sha256(data).digest() + data


def unseal(sealed: bytes) -> bytes:
    """The bytes that `seal` was given.

    Raises:
        ValueError: they are not the same any more.
    """
    digest, data = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError("damaged")
    return data


class NotKeptError(Exception):
    """A kernel would have to be compiled, within `only_kept`."""


@contextlib.contextmanager
def only_kept() -> Iterator[None]:
    """Within the context, this thread loads kernels and compiles none: NotKeptError where it would."""
    token = _only_kept.set(True)
    try:
        yield
    finally:
        _only_kept.reset(token)


class _Files:
    """A file for each entry of a function, named after what it is for.

    numba numbers its files, and an index says what each is for: two processes that add to one index at the
    same time could take each other's code for their own.

    Args:
        index: numba's, of the function; its files are written as a whole or not at all.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._base = index._index_path.removesuffix(".nbi")

    def _path(self, key: Any) -> str:
        named = repr((key, self._index._source_stamp)).encode()
        return f"{self._base}.{hashlib.sha256(named).hexdigest()[:20]}.kernel"

    def load(self, key: Any) -> Any:
        """What was saved; None if nothing was.

        Raises:
            ValueError: it is damaged.
        """
        try:
            with open(self._path(key), "rb") as file:
                sealed = file.read()
        except FileNotFoundError:
            return None
        return pickle.loads(unseal(sealed))

    def save(self, key: Any, data: Any) -> None:
        with self._index._open_for_write(self._path(key)) as file:
            file.write(seal(_dumps(data)))


def guard(cache: Any, *, sealed: bool = True) -> None:
    """Let a cache of numba's take every failure to load as a miss, and do without what it cannot save.

    Args:
        cache: of one function; its methods are replaced, as numba asks for its class.
        sealed: keep entries with a digest, in files of their own.
    """
    load, save = cache.load_overload, cache.save_overload
    if sealed:
        cache._cache_file = _Files(cache._cache_file)

    def load_overload(signature: Any, target_context: Any) -> Any:
        found = None
        try:
            found = load(signature, target_context)
        except MemoryError:
            raise
        except Exception as error:  # unpickling a damaged file can raise anything
            _LOG.debug("a damaged kernel in %s: %r", cache.cache_path, error)
            if not sealed:
                with contextlib.suppress(Exception):  # else the next run finds it again
                    cache.flush()
        if found is None and _only_kept.get():
            raise NotKeptError
        return found

    def save_overload(signature: Any, compiled: Any) -> None:
        try:
            save(signature, compiled)
        except MemoryError:
            raise
        except Exception as error:  # OSError, or a damaged index that could not be removed
            _LOG.debug("a kernel was not kept in %s: %r", cache.cache_path, error)
            note_failure(error)

    cache.load_overload, cache.save_overload = load_overload, save_overload
