"""The cache of the hub's files: what lies there, and whether it is whole.

It has huggingface_hub's layout: `blobs/` has the contents, named by their digest; `snapshots/COMMIT/` the
files' names, as links to them, or the contents themselves where there are no symbolic links; `refs/main` the
commit. A download that is not done yet is `blobs/DIGEST.dgguf.incomplete`.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dgguf.errors import DownloadError
from dgguf.hub.environment import check_import
from dgguf.hub.repository import HubFile, find_matching, is_tower, parts

_CHUNK = 1 << 22
_PARTIAL = ".dgguf.incomplete"


def cache() -> Path:
    """The folder of all repositories."""
    check_import()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def folder(repository: str) -> Path:
    """What the cache has of a repository."""
    return cache() / f"models--{repository.replace('/', '--')}"


def partial(file: HubFile) -> Path:
    """The file that is not done yet."""
    return folder(file.repository) / "blobs" / f"{file.blob}{_PARTIAL}"


def begun_bytes(repository: str) -> int:
    """How much of the repository's files came in downloads that are not done."""
    found = 0
    with contextlib.suppress(OSError):
        found = sum(path.stat().st_size for path in (folder(repository) / "blobs").glob(f"*{_PARTIAL}"))
    return found


def room() -> tuple[Path, int]:
    """The cache, and the bytes that are free on its disk."""
    place = existing = cache()
    while not existing.exists():
        existing = existing.parent
    return place, shutil.disk_usage(existing).free


def lock_of(repository: str, blob: str) -> Path:
    """The file that whoever downloads contents of this name holds locked."""
    return cache() / ".locks" / folder(repository).name / f"{blob}.dgguf.lock"


def cached(repository: str, name: str) -> Path | None:
    """The first part of a model in the cache, if all its parts are there."""
    paths = [name_in_cache(repository, part) for part in parts(name)]
    return paths[0] if all(paths) else None


def cached_like(repository: str, wanted: str) -> Path | None:
    """As `cached`, of a file or of a type, of which only one file may be there."""
    if wanted.endswith(".gguf"):
        return cached(repository, wanted)
    snapshot = folder(repository) / "snapshots" / (_commit(repository) or " ")
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")]
    found = find_matching(sorted(names), wanted)
    return cached(repository, found[0]) if len(found) == 1 else None


@dataclass(frozen=True)
class Removal:
    """What is deleted with a model: huggingface_hub deletes whole versions of a repository.

    Attributes:
        names: of all files that go.
        n_bytes: that become free.
        delete: does it.
    """

    names: list[str]
    n_bytes: int
    delete: Callable[[], None]


def removal(repository: str, wanted: str) -> Removal | None:
    """What goes when a model's file, or that of a type, is deleted; None if it is not here."""
    path = cached_like(repository, wanted)
    if path is None:
        return None
    from huggingface_hub import scan_cache_dir

    scanned = scan_cache_dir(cache())  # which resolves the folder
    path = cache().resolve() / path.relative_to(cache())
    versions = [
        version
        for found in scanned.repos
        if found.repo_id == repository
        for version in found.revisions
        if any(file.file_path == path for file in version.files)
    ]
    if not versions:
        return None
    strategy = scanned.delete_revisions(*(version.commit_hash for version in versions))
    names = sorted({file.file_name for version in versions for file in version.files})
    return Removal(names, strategy.expected_freed_size, strategy.execute)


def unfinished(repository: str) -> Removal | None:
    """What goes when the downloads of a repository that are not done are deleted; None if there are none.

    What they will be nobody knows without the hub: they are named by their digests.
    """
    found = sorted((folder(repository) / "blobs").glob("*.incomplete"))  # huggingface_hub's, too

    def delete() -> None:
        from huggingface_hub.utils import WeakFileLock

        for path in found:
            lock = lock_of(repository, path.name.split(".")[0])
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                with WeakFileLock(lock, timeout=0.1):
                    path.unlink(missing_ok=True)
            except TimeoutError:
                raise DownloadError(f"another process is downloading {path}: end it first") from None

    sizes = [path.stat().st_size for path in found]
    return Removal([path.name for path in found], sum(sizes), delete) if found else None


def name_in_cache(repository: str, name: str) -> Path | None:
    """Where a file has its name in the cache, in the version that was asked for last."""
    commit = _commit(repository)
    path = folder(repository) / "snapshots" / commit / name if commit else None
    return path if path and path.is_file() else None


def _commit(repository: str) -> str:
    """The version that `refs/main` names; "" if it names none."""
    with contextlib.suppress(OSError, ValueError):
        text = (folder(repository) / "refs" / "main").read_text(encoding="ascii").strip()
        return text if re.fullmatch(r"[0-9a-f]{5,64}", text) else ""
    return ""


def damage(path: Path) -> str:
    """What is wrong with a file of the cache, its parts and a vision tower beside; "" for nothing that shows.

    Reads them whole. The digests are the names of what the links lead to.
    """
    names = [*parts(path.name), *sorted(each.name for each in path.parent.iterdir() if is_tower(each.name))]
    for part in dict.fromkeys(names):
        digest = os.path.basename(os.path.realpath(path.with_name(part)))
        if re.fullmatch(r"[0-9a-f]{64}", digest) and sha256(path.with_name(part)) != digest:
            return f"{path.parent}: the digest of {part} is not the hub's"
    return ""


def sha256(path: Path, advance: Callable[[int], object] = lambda n_bytes: None) -> str:
    """The digest of a file, in hexadecimal digits; `advance` is told of all bytes that were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
