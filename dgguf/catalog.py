"""Models that can be named instead of given as a path: the lines of models.txt."""

from dataclasses import dataclass
from pathlib import Path

from dgguf.errors import DownloadError, ModelFileError, did_you_mean

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class KnownModel:
    """One line of models.txt.

    Attributes:
        name: what a user types.
        repository: "bundled" for a file that comes with dgguf, else its hub repository.
        file: its file name there.
        type: the weights' main type.
        n_bytes: the file's size.
        note: one line for a user.
        tower: the file of its vision tower in the same repository; "" where none is named.
    """

    name: str
    repository: str
    file: str
    type: str
    n_bytes: int
    note: str
    tower: str = ""


def known_models() -> list[KnownModel]:
    """The models of models.txt, in its order."""
    packaged = _PACKAGE / "models.txt"  # put there by the build; in a checkout it lies at the top
    text = (packaged if packaged.exists() else _PACKAGE.parent / "models.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    rows = ([cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith("#"))
    return [
        KnownModel(name, repo, file, kind, int(size), note, *tower)
        for name, repo, file, kind, size, note, *tower in rows
    ]


def find_known(model: str) -> KnownModel | None:
    """The line of models.txt that is called so."""
    return next((known for known in known_models() if known.name == model), None)


def path_of(known: KnownModel) -> Path | None:
    """Where a known model lies on this machine; None if it is not here."""
    if known.repository == "bundled":
        return _PACKAGE / "data" / known.file
    from dgguf import hub  # here, and where else a model may be of the hub: it takes a while to import

    return hub.cached(known.repository, known.file)


def find_model(model: str) -> Path:
    """The file of a model that is given as a path, by its name in models.txt or as hf:owner/repo:file.

    Raises:
        ModelFileError: neither a file nor a known name, or not on this machine.
    """
    path = Path(model)
    if path.is_file():
        return path
    known = find_known(model)
    found = path_of(known) if known else None
    if found is None:
        from dgguf import hub

        reference = None if known else hub.parse_reference(model)
        found = hub.cached_like(*reference) if reference else None
        if found is None and (known or reference):
            raise ModelFileError(f"{model} is not on this machine; `dgguf pull {model}` downloads it")
    if found is not None:
        return found
    if path.exists():
        return path  # a folder or a device: whoever opens it says so
    names = [known.name for known in known_models()]
    raise ModelFileError(
        f"there is no file {model!r}, and no model of that name is known (known: {', '.join(names)})."
        f"{did_you_mean(model, dict(zip(names, names, strict=True)))}"
    )


def hub_name(model: str) -> tuple[str, str]:
    """Repository, and file or type, of a model that is named in models.txt or as hf:owner/repo:file.

    Raises:
        DownloadError: there is no such name, or it is bundled.
    """
    from dgguf import hub

    known, reference = find_known(model), hub.parse_reference(model)
    if known and known.repository == "bundled":
        raise DownloadError(f"{model} comes with dgguf: no hub has it")
    if known:
        return known.repository, known.file
    if reference is None:
        raise DownloadError(
            f"no model {model!r} is known: `dgguf list` lists those that are, others are hf:owner/repo:file."
            + did_you_mean(model, {known.name: known.name for known in known_models()})
        )
    return reference
