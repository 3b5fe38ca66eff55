"""`dgguf quantize`: make a GGUF file from a transformers checkpoint or from another GGUF."""

import glob
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from dgguf.cli.values import ParamType

if TYPE_CHECKING:
    from collections.abc import Generator

    from dgguf.cli.tables import Part
    from dgguf.convert import ConversionEvent, ConversionFinished, ConversionPlan, TensorWritten

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("Q4_K_S", "Q4_K_M", "Q4_K_DG", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4_MOE"),
)
MMPROJ_TYPES = ("BF16", "F16", "Q8_0", "F32")


class RecipeName(ParamType):
    """A name of `TYPES`, in letters of either size; shown as they are written, unlike click's choices."""

    name = "type"
    choices = TYPES

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> str:
        if str(value).upper() not in TYPES:
            self.fail(f"{value!r} is none of {', '.join(TYPES)}", param, context)
        return str(value).upper()

    def shell_complete(
        self, context: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in TYPES if name.startswith(incomplete.upper())]


class Size(ParamType):
    """A number of bytes such as 4G or 500M, in powers of ten."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG])B?", str(value), re.IGNORECASE)
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no size; write it as in 4G or 500M", param, context)
        return int(float(found[1]) * {"K": 1e3, "M": 1e6, "G": 1e9}[found[2].upper()])


class TensorType(ParamType):
    """REGEX=TYPE."""

    name = "regex=type"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str, str]:
        pattern, equals, type_name = str(value).rpartition("=")
        if not equals or not pattern:
            self.fail(f"{value!r} should be REGEX=TYPE, as in 'attn_v=Q8_0'", param, context)
        return pattern, type_name


@click.command(short_help="Make a smaller file, from a checkpoint or a GGUF.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option(
    "--type",
    "type_name",
    type=RecipeName(),
    envvar="DGGUF_QUANTIZE_TYPE",
    help=f"The recipe, which type each matrix gets: {' '.join(TYPES)}. "
    "Q4_K_DG is dgguf's own, as large as Q4_K_M and closer.",
)
@click.option(
    "--tensor-type",
    "tensor_types",
    type=TensorType(),
    multiple=True,
    help="Another type for matrices in whose name the regular expression is found. May be repeated.",
)
@click.option("--output-type", metavar="TYPE", help="Type of the matrix that makes the logits.")
@click.option(
    "--imatrix",
    "imatrix_path",
    type=click.Path(path_type=Path),
    help="An importance matrix of llama.cpp's or dgguf's: which columns need care.",
)
@click.option(
    "--mmproj",
    type=click.Path(path_type=Path),
    help="Write the checkpoint's vision tower to this file, beside OUT or alone.",
)
@click.option(
    "--mmproj-type",
    type=click.Choice(MMPROJ_TYPES, case_sensitive=False),
    help="Type of the tower's matrices.  [default: BF16]",
)
@click.option("--split-size", type=Size(), help="Split into files of at most this size, such as 4G.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and stop.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Measure what each tensor lost: a table in this file, or JSON if its name ends in .json.",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@click.option("--resume", is_flag=True, help="Go on with OUT.partial, from a run that was cut off.")
def quantize(
    source: Path,
    out: Path | None,
    type_name: str | None,
    tensor_types: tuple[tuple[str, str], ...],
    output_type: str | None,
    imatrix_path: Path | None,
    mmproj: Path | None,
    mmproj_type: str | None,
    split_size: int | None,
    dry_run: bool,
    report: Path | None,
    force: bool,
    resume: bool,
) -> None:
    """Convert SOURCE, a transformers checkpoint directory, a GGUF file or a known name, to a GGUF file OUT.

    Norms, scales and the router stay F32. Rows that are no multiple of 256, as in the down projections,
    get a type of 32-weight blocks. --mmproj writes the vision tower, which reads images, to its own file.

    \b
    Examples:
      dgguf quantize ./diffusiongemma-26B-A4B-it model-q4_k_m.gguf --type Q4_K_M
      dgguf quantize ./diffusiongemma-26B-A4B-it --mmproj mmproj-BF16.gguf
      dgguf quantize model-bf16.gguf small.gguf --type IQ4_XS --imatrix imatrix.gguf
      dgguf quantize ./checkpoint out.gguf --type Q4_K_DG --tensor-type 'attn_.*=Q8_0' --dry-run
      dgguf quantize model-bf16.gguf out.gguf --type Q4_K_M --resume --report errors.json
    """
    from dgguf.compiling.crew import call_early

    _check_outputs(out, type_name, mmproj, report, force)
    if not dry_run:
        call_early()
    from dgguf import catalog, convert
    from dgguf.cli.tables import echo
    from dgguf.hub import parse_reference

    if not source.exists() and (catalog.find_known(str(source)) or parse_reference(str(source))):
        source = catalog.find_model(str(source))
    jobs: list[tuple[ConversionPlan, Path]] = []
    if out is not None:
        plan = convert.plan(
            source,
            str(type_name),
            tensor_types=tensor_types,
            output_type=output_type,
            imatrix=convert.read_imatrix(imatrix_path) if imatrix_path else None,
            split_bytes=split_size,
        )
        jobs.append((plan, out))
    if mmproj is not None:
        jobs.append((convert.plan_vision(source, mmproj_type or MMPROJ_TYPES[0]), mmproj))
    for plan, _ in jobs:
        _say_plan(plan)
        if dry_run:
            echo(plan_table(plan))
    if dry_run:
        return
    _convert(jobs, report, force=force, resume=resume)


def _convert(
    jobs: "list[tuple[ConversionPlan, Path]]", report: Path | None, *, force: bool, resume: bool
) -> None:
    """Carry out plans, one after the other, and write the report on what was lost."""
    from dgguf import convert
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.output import say
    from dgguf.units import format_bytes

    convert.check_outputs(jobs, force=force)
    done = []
    for plan, target in jobs:
        events = convert.run(plan, target, force, resume=resume, measure=report is not None)
        with announce_compilation():
            written, finished = _watch(events, plan, target)
        done.append((plan, written))
        say(f"{finished.path}: {format_bytes(finished.n_bytes)} in {finished.seconds:.1f} s")
    if report is not None:
        write_report(report, done)


def _check_outputs(
    out: Path | None, type_name: str | None, mmproj: Path | None, report: Path | None, force: bool
) -> None:
    """See that it is known what to write, before anything is read."""
    if out is None and mmproj is None:
        raise click.UsageError(
            "Missing argument 'OUT', the file to write; or --mmproj FILE for the tower alone"
        )
    if out is not None and type_name is None:
        raise click.UsageError("Missing option '--type' for OUT; choose one of " + ", ".join(TYPES))
    if out is not None and mmproj is not None and out.absolute() == mmproj.absolute():
        raise click.UsageError(f"OUT and --mmproj are one file, {out}: name two")
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise click.UsageError(f"--report {report}: there is no folder to write that file in")
    if report is not None and report.exists() and not force:
        raise click.UsageError(f"--report {report} exists: choose another name, or use --force")


def _say_plan(plan: "ConversionPlan") -> None:
    from dgguf.cli.output import note, say
    from dgguf.units import format_bytes, format_count

    for line in plan.notes:
        note(line)
    bits = 8 * plan.n_bytes / plan.n_weights
    say(
        f"{len(plan.tensors)} tensors, {format_count(plan.n_weights)} weights → "
        f"{format_bytes(plan.n_bytes)}, {bits:.2f} bits per weight"
    )


def _watch(
    events: "Generator[ConversionEvent, None, None]", plan: "ConversionPlan", out: Path
) -> "tuple[list[TensorWritten], ConversionFinished]":
    """Show how far a conversion is, until it ends."""
    from dgguf.cli.output import say
    from dgguf.cli.progress import bar
    from dgguf.convert import ConversionFinished, RowsWritten, TensorWritten
    from dgguf.units import format_count

    total = sum(tensor.n_weights for tensor in plan.tensors)
    written: list[TensorWritten] = []
    there = 0  # weights in whole tensors
    event = next(events)  # looks at OUT and compiles before there is a bar to disturb
    with bar(f"writing {out.name}", total, amount=lambda n: f"{format_count(n)} weights") as shown:
        try:
            while not isinstance(event, ConversionFinished):
                if isinstance(event, RowsWritten):
                    shown.advance(there + event.n_weights - shown.done)
                elif isinstance(event, TensorWritten):
                    written.append(event)
                    there += plan.tensors[event.index].n_weights
                    shown.advance(there - shown.done, skipped=event.resumed)
                event = next(events)
        except (KeyboardInterrupt, SystemExit):
            events.close()
            kept = any(out.parent.glob(f"{glob.escape(out.stem)}*.partial"))
            say("interrupted" + ": --resume goes on from what is done" * kept)
            raise
    return written, event


def plan_table(plan: "ConversionPlan") -> "Part":
    """What would be written."""
    from dgguf.cli.tables import Column, Rows
    from dgguf.units import count

    def bits(n_bytes: int, n_weights: int) -> str:
        return f"{8 * n_bytes / n_weights:.2f}"

    shape, n_bytes, weight = (Column(name, right=True) for name in ("shape", "bytes", "bits/weight"))
    cells = [
        (
            *(t.name, "x".join(map(str, t.shape)), t.from_types, t.format.name),
            *(str(t.n_bytes), bits(t.n_bytes, t.n_weights)),
        )
        for t in plan.tensors
    ]
    files = f"{count(len(plan.files), 'file')} with headers"
    cells.append(("total", files, "", "", str(plan.n_bytes), bits(plan.n_bytes, plan.n_weights)))
    return Rows((Column("tensor"), shape, Column("from"), Column("to"), n_bytes, weight), cells)


def write_report(path: Path, done: "list[tuple[ConversionPlan, list[TensorWritten]]]") -> None:
    """What each tensor of some files lost, worst first in the table, in file order in the JSON."""
    from dgguf.cli.tables import Column, Rows, drawn
    from dgguf.whole_file import whole_file

    rows = [
        {
            "tensor": event.name,
            "from": plan.tensors[event.index].from_types,
            "to": plan.tensors[event.index].format.name,
            "bytes": event.n_bytes,
            "relative_error": event.error.relative,
            "worst_block_error": event.error.worst_relative,
            "worst_block_row": event.error.worst_row,
            "worst_block_column": event.error.worst_column,
        }
        for plan, written in done
        for event in written
        if event.error is not None
    ]
    unmeasured = sum(len(written) for _, written in done) - len(rows)  # an earlier run had written them
    if path.suffix == ".json":
        result = {
            "source": str(done[0][0].source),
            "type": done[0][0].type_name,
            "unmeasured": unmeasured,
            "tensors": rows,
        }
        text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
    else:
        numbers = (Column(name, right=True) for name in ("error", "worst block", "at row, column"))
        cells = [
            (
                *(str(row[key]) for key in ("tensor", "from", "to")),
                *(f"{row[key]:.6f}" for key in ("relative_error", "worst_block_error")),
                f"{row['worst_block_row']}, {row['worst_block_column']}",
            )
            for row in sorted(rows, key=lambda row: -float(str(row["relative_error"])))
        ]
        parts: list[Part] = ["root mean square errors over the tensor's root mean square"]
        parts.append(Rows((Column("tensor"), Column("from"), Column("to"), *numbers), cells))
        if unmeasured:
            parts.append(f"without {unmeasured} tensors that an earlier run, now resumed, had written")
        text = drawn(parts)
    with whole_file(path) as part:
        part.write_text(text, "utf-8")
