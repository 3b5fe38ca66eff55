"""`dgguf list`, `pull` and `rm`: the models known by name, getting them, and getting rid of them."""

import json
import sys
from pathlib import Path

import click

from dgguf.cli.commands import model_argument

# Besides the weights a run needs room for its context and its scratch memory.
_BESIDE_WEIGHTS = 2 * 10**9
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
    from dgguf.machine import system_memory
    from dgguf.view.summary import format_bytes
    from dgguf.view.terminal import safe_json

    _, memory = system_memory()
    rows = []
    for known in known_models():
        path = path_of(known)
        fits = None if memory is None else known.n_bytes + _BESIDE_WEIGHTS <= memory
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
    width = max(len(known.name) for known in known_models())
    click.echo(f"{'name':<{width}}  {'type':<7} {'size':>9}  {'here':<5} {'fits':<5} note")
    for row, known in zip(rows, known_models(), strict=True):
        here, fit = ("yes" if row["path"] else "no"), _FITS[row["fits_memory"]]
        click.echo(
            f"{known.name:<{width}}  {known.type:<7} {format_bytes(known.n_bytes):>9}  "
            f"{here:<5} {fit:<5} {known.note}"
        )


@click.command(short_help="Download a model.")
@model_argument
def pull(model: str) -> None:
    """Download MODEL: a name of `dgguf list`, or hf:owner/repo, with a file or a type after a colon.

    It goes to the cache of the Hugging Face hub. An interrupted download goes on, and a file that is there
    is checked by its digest and mended, if it can be; without a network it is checked alone. The path goes
    to stdout. HF_TOKEN opens repositories that need an account, HF_HOME moves the cache.

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

    Other files of the same version of its repository go with it; they are named before. The demo comes with
    dgguf, and a path is a file of your own: neither is deleted.

    \b
    Examples:
      dgguf rm diffusiongemma
      dgguf rm hf:unsloth/diffusiongemma-26B-A4B-it-GGUF:Q6_K
    """
    from dgguf import hub
    from dgguf.catalog import hub_name
    from dgguf.cli.output import say
    from dgguf.errors import ModelFileError
    from dgguf.view.summary import count, format_bytes

    if Path(model).exists():
        raise click.UsageError(f"{model} is a file of your own: delete it yourself")
    repository, wanted = hub_name(model)
    found = hub.removal(repository, wanted)
    if found is None:
        raise ModelFileError(f"{model} is not on this machine")
    say(f"{repository} in the hub's cache: {', '.join(found.names)}, {format_bytes(found.n_bytes)}")
    question = f"Delete {count(len(found.names), 'file')}? Other programs may use them, too."
    if not yes and not click.confirm(question, err=True):
        raise click.Abort
    found.delete()
    say(f"{format_bytes(found.n_bytes)} are free again")


def download(model: str) -> Path:
    """Bring a model to this machine, with progress, and see that it can be opened."""
    from dgguf import hub
    from dgguf.catalog import find_known, hub_name, path_of
    from dgguf.cli.output import say
    from dgguf.errors import DownloadError, NoAnswerError
    from dgguf.ggufio.file import GgufFile
    from dgguf.view.summary import format_bytes

    known = find_known(model)
    if known and known.repository == "bundled":
        path = path_of(known)
        assert path is not None
        return path
    repository, wanted = hub_name(model)
    try:
        files = hub.choose(repository, wanted, say)
    except NoAnswerError as error:
        here = hub.cached_like(repository, wanted)
        if here is not None:
            return _seen_to(here, error)
        size = f"{format_bytes(known.n_bytes)} to download: " if known else ""
        begun = hub.begun_bytes(repository)
        kept = f"{format_bytes(begun)} are here and kept" if begun else "nothing was begun"
        raise DownloadError(f"{size}{error}; {kept}") from error
    say(f"{repository}: {files[0].name}, {format_bytes(sum(file.n_bytes for file in files))}")
    path = hub.download(files, say)
    GgufFile(path).close()
    return path


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
    """On a terminal, ask whether to download a model that the hub may have and this machine has not."""
    from dgguf import hub
    from dgguf.catalog import find_known, path_of
    from dgguf.view.summary import format_bytes

    if Path(model).exists() or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    known, reference = find_known(model), hub.parse_reference(model)
    if known and path_of(known) is None:
        n_bytes = known.n_bytes
    elif known is None and reference and hub.cached_like(*reference) is None:
        n_bytes = sum(file.n_bytes for file in hub.choose(*reference))
    else:
        return
    if click.confirm(f"{model} is not on this machine: download {format_bytes(n_bytes)}?", err=True):
        download(model)
