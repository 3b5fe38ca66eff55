"""`dgguf list`, `pull` and `rm`: the models known by name, getting them, and getting rid of them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dgguf.cli.commands import model_argument

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dgguf.hub.transfer import Progress

_FITS: dict[object, str] = {True: "yes", False: "no", None: "?"}


@click.command("list", short_help="List the models known by name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_models(as_json: bool) -> None:
    """List the models known by name: size, whether they are here, whether they fit this machine.

    \b
    Examples:
      dgguf list
      dgguf pull diffusiongemma && dgguf run diffusiongemma -p "Why is the sky blue?"
    """
    from dgguf.catalog import known_models, path_of
    from dgguf.cli.forecast import memory_needed
    from dgguf.cli.tables import Column, Rows, echo
    from dgguf.machine import system_memory
    from dgguf.units import format_bytes
    from dgguf.view.terminal import safe_json

    _, memory = system_memory()
    rows = []
    for known in known_models():
        path = path_of(known)
        fits = None if memory is None else memory_needed(known.n_bytes) <= memory
        rows.append(
            {
                "name": known.name,
                "type": known.type,
                "bytes": known.n_bytes,
                "path": str(path) if path else None,
                "fits_memory": fits,
                "repository": known.repository,
                "file": known.file,
                "note": known.note,
            }
        )
    if as_json:
        click.echo(safe_json(json.dumps({"memory": memory, "models": rows}, ensure_ascii=False, indent=2)))
        return
    cells = [
        (
            *(known.name, known.type, format_bytes(known.n_bytes)),
            *("yes" if row["path"] else "no", _FITS[row["fits_memory"]], known.note),
        )
        for row, known in zip(rows, known_models(), strict=True)
    ]
    size, note = Column("size", right=True), Column("note", folds=True)
    echo(Rows((Column("name"), Column("type"), size, Column("here"), Column("fits"), note), cells))


@click.command(short_help="Download a model.")
@model_argument
def pull(model: str) -> None:
    """Download MODEL: a name of `dgguf list`, or hf:owner/repo, with a file or a type after a colon.

    It goes to the cache of the Hugging Face hub, and with it a vision tower (mmproj*.gguf) that lies beside
    it there. An interrupted download goes on, and a file that is there is checked by its digest and mended,
    if it can be; without a network it is checked alone. The model's path goes to stdout. HF_TOKEN opens
    repositories that need an account, HF_HOME moves the cache.

    \b
    Examples:
      dgguf pull diffusiongemma
      dgguf pull hf:unsloth/diffusiongemma-26B-A4B-it-GGUF:Q6_K
    """
    click.echo(download(model))


@click.command(short_help="Delete a downloaded model.")
@model_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(model: str, yes: bool) -> None:
    """Delete MODEL, a name or hf:owner/repo:file, from the cache of the Hugging Face hub.

    Other files of the same version of its repository go with it; they are named before. Of a model that is
    not whole, the unfinished downloads of its repository go. The demo comes with dgguf, and a path is a file
    of your own: neither is deleted.

    \b
    Examples:
      dgguf rm diffusiongemma
      dgguf rm hf:unsloth/diffusiongemma-26B-A4B-it-GGUF:Q6_K
    """
    from dgguf import hub
    from dgguf.catalog import hub_name
    from dgguf.cli.output import say
    from dgguf.errors import ModelFileError
    from dgguf.units import count, format_bytes

    if Path(model).exists():
        raise click.UsageError(f"{model} is a file of your own: delete it yourself")
    repository, wanted = hub_name(model)
    found, begun = hub.removal(repository, wanted), hub.unfinished(repository)
    if found is None and begun is None:
        raise ModelFileError(f"{model} is not on this machine")
    going = found or begun
    assert going is not None
    kind = "file" if found else "unfinished download"
    say(f"{repository} in the hub's cache: {', '.join(going.names)}, {format_bytes(going.n_bytes)}")
    question = f"Delete {count(len(going.names), kind)}? Other programs may use them, too."
    if not yes and not click.confirm(question, err=True):
        raise click.Abort
    going.delete()
    say(f"{format_bytes(going.n_bytes)} are free again")
    if found and begun:
        left = count(len(begun.names), "unfinished download")
        say(f"{left} of {repository} left, {format_bytes(begun.n_bytes)}: the same command deletes that")


def download(model: str) -> Path:
    """Bring a model to this machine, with progress, and see that it can be opened."""
    from dgguf import hub
    from dgguf.catalog import find_known, hub_name, path_of
    from dgguf.cli.output import say
    from dgguf.errors import DownloadError, NoAnswerError
    from dgguf.ggufio.file import GgufFile
    from dgguf.units import format_bytes

    known = find_known(model)
    if known and known.repository == "bundled":
        path = path_of(known)
        assert path is not None
        return path
    repository, wanted = hub_name(model)
    try:
        files = hub.choose(repository, wanted, say, tower=known.tower if known else "")
    except NoAnswerError as error:
        here = hub.cached_like(repository, wanted)
        if here is not None:
            return _seen_to(here, error)
        size = f"{format_bytes(known.n_bytes)} to download: " if known else ""
        begun = hub.begun_bytes(repository)
        kept = f"{format_bytes(begun)} are here and kept" if begun else "nothing was begun"
        raise DownloadError(f"{size}{error}; {kept}") from error
    beside = f" with {files[-1].name}" if hub.is_tower(files[-1].name) and len(files) > 1 else ""
    say(f"{repository}: {files[0].name}{beside}, {format_bytes(sum(file.n_bytes for file in files))}")
    path = hub.download(files, say, _shown)
    GgufFile(path).close()
    return path


def _shown(name: str, n_bytes: int, here: int) -> "AbstractContextManager[Progress]":
    """Show how far a download is, unless huggingface_hub is told to show no bars."""
    from huggingface_hub.utils import are_progress_bars_disabled

    from dgguf.cli.progress import bar
    from dgguf.hub.transfer import not_shown

    return not_shown(name, n_bytes, here) if are_progress_bars_disabled() else bar(name, n_bytes, here=here)


def _seen_to(path: Path, error: Exception) -> Path:
    """A model that is here, when it is whole; the hub could not be asked."""
    from dgguf import hub
    from dgguf.cli.output import say
    from dgguf.errors import DownloadError, ModelFileError
    from dgguf.ggufio.file import GgufFile

    say(f"{error}; checking what is here")
    try:
        GgufFile(path).close()
        wrong = hub.damage(path)
    except ModelFileError as damaged:
        wrong = str(damaged)
    if wrong:
        raise DownloadError(f"{wrong}; with a network `dgguf pull` mends it") from error
    return path


def offer(model: str) -> None:
    """On a terminal, ask whether to download a model that the hub may have and this machine has not.

    Before, a forecast tells what that takes.
    """
    from dgguf import hub
    from dgguf.catalog import find_known, hub_name, path_of
    from dgguf.errors import NoAnswerError

    if Path(model).exists() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    known, reference = find_known(model), hub.parse_reference(model)
    if known:
        is_here = path_of(known) is not None
    elif reference:
        is_here = hub.cached_like(*reference) is not None
    else:
        return  # whoever opens it says what is wrong
    if is_here:
        return
    files: list[hub.HubFile] = []
    try:
        files = hub.choose(*hub_name(model), tower=known.tower if known else "")
    except NoAnswerError:
        if known is None:
            raise
    from dgguf.cli.forecast import show_forecast
    from dgguf.units import format_bytes

    n_bytes = sum(file.n_bytes for file in files) if files else known.n_bytes if known else 0
    show_forecast(hub_name(model)[0], files, n_bytes)
    if click.confirm(f"{model} is not on this machine: download {format_bytes(n_bytes)}?", err=True):
        download(model)
