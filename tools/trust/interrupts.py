"""Interrupt commands at random moments, and see that each ends well and leaves everything well.

    python tools/trust/interrupts.py [--moments 200] [--seed 1] [--only NAME]

Every command runs twice undisturbed, which says how long it takes; then SIGINT, SIGTERM or SIGHUP comes at
moments drawn from that time, and in its first 0.3 s, in which Python imports. tests/support/strikes.py says
what is looked at. The last lines are a table: how many moments, how the commands ended, what was not well.
"""

import argparse
import collections
import random
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from tests.support.hub_server import serve
from tests.support.strike_cases import cases, dgguf, make_hub
from tests.support.strikes import SIGNALS, Case, Result, strike
from tests.support.synthetic.writer import TINY, write_model

# Seconds in which moments are drawn, where the command has no end of its own or a long one.
IMPORTS, WAITING, COMPILATION = 0.3, 2.0, 10.0


@dataclass(frozen=True)
class Row:
    """Strikes on one command: how many, within how many seconds, how it ended, how many were not well."""

    name: str
    moments: int
    seconds: float
    ends: dict[str, int]
    faulty: int


def main() -> None:
    """Try all cases, print a table, and end with 1 if anything was not well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="NAME", help="commands whose name contains this")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else children of a background job ignore it
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name, serve(make_hub(100 << 20)) as hub:
        folder = Path(name)
        found = [*cases(folder, hub), compilation(folder)]
        found = [case for case in (*found, replace(found[0], name="imports")) if options.only in case.name]
        rows = []
        for i, case in enumerate(found):
            n = options.moments // len(found) + (i < options.moments % len(found))
            rows.append(try_case(case, folder, rng, n))
        if any(case.name == "compilation" for case in found):
            complete(folder)
    print_table(rows)
    sys.exit(1 if any(row.faulty for row in rows) else 0)


_TINY = ("tiny.gguf", "-p", "Hi", "--seed", "3", "-n", "32", "--max-steps", "2")


def compilation(folder: Path) -> Case:
    """A run whose kernels must be compiled first; interrupted ones share a cache."""
    write_model(folder / _TINY[0], TINY, "Q8_0", seed=3)

    def check(there: Path) -> None:
        assert not [*(folder / "cache").rglob("*.tmp*")]

    command = ("run", str(folder / _TINY[0]), *_TINY[1:])
    return Case("compilation", command, environment={"DGGUF_CACHE_DIR": str(folder / "cache")}, check=check)


def complete(folder: Path) -> None:
    """See that the cache which interrupted runs have left gives the right answer."""
    answer = dgguf(folder, "run", *_TINY, DGGUF_CACHE_DIR=str(folder / "cache"))
    assert answer == dgguf(folder, "run", *_TINY), "the cache that interrupts have left is not well"


def try_case(case: Case, folder: Path, rng: random.Random, n: int) -> Row:
    """Strike a command so many times."""
    endless = case.survives or case.after
    seconds = {"imports": IMPORTS, "compilation": COMPILATION}.get(case.name, WAITING if endless else 0.0)
    faulty = 0
    if not seconds:
        undisturbed = [strike(case, folder, None, 0.0) for _ in range(2)]  # the first may compile
        seconds, faulty = undisturbed[1].seconds, sum(bool(result.faults) for result in undisturbed)
        for fault in [fault for result in undisturbed for fault in result.faults]:
            print(f"{case.name}, undisturbed: {fault}", flush=True)
    ends: dict[str, int] = collections.Counter()
    for _ in range(n):
        number, moment = rng.choice(SIGNALS), rng.uniform(0, seconds)
        result = strike(case, folder, number, moment)
        ends[end(result)] += 1
        faulty += bool(result.faults)
        for fault in result.faults:
            print(f"{case.name}: {signal.Signals(number).name} after {moment:.3f} s: {fault}", flush=True)
    return Row(case.name, n, seconds, ends, faulty)


def end(result: Result) -> str:
    """How a command ended."""
    return (
        "done" if result.code == 0 else f"exit {result.code}" if result.code > 0 else f"signal {-result.code}"
    )


def print_table(rows: list[Row]) -> None:
    """A line for each command, and one for all."""
    print(f"\n{'command':<20} {'moments':>7} {'within':>8}  {'ended by':<50} not well")
    for row in rows:
        how = ", ".join(f"{how} {count}" for how, count in sorted(row.ends.items()))
        print(f"{row.name:<20} {row.moments:>7} {row.seconds:>6.1f} s  {how:<50} {row.faulty}")
    total, faulty = sum(row.moments for row in rows), sum(row.faulty for row in rows)
    print(f"{'all':<20} {total:>7} {'':>8}  {'':<50} {faulty}")


if __name__ == "__main__":
    main()
