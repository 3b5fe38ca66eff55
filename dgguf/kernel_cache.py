"""A cache of compiled kernels that a crash, a full disk or another program may have damaged.

Machine code is believed only with its digest: what a crash cut, or left as zeros, would be run. An
entry that cannot be loaded is compiled again; one that cannot be saved is done without.
"""

import contextlib
import hashlib
import logging
import pickle
from typing import Any

from numba.core import serialize

_dumps: Any = serialize.dumps
_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32
_failure = ""  # of the last attempt to keep a kernel


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


def guard(cache: Any, *, sealed: bool = True) -> None:
    """Let a cache of numba's take every failure to load as a miss, and do without what it cannot save.

    Args:
        cache: of one function; its methods are replaced, as numba asks for its class.
        sealed: keep entries with a digest.
    """
    load, save = cache.load_overload, cache.save_overload

    def load_overload(signature: Any, target_context: Any) -> Any:
        try:
            return load(signature, target_context)
        except MemoryError:
            raise
        except Exception as error:  # unpickling a damaged file can raise anything
            _LOG.debug("a damaged kernel in %s: %r", cache.cache_path, error)
            with contextlib.suppress(Exception):  # else the next run finds it again
                cache.flush()
            return None

    def save_overload(signature: Any, compiled: Any) -> None:
        try:
            save(signature, compiled)
        except MemoryError:
            raise
        except Exception as error:  # OSError, or a damaged index that could not be removed
            _LOG.debug("a kernel was not kept in %s: %r", cache.cache_path, error)
            note_failure(error)

    cache.load_overload, cache.save_overload = load_overload, save_overload
    if sealed:
        _seal_entries(cache._impl)


def _seal_entries(entries: Any) -> None:
    reduce, rebuild = entries.reduce, entries.rebuild
    entries.reduce = lambda compiled: seal(_dumps(reduce(compiled)))
    entries.rebuild = lambda context, data: rebuild(context, pickle.loads(unseal(data)))
