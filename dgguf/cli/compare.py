"""`dgguf compare`: what sets two models apart, such as a model and its quantization; or what turbo costs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import WithParts
from dgguf.cli.options import evaluation_options, turbo_option

if TYPE_CHECKING:
    from dgguf.cli.tables import Part
    from dgguf.diffusion.turbo import Turbo
    from dgguf.evaluate.divergence import Divergence


@click.command(cls=WithParts, short_help="Show what one model costs in place of another, or turbo.")
@click.argument("first")
@click.argument("second", required=False)
@evaluation_options(default_chunks=8)
@turbo_option(
    "Compare FIRST with itself: each line of the texts is a prompt, answered without turbo and with."
)
@click.option(
    "-n",
    "--max-tokens",
    metavar="N",
    type=click.IntRange(1),
    default=256,
    help="Answer length, rounded up to whole canvases.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare(
    first: str,
    second: str | None,
    texts: tuple[Path, ...],
    special: bool,
    chunks: int,
    threads: int | None,
    exact: bool,
    turbo: "Turbo | None",
    max_tokens: int,
    as_json: bool,
) -> None:
    """Show what it costs to take the model SECOND instead of FIRST, or FIRST with --turbo.

    Both denoise the same canvases, taken from the texts, from all noise to mostly text. At each level of
    noise the divergence (Kullback-Leibler, of SECOND's predictions from FIRST's) is 0 where they predict
    the same, and the agreement is how often both find the same token likeliest.

    Both files are mapped, and needed in turn, once a chunk. With the predictions of a chunk, which are
    held, it takes some 2.5 GB of memory for the 26B beside the files.

    With --turbo the model answers prompts, as many as --chunks says, each with the same seed without turbo
    and with it: how many answers stay the same, token by token; which share of the steps, the positions
    computed and the time they take; and how far what the last step predicts for the answer's tokens is apart.

    \b
    Examples:
      dgguf compare model-q8_0.gguf model-q4_k_m.gguf -f texts.txt
      dgguf compare model-bf16.gguf small.gguf -f chats.txt --special --chunks 2 --json
      dgguf compare model.gguf --turbo -f prompts.txt --chunks 20
      dgguf compare model.gguf --turbo=tail,end -f prompts.txt -n 512 --json
    """
    if turbo is not None:
        from dgguf.cli.turbo_price import show_price

        show_price(
            first, turbo, texts, special=special, limit=chunks, threads=threads, exact=exact,
            max_tokens=max_tokens, as_json=as_json,
        )  # fmt: skip
        return
    if second is None:
        raise click.UsageError("FIRST is compared with a SECOND model, or with itself by --turbo: give one")
    _compare_models(first, second, texts, special, chunks, threads, exact, as_json)


def _compare_models(
    first: str,
    second: str,
    texts: Sequence[Path],
    special: bool,
    chunks: int,
    threads: int | None,
    exact: bool,
    as_json: bool,
) -> None:
    from dgguf.backends.cpu import CpuBackend
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.output import say
    from dgguf.cli.progress import bar
    from dgguf.cli.tables import echo
    from dgguf.evaluate.divergence import LogitsBackend, check_comparable
    from dgguf.evaluate.divergence import compare as compare_models
    from dgguf.evaluate.noised_chunks import PASSES, Model, cut, read_text
    from dgguf.units import count
    from dgguf.view.terminal import safe_json

    contents = [read_text(path) for path in texts]
    cpu = CpuBackend(threads, exact=exact, keep_weights=True)  # or Q8_0's cost would be hidden
    backends = [LogitsBackend(cpu), LogitsBackend(cpu)]
    models = [Model(name, backend) for name, backend in zip((first, second), backends, strict=True)]
    check_comparable(*models)
    samples = cut(models[0], contents, special=special, limit=chunks)
    say(
        f"{count(len(samples), 'chunk')} of at most {2 * models[0].config.canvas_length} tokens, "
        f"{PASSES} passes each through both models"
    )
    found: list[list[Divergence]] = []
    pairs = list(zip(models, backends, strict=True))
    with announce_compilation(), bar("comparing", len(samples), amount=str, is_rate=False) as shown:
        for divergences in compare_models(pairs[0], pairs[1], samples):
            found.append(divergences)
            shown.advance(1)
    rows = _rows(found)
    if as_json:
        files = {"first": str(models[0].file.path), "second": str(models[1].file.path)}
        result = {**files, "chunks": len(found), "noise": rows}
        click.echo(safe_json(json.dumps(result, ensure_ascii=False, indent=2)))
    else:
        echo("divergence in nats", table(rows, "noise"))


def _rows(found: "list[list[Divergence]]") -> list[dict[str, Any]]:
    """A summary for each level of noise, then one for all of them.

    Args:
        found: of each chunk, the divergence at each level.
    """
    from dgguf.evaluate.divergence import summary
    from dgguf.evaluate.noised_chunks import NOISE

    levels = {f"{share:.0%}": [chunk[i] for chunk in found] for i, share in enumerate(NOISE)}
    levels["all"] = [divergence for chunk in found for divergence in chunk]
    return [{"noise": noise, **summary(divergences)} for noise, divergences in levels.items()]


def table(rows: list[dict[str, Any]], of: str) -> "Part":
    """Summaries of divergences for a reader, each named by its entry `of`."""
    from dgguf.cli.tables import Column, Rows

    names = ("mean", "± error", "median", "99 %", "largest", "same argmax", "positions")
    cells = []
    for row in rows:
        numbers = (row[f"kl_{key}"] for key in ("mean", "standard_error", "median", "99", "max"))
        values = (f"{value:.6f}" for value in numbers)
        cells.append((row[of], *values, f"{row['agreement']:.2%}", str(row["positions"])))
    return Rows((Column(of), *(Column(name, right=True) for name in names)), cells)
