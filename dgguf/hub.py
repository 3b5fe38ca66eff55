"""Files of the Hugging Face hub: looked up in its cache, or downloaded into it.

Resuming, the cache, the token and the progress bar are huggingface_hub's; the environment variables
HF_TOKEN, HF_HOME and HF_ENDPOINT are its too. Here a file is chosen, room is looked for before, and
what arrived is compared with the hub's digest after.
"""

import contextlib
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgguf.errors import DownloadError
from dgguf.ggufio.layout import parse_split_name, split_names

_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::(.+))?")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        sha256: its digest; "" if the hub does not say.
    """

    repository: str
    name: str
    n_bytes: int
    sha256: str


def parse_reference(text: str) -> tuple[str, str] | None:
    """Repository and file or type ("" if none) of `hf:owner/repo[:file|:TYPE]`; None for other texts."""
    found = _REFERENCE.fullmatch(text)
    return (found[1], found[2] or "") if found else None


def parts(name: str) -> list[str]:
    """The file, or all parts of the split model that it is a part of."""
    found = parse_split_name(name)
    return split_names(found.stem, found.count) if found else [name]


def cached(repository: str, name: str) -> Path | None:
    """The first part of a model in the cache, if all its parts are there."""
    _check_environment()
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repository, part) for part in parts(name)]
    return Path(paths[0]) if isinstance(paths[0], str) and all(isinstance(p, str) for p in paths) else None


def cached_like(repository: str, wanted: str) -> Path | None:
    """As `cached`, of a file or of a type, of which only one file may be there."""
    if wanted.endswith(".gguf"):
        return cached(repository, wanted)
    _check_environment()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    names = {
        str(file.file_path.relative_to(revision.snapshot_path).as_posix())
        for repo in repositories
        if repo.repo_id == repository and repo.repo_type == "model"
        for revision in repo.revisions
        for file in revision.files
    }
    found = _matching(sorted(names), wanted)
    return cached(repository, found[0]) if len(found) == 1 else None


def choose(repository: str, wanted: str) -> list[HubFile]:
    """Ask the hub for a file, all parts of it, or for the one GGUF of a type.

    Raises:
        DownloadError: the hub does not answer, or has no such file, or several.
    """
    with _explained(repository):
        from huggingface_hub import HfApi

        siblings = HfApi().model_info(repository, files_metadata=True).siblings or []
    files = {
        s.rfilename: HubFile(repository, s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "")
        for s in siblings
    }
    found = _matching(sorted(files), wanted)
    if not found:
        names = ", ".join(name for name in sorted(files) if name.endswith(".gguf")) or "none"
        what = f"no GGUF file {wanted!r}" if wanted else "no GGUF file"
        raise DownloadError(f"{repository} has {what}; its GGUF files: {names}")
    if len(found) > 1:
        raise DownloadError(
            f"{repository} has several such files, say which after a colon: {', '.join(found)}"
        )
    missing = [part for part in parts(found[0]) if part not in files]
    if missing:
        raise DownloadError(f"{repository} lacks {missing[0]}, a part of {found[0]}")
    return [files[part] for part in parts(found[0])]


def _matching(names: Sequence[str], wanted: str) -> list[str]:
    """The files, or first parts, that are called so, or are GGUFs of this type."""
    models = [name for name in names if name.endswith(".gguf") and parts(name)[0] == name]
    models = [name for name in models if not Path(name).name.startswith("mmproj")]
    if wanted.endswith(".gguf"):
        return [parts(wanted)[0]] if wanted in names else []
    ends = re.compile(rf"(.*[-.])?{re.escape(wanted)}", re.IGNORECASE)
    return [name for name in models if not wanted or ends.fullmatch(_stem(name))]


def _stem(name: str) -> str:
    """A model's file name without its folder, its ending and what tells its parts apart."""
    name = Path(name).name
    found = parse_split_name(name)
    return found.stem if found else name.removesuffix(".gguf")


def download(files: Sequence[HubFile], checking: Callable[[str], None] = lambda name: None) -> Path:
    """Download files into the cache, going on where an earlier attempt broke off, and check them.

    Args:
        files: from `choose`.
        checking: called with the name of each file before its digest is computed.

    Returns:
        The first of them.

    Raises:
        DownloadError: no room, no network, or a file that is not what the hub says it is.
    """
    _check_environment()
    from huggingface_hub import constants, hf_hub_download

    _check_room(files, Path(constants.HF_HUB_CACHE))
    paths = []
    for file in files:
        with _explained(file.repository, begun=True):
            if _missing(file) and file.n_bytes <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                _fetch_blob(file, Path(constants.HF_HUB_CACHE), checking)
            paths.append(Path(hf_hub_download(file.repository, file.name)))
    return paths[0]


def _fetch_blob(file: HubFile, cache: Path, checking: Callable[[str], None]) -> None:
    """Put a file's contents where the cache keeps them; `hf_hub_download` then finds them there.

    Left to itself that function begins anew after an interruption, as its unfinished files have names
    that no later run knows. Where there are no symbolic links it would copy the blob to its name.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(file.repository, file.name)
    metadata = get_hf_file_metadata(url)
    etag = metadata.etag
    if not etag:
        return
    folder = cache / repo_folder_name(repo_id=file.repository, repo_type="model")
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    blob, partial = blobs / etag, blobs / f"{etag}.dgguf.incomplete"
    place = blob
    if metadata.commit_hash and not _can_link(cache):
        place = folder / "snapshots" / metadata.commit_hash / file.name
        if not place.resolve().is_relative_to((folder / "snapshots").resolve()):
            raise DownloadError(f"{file.repository} names a file {file.name!r}, which leads out of the cache")
        place.parent.mkdir(parents=True, exist_ok=True)
        if blob.exists():
            blob.replace(place)
    if place.exists():
        return
    with partial.open("ab") as out:
        http_get(
            url,
            out,
            resume_size=out.tell(),
            headers=build_hf_headers(),
            expected_size=file.n_bytes,
            displayed_filename=Path(file.name).name,
        )
    if file.sha256:
        checking(file.name)
        if _digest(partial) != file.sha256:
            partial.unlink()
            raise DownloadError(
                f"{file.name} arrived damaged: its digest is not the hub's; it was deleted, pull it again"
            )
    partial.replace(place)


def _can_link(cache: Path) -> bool:
    """Whether the cache's disk and this user may have symbolic links."""
    from huggingface_hub.file_download import are_symlinks_supported

    with warnings.catch_warnings():  # of space that copies take: there are none
        warnings.simplefilter("ignore")
        return are_symlinks_supported(cache)


def _check_room(files: Sequence[HubFile], cache: Path) -> None:
    needed = sum(file.n_bytes for file in files if _missing(file))
    folder = cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    begun = sum(path.stat().st_size for path in cache.glob("models--*/blobs/*.dgguf.incomplete"))
    if free + begun < needed:
        raise DownloadError(
            f"the download takes {needed / 1e9:.2f} GB, but the disk of {cache} has only "
            f"{free / 1e9:.2f} GB free; HF_HOME moves the cache"
        )


def _missing(file: HubFile) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return not isinstance(try_to_load_from_cache(file.repository, file.name), str)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_environment() -> None:
    """See that what the hub's client takes from the environment can be used.

    Raises:
        DownloadError: a variable cannot, by name.
    """
    try:
        from huggingface_hub import constants, get_token  # reads the variables
    except ValueError as error:
        names = [
            name for name, value in os.environ.items() if name.startswith("HF_") and repr(value) in str(error)
        ]
        raise DownloadError(f"{' or '.join(names) or 'a variable HF_…'} is no number: {error}") from None
    if not re.fullmatch(r"[!-~]*", get_token() or ""):
        where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else constants.HF_TOKEN_PATH
        raise DownloadError(
            f"{where}: this is no token of the hub, which has letters and digits of ASCII only"
        )
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (path := os.environ.get(name)) and not os.path.exists(path):
            raise DownloadError(f"{name} names {path}, which does not exist: correct or unset it")


@contextlib.contextmanager
def _explained(repository: str, *, begun: bool = False) -> Iterator[None]:
    """The hub's and the network's errors become one sentence; `begun` if some of a file may be there."""
    _check_environment()
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise DownloadError(
            f"{repository} asks for an account: accept its terms on the hub and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"the hub has no repository {repository}, or none that is open without HF_TOKEN"
        ) from None
    except errors.HFValidationError as error:
        raise DownloadError(f"{repository} is no name of a repository: {error}") from None
    except errors.OfflineModeIsEnabled:
        raise DownloadError(
            f"{repository} cannot be asked: HF_HUB_OFFLINE is set; unset it where there is a network"
        ) from None
    except (errors.HfHubHTTPError, errors.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if begun:
            raise DownloadError(
                f"the download from {repository} failed: {reason}; pull again, and it goes on from there"
            ) from error
        raise DownloadError(
            f"the hub cannot be asked for {repository}: {reason}; is there a network? HTTPS_PROXY names a "
            "proxy, HF_ENDPOINT another hub"
        ) from error
