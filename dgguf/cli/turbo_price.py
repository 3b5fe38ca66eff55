"""What `dgguf compare --turbo` shows: what turbo costs and saves on a model."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dgguf.cli.tables import Part
    from dgguf.diffusion.turbo import Turbo
    from dgguf.evaluate.turbo_price import Pair

_COSTS = ("steps", "rows", "seconds")
_MOST_SHOWN = 48  # characters of a prompt


def show_price(
    model: str,
    turbo: "Turbo",
    texts: Sequence[Path],
    *,
    special: bool,
    limit: int,
    threads: int | None,
    exact: bool,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Ask the model the prompts in the texts, `limit` at most, without turbo and with it."""
    from dgguf.cli.compilation import announce_compilation
    from dgguf.cli.output import say
    from dgguf.cli.progress import bar
    from dgguf.cli.tables import echo
    from dgguf.evaluate.noised_chunks import read_text
    from dgguf.evaluate.turbo_price import TurboPrice, read_prompts
    from dgguf.session import Session
    from dgguf.units import count
    from dgguf.view.terminal import safe_json

    prompts = read_prompts([read_text(path) for path in texts], limit)
    pairs: list[Pair] = []
    with announce_compilation(), Session(model, threads=threads, exact=exact) as session:
        ids = [session.encode(prompt, special=special) for prompt in prompts]
        say(f"{count(len(ids), 'prompt')}, answered without turbo and with it, with the same seeds")
        with bar("comparing", len(ids), amount=str, is_rate=False) as shown:
            for pair in TurboPrice(session, turbo, max_tokens).pairs(ids):
                pairs.append(pair)
                shown.advance(1)
        path = str(session.file.path)
    found = price(prompts, pairs)
    if as_json:
        result = {"model": path, "turbo": dataclasses.asdict(turbo), **found}
        click.echo(safe_json(json.dumps(result, ensure_ascii=False, indent=2)))
    else:
        echo(*parts(found))


def price(prompts: Sequence[str], pairs: "Sequence[Pair]") -> dict[str, Any]:
    """JSON types: what each answer cost as (without, with turbo), all of them, and the divergence."""
    from dgguf.evaluate.divergence import summary

    rows: list[dict[str, Any]] = []
    for seed, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        kinds = (pair.without, pair.with_turbo)
        rows.append(
            {
                "prompt": prompt,
                "seed": seed,
                "same": pair.same,
                "steps": [sum(kind.steps) for kind in kinds],
                "rows": [kind.rows - kind.frozen_rows for kind in kinds],
                "seconds": [kind.step_seconds for kind in kinds],
            }
        )
    costs = {cost: [sum(row[cost][i] for row in rows) for i in range(2)] for cost in _COSTS}
    same = sum(row["same"] for row in rows)
    of_all = {"answers": len(rows), "same": same, **costs}
    return {"prompts": rows, "all": of_all, "divergence": summary([pair.divergence for pair in pairs])}


def parts(found: dict[str, Any]) -> "Iterator[Part]":
    """The result for a reader."""
    from dgguf.cli.compare import table
    from dgguf.cli.tables import Column, Rows

    cells = [
        (_shortened(row["prompt"]), "same" if row["same"] else "differs", *_shares(row))
        for row in found["prompts"]
    ]
    all_of = found["all"]
    cells.append(("all", f"{all_of['same']} of {all_of['answers']} same", *_shares(all_of)))
    names = ("steps", "positions computed", "time")
    columns = (Column("prompt", folds=True), Column("answer"), *(Column(name, right=True) for name in names))
    yield "without turbo and with it: denoising steps, positions that they computed, seconds that they took"
    yield Rows(columns, cells)
    yield ""
    yield "divergence with turbo from without, in nats, of the last steps"
    yield table([{"tokens": "of the answers", **found["divergence"]}], "tokens")


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _MOST_SHOWN else prompt[: _MOST_SHOWN - 1] + "…"


def _shares(row: dict[str, Any]) -> Iterator[str]:
    """What was spent without turbo and with it, and the share that is left."""
    for cost in _COSTS:
        without, with_turbo = row[cost]
        form = "{:,.2f}" if cost == "seconds" else "{:,}"
        share = f" ({with_turbo / without:.0%})" if without else ""
        yield f"{form.format(without)} → {form.format(with_turbo)}{share}"
