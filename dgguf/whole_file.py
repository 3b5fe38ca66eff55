"""The one way a file is written that is there as a whole or not at all, and whether a file can be written."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def check_writable(path: Path) -> None:
    """See that a file may be made or overwritten, before it is: neither is done.

    Raises:
        OSError: of this file, whose name it has.
    """
    where = path if path.exists() else path.parent
    number = 0
    if path.is_dir():
        number = errno.EISDIR
    elif not where.exists():
        number = errno.ENOENT
    elif not os.access(where, os.W_OK):
        number = errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), os.fspath(path))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name under which to write what becomes the file `path` when the context is left well.

    What is written under it is brought to the disk first. After an error or an interrupt `path` is as
    before and nothing is left. A device or a pipe is written at once; a link stays, and leads to the file.

    Raises:
        OSError: of this file, whose name it has.
    """
    target = Path(os.path.realpath(path))
    # No other file has this name, be it of another program or of somebody who writes the same file.
    part = target.with_name(f"{target.name[:48]}.{secrets.token_hex(4)}.part")
    try:
        if target.exists() and not target.is_file():
            yield target
            return
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        if error.errno and str(error.filename) in ("None", str(part)):
            error.filename = os.fspath(path)
        raise
