"""Files in repositories of the hub: how they are named, and which ones there are."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dgguf.errors import DownloadError, NoAnswerError
from dgguf.ggufio.layout import parse_split_name, split_names
from dgguf.hub.environment import check_network, host
from dgguf.hub.failures import Patience, network_errors, reason

_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::(.+))?")
_TRIES = 3  # for a list of files


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        n_bytes: its size, above 0.
        sha256: its digest; "" if the hub does not say.
        blob: its name in the cache: the digest, or git's where there is none.
        commit: the version of the repository.
    """

    repository: str
    name: str
    n_bytes: int
    sha256: str
    blob: str
    commit: str


def parse_reference(text: str) -> tuple[str, str] | None:
    """Repository and file or type ("" if none) of `hf:owner/repo[:file|:TYPE]`; None for other texts."""
    found = _REFERENCE.fullmatch(text)
    return (found[1], found[2] or "") if found else None


def parts(name: str) -> list[str]:
    """The file, or all parts of the split model that it is a part of."""
    found = parse_split_name(name)
    return split_names(found.stem, found.count) if found else [name]


def choose(
    repository: str, wanted: str, say: Callable[[str], None] = lambda line: None, tower: str = ""
) -> list[HubFile]:
    """Ask the hub for a file, all parts of it, or for the one GGUF of a type; a vision tower stands last.

    Args:
        say: is told what is waited for.
        tower: the file of the model's vision tower; "" for the one beside it, if the repository has any.

    Raises:
        NoAnswerError: the hub gives no list of files.
        DownloadError: it has no such file, or several, or the environment is at fault.
    """
    check_network()
    info = _ask(repository, say)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    found = find_matching(sorted(siblings), wanted)
    if not found:
        names = ", ".join(name for name in sorted(siblings) if name.endswith(".gguf")) or "none"
        what = f"no GGUF file {wanted!r}" if wanted else "no GGUF file"
        raise DownloadError(f"{repository} has {what}; its GGUF files: {names}")
    if len(found) > 1:
        raise DownloadError(
            f"{repository} has several such files, say which after a colon: {', '.join(found)}"
        )
    asked = [*parts(found[0]), *filter(None, [tower or find_tower(siblings, found[0])])]
    missing = [name for name in asked if name not in siblings]
    if missing:
        raise DownloadError(f"{repository} lacks {missing[0]}, a part of {found[0]}")
    return [_described(repository, info.sha, siblings[name]) for name in asked]


def _ask(repository: str, say: Callable[[str], None]) -> Any:
    """huggingface_hub's description of a repository, files and their sizes included."""
    from huggingface_hub import HfApi, constants, errors

    patience = Patience(_TRIES, say, connecting=False)
    while True:
        try:
            return HfApi().model_info(repository, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except errors.GatedRepoError:
            why = (
                f"{repository} asks for an account: accept its terms at {constants.ENDPOINT}/{repository}, "
                "then set HF_TOKEN or log in with `hf auth login`"
            )
        except errors.RepositoryNotFoundError:
            why = f"the hub has no repository {repository}, or none that is open with this HF_TOKEN or none"
        except errors.HFValidationError as error:
            raise DownloadError(f"{repository} is no name of a repository: {error}") from None
        except errors.OfflineModeIsEnabled:
            why = f"{repository} needs a network to {host()}, but HF_HUB_OFFLINE is set: unset it"
        except network_errors() as error:
            try:
                patience.wait(error)
                continue
            except errors.HfHubHTTPError:  # so there is a network
                why = f"{repository} cannot be had: {reason(error)}"
            except network_errors():
                why = (
                    f"{repository} needs a network to {host()}: {reason(error)}; HTTPS_PROXY names a proxy, "
                    "HF_ENDPOINT another hub"
                )
        except (ValueError, TypeError, KeyError, AttributeError):  # other JSON than the hub's, or none
            why = f"{host()} answers with no list of files: a login page of the network, or no hub?"
        raise NoAnswerError(why)


def _described(repository: str, commit: Any, sibling: Any) -> HubFile:
    """A file as the hub describes it, when it can be one, and cannot lead out of the cache."""
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    file = HubFile(repository, sibling.rfilename, sibling.size, sha256, sha256 or sibling.blob_id, commit)
    path = PurePosixPath(file.name)
    is_inside = not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:]", file.name)
    if not (is_inside and file.name.isprintable()):
        raise DownloadError(f"{repository} names a file {file.name!r}, which leads out of the cache")
    ids = (file.blob, file.commit, *filter(None, [sha256]))
    known = all(isinstance(text, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) for text in ids)
    if not known or not isinstance(file.n_bytes, int) or file.n_bytes <= 0:
        raise DownloadError(f"{host()} does not say how large {file.name} is and which version: is it a hub?")
    return file


_TOWERS = ("BF16", "F16", "Q8_0", "F32")  # types of vision towers, the one that is wanted most first


def find_tower(names: Iterable[str], model: str) -> str | None:
    """The vision tower in the folder of a model's file, of several that of the best type; None for none."""
    folder = PurePosixPath(model).parent
    found = sorted(name for name in names if is_tower(name) and PurePosixPath(name).parent == folder)
    if not found or is_tower(model):
        return None

    def rank(name: str) -> int:
        ends = [re.search(rf"(?:^|[-._]){kind}$", _stem(name), re.IGNORECASE) for kind in _TOWERS]
        return next((i for i, end in enumerate(ends) if end), len(_TOWERS))

    return min(found, key=rank)


def is_tower(name: str) -> bool:
    """Whether a file is a vision tower, by its name."""
    name = PurePosixPath(name).name.lower()
    return name.endswith(".gguf") and "mmproj" in name


def find_matching(names: Sequence[str], wanted: str) -> list[str]:
    """The files, or first parts, that are called so, or are GGUFs of this type."""
    models = [name for name in names if name.endswith(".gguf") and parts(name)[0] == name]
    models = [name for name in models if not is_tower(name)]
    if wanted.endswith(".gguf"):
        return [parts(wanted)[0]] if wanted in names else []
    ends = re.compile(rf"(.*[-.])?{re.escape(wanted)}", re.IGNORECASE)
    return [name for name in models if not wanted or ends.fullmatch(_stem(name))]


def _stem(name: str) -> str:
    """A model's file name without its folder, its ending and what tells its parts apart."""
    name = Path(name).name
    found = parse_split_name(name)
    return found.stem if found else name.removesuffix(".gguf")
