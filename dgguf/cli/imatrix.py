"""`dgguf imatrix`: collect an importance matrix for `dgguf quantize --imatrix`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dgguf.cli.commands import model_argument
from dgguf.cli.options import evaluation_options, keep_weights_option

if TYPE_CHECKING:
    from dgguf.convert.imatrix import Sums


@click.command(short_help="Collect importances for quantize.")
@model_argument
@evaluation_options(default_chunks=None)
@keep_weights_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write, a GGUF.",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.")
def imatrix(
    model: str,
    texts: tuple[Path, ...],
    special: bool,
    chunks: int | None,
    threads: int | None,
    exact: bool,
    keep_weights: bool,
    out: Path,
    force: bool,
) -> None:
    """Collect how large the inputs of MODEL's matrices are on some texts.

    The texts are cut into chunks of twice the canvas length. The first half of each is encoded as a
    prompt, the second is denoised from all noise to mostly text: both passes need to be seen, as importances
    of the prompt alone make bad files of few bits. Ctrl-C or SIGTERM writes what the chunks so far gave.

    \b
    Examples:
      dgguf imatrix model-bf16.gguf -f texts.txt -o imatrix.gguf
      dgguf imatrix model-bf16.gguf -f chats.txt --special -f prose.txt --chunks 64 -o imatrix.gguf
      dgguf quantize model-bf16.gguf small.gguf --type Q3_K_M --imatrix imatrix.gguf
    """
    from dgguf.backends.cpu import CpuBackend
    from dgguf.cli.output import note, say
    from dgguf.convert.imatrix import write_imatrix
    from dgguf.convert.target import check_name
    from dgguf.evaluate.importance import CollectingBackend, collect
    from dgguf.evaluate.noised_chunks import PASSES, Model, cut, read_text
    from dgguf.units import count

    check_name(out, force)
    contents = [read_text(path) for path in texts]
    backend = CollectingBackend(CpuBackend(threads, exact=exact, keep_weights=keep_weights))
    loaded = Model(model, backend)
    samples = cut(loaded, contents, special=special, limit=chunks)
    say(
        f"{count(len(samples), 'chunk')} of at most {2 * loaded.config.canvas_length} tokens, "
        f"{PASSES} passes each"
    )
    done, stop = _collect(collect(loaded, samples), PASSES * len(samples))
    n_chunks = done // PASSES
    if n_chunks:
        write_imatrix(
            out,
            backend.sums,
            datasets=[path.name for path in texts],
            n_chunks=n_chunks,
            chunk_size=2 * loaded.config.canvas_length,
            force=force,
        )
        say(f"{out}: {len(backend.sums)} matrices from {n_chunks} of {count(len(samples), 'chunk')}")
        for line in _unseen(backend.sums):
            note(line)
    if stop:
        raise stop


def _collect(passes: Iterable[int], n_passes: int) -> tuple[int, BaseException | None]:
    """Go through all passes, with a bar; returns how many were done, and the interrupt that stopped them."""
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.progress import bar

    done = 0
    with (
        announce_compilation(),
        bar("collecting", n_passes, amount=str, is_rate=False) as shown,
    ):
        try:
            for now in passes:
                shown.advance(now - done)
                done = now
        except (KeyboardInterrupt, SystemExit) as stop:
            return done, stop
    return done, None


def _unseen(sums: "Mapping[str, Sums]") -> list[str]:
    """What more text would help, in a sentence or none."""
    stacks = [entry.counts for entry in sums.values() if len(entry.counts) > 1]
    total, unseen = sum(len(counts) for counts in stacks), sum(int((counts == 0).sum()) for counts in stacks)
    if not unseen:
        return []
    return [
        f"{unseen} of {total} experts' matrices were never used on these texts, and all their columns "
        "will matter alike: more and more varied text helps"
    ]
