"""`dgguf check`: whether a model file is whole, and whether the model answers as it should."""

import json
from typing import TYPE_CHECKING, Any

import click

from dgguf.cli.commands import model_argument
from dgguf.cli.options import gpu_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dgguf.cli.tables import Part
    from dgguf.ggufio.file import GgufFile
    from dgguf.hub import HubFile
    from dgguf.loading import Gpu
    from dgguf.verify.whole_file import WholeFile


@click.command(short_help="Read a file from end to end and compare digests.")
@model_argument
@click.option(
    "--against",
    metavar="REFERENCE",
    help="Compare with the hub's size and digest of this model: a name of `dgguf list` or "
    "hf:owner/repo:file. Nothing is downloaded.",
)
@click.option(
    "--acceptance",
    is_flag=True,
    help="Then ask the model what is known, for 20 minutes at most, and print one JSON object for a report.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@gpu_options
@click.pass_context
def check(
    click_context: click.Context,
    model: str,
    gpu: "Gpu | None",
    against: str | None,
    acceptance: bool,
    as_json: bool,
) -> None:
    """Read all of MODEL once: every scale finite, every tensor where it should be, and its digest.

    What is wrong is named, with its place in the file, and the exit code is 1. With --acceptance it is 0
    only if all passed: known token ids, the chat template, ten prompts, canvases that settle.

    \b
    Examples:
      dgguf check demo
      dgguf check model-00001-of-00002.gguf --json
      dgguf check diffusiongemma --against diffusiongemma
      dgguf check model.gguf --against hf:unsloth/diffusiongemma-26B-A4B-it-GGUF:Q4_K_M
      dgguf check model.gguf --acceptance > report.json
    """
    from dgguf import hub
    from dgguf.catalog import hub_name
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.output import say
    from dgguf.errors import ModelFileError

    published = hub.choose(*hub_name(against), say) if against else None
    with announce_compilation():
        if acceptance:
            if not accept(model, published, gpu):
                click_context.exit(1)
            return
        report = examine(model, published)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        from dgguf.cli.tables import echo

        echo(*parts(report))
    if problems := report["problems"]:
        more = f" ({len(problems) - 1} more: --json lists them)" if len(problems) > 1 else ""
        raise ModelFileError(problems[0] + more)


def accept(model: str, published: "list[HubFile] | None", gpu: "Gpu | None") -> bool:
    """Check a file and what the model answers, and print the report; whether all passed."""
    import contextlib
    import time

    from dgguf.cli.output import NOTE, say
    from dgguf.cli.tables import Facts, echo
    from dgguf.errors import BackendError, DggufError
    from dgguf.session import Session
    from dgguf.verify import acceptance

    began = time.monotonic()
    budget = acceptance.Budget.begin()
    with contextlib.ExitStack() as stack:
        session: Session | None = None
        try:  # before the file is read, which takes long: the machine may lack something
            session = stack.enter_context(Session(model, gpu=gpu))
        except BackendError:
            raise
        except DggufError:
            pass  # `examine` says why
        file = examine(model, published)
        status = acceptance.FAIL if file["problems"] else acceptance.PASS
        report: dict[str, Any] = {"checks": {"file": {"status": status, "faults": file["problems"]}}}
        if session:
            asked = acceptance.accept(session, budget, say)
            report = asked | {"checks": report["checks"] | asked["checks"]}
    # As the first keys, where a reader looks.
    ok = session is not None and acceptance.passed(report["checks"])
    report = {"ok": ok, "seconds": time.monotonic() - began, **report, "file": file}
    echo(Facts([*acceptance.summary(report)], indent=0, style=NOTE), err=True)
    say("accepted" if ok else "not accepted")
    click.echo(json.dumps(report, indent=2))
    if report.get("interrupted"):
        raise KeyboardInterrupt
    return ok


def examine(model: str, published: "list[HubFile] | None") -> dict[str, Any]:
    """What `check` finds, as JSON types; sizes in bytes.

    Args:
        published: what the hub has under the name to compare with; None for nothing to compare.
    """
    from dgguf.catalog import find_model
    from dgguf.cli.output import say
    from dgguf.cli.show import count_types
    from dgguf.ggufio.file import GgufFile
    from dgguf.verify.faults import differences, loading_fault

    with GgufFile(find_model(model)) as file:
        types = count_types(file)
        fault = loading_fault(file.path)
        if fault:
            say(f"{fault}; reading on")
        whole = _read(file)
    problems = [fault] if fault else []
    problems += [f"{bad}; the file is damaged, download or convert it again" for bad in whole.bad]
    different = None if published is None else differences(whole, published)
    return {
        "model": str(file.path),
        "files": [
            {"path": str(read.path), "bytes": read.n_bytes, "sha256": read.sha256, "behind": read.behind}
            for read in whole.files
        ],
        "bytes": whole.n_bytes,
        "types": types,
        "bad_tensors": [
            {
                "tensor": bad.name,
                "type": bad.type,
                "path": str(bad.path),
                "blocks": bad.n_blocks,
                "row": bad.row,
                "column": bad.column,
                "offset": bad.offset,
            }
            for bad in whole.bad
        ],
        "loads": not fault,
        "hub": published and [f"{of_hub.repository}:{of_hub.name}" for of_hub in published],
        "same_as_hub": None if different is None else not different,
        "seconds": whole.seconds,
        "bytes_per_second": whole.bytes_per_second,
        "problems": problems + (different or []),
    }


def _read(file: "GgufFile") -> "WholeFile":
    """Read it all, with a bar: how much, how fast, how long it will take."""
    from dgguf.cli.progress import bar
    from dgguf.verify.whole_file import read_whole

    with bar(f"reading {file.path.name}", file.n_bytes) as shown:
        return read_whole(file, shown.advance)


def parts(report: dict[str, Any]) -> "Iterator[Part]":
    """The report for a reader."""
    from dgguf.cli.tables import Facts
    from dgguf.units import count, format_bytes

    facts: list[tuple[str, str]] = []
    for file in report["files"]:
        if facts:
            yield Facts(facts)
        yield file["path"]
        behind = f", {file['behind']} of them behind the last tensor" if file["behind"] else ""
        facts = [("sha256", file["sha256"]), ("size", f"{file['bytes']} bytes{behind}")]
    types, bad = report["types"], report["bad_tensors"]
    number = count(sum(row["tensors"] for row in types.values()), "tensor")
    same = "the same" if report["same_as_hub"] else "not the same"
    speed = format_bytes(int(report["bytes_per_second"]))
    facts += [
        ("tensors", f"{number}: " + ", ".join(f"{row['tensors']} {n}" for n, row in types.items())),
        ("numbers", f"not finite in {count(len(bad), 'tensor')}" if bad else "all finite"),
        ("loads", "yes" if report["loads"] else "no"),
        *([("hub", f"{same}: {report['hub'][0]}")] if report["hub"] else []),
        ("read", f"{format_bytes(report['bytes'])} in {report['seconds']:.1f} s, {speed}/s"),
    ]
    yield Facts(facts)
