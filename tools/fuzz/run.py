"""Feed changed files to dgguf's readers and report what became of them.

python tools/fuzz/run.py --cases 1000000 --seed 1 [--only NAME] [--findings DIR]

Every input works or is refused by a DggufError of one visible line below 500 characters, within two seconds
of CPU and twice the file's memory plus 200 MB; a picture may take besides what its pixels do. Whatever else
happens is a finding: it is kept with its files, smaller if possible, in the folder of findings. A case is
named by the seed and its number, so `--case N` runs one again. Linux and macOS, memory limits on Linux alone.
"""

import argparse
import collections
import contextlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from dgguf.images import MOST_PIXELS
from tools.fuzz import mutate, targets
from tools.fuzz.corpus import corpus

SECONDS = 2.0  # of CPU, that a case may take
_HARD_SECONDS = 20  # after which it is stopped
MEMORY = 200 << 20  # bytes beside twice the files
PICTURE = 8 * MOST_PIXELS  # and for pixels, as few bytes may say that they are very many: Pillow's and ours
# How often a seed is taken, where not once: headers of models have the most fields.
_WEIGHTS = {"model": 6, "model with other names": 3, "model in floats": 2, "split model": 3, "vocabulary": 3,
            "imatrix": 2, "checkpoint": 0.5, "sharded checkpoint": 0.25, "recording": 0.3,
            "compressed recording": 0.2, "template": 0.1, "published template": 0.02,
            "text with holes": 0.3, "edited text": 0.3, "schema": 0.2, "expressions": 0.2}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A case that did what it must not.

    Attributes:
        number: of the case.
        seed: its name in the corpus.
        what: happened, in a line that is equal for equal faults.
        detail: the traceback.
        files: that did it.
    """

    number: int
    seed: str
    what: str
    detail: str
    files: Mapping[str, bytes]


class Fuzzer:
    """Makes cases and runs them.

    Args:
        seed: of all cases.
        folder: where the files are put.
        only: the seeds of the corpus to take; all where empty.
    """

    def __init__(self, seed: int, folder: Path, only: tuple[str, ...] = ()) -> None:
        self._seed = seed
        self._folder = folder
        self._corpus = {name: s for name, s in corpus().items() if not only or name in only}
        self._names = list(self._corpus)
        self._weights = [_WEIGHTS.get(name, 1) if not only else 1 for name in self._names]
        self._trees = {
            name: {file: mutate.parsed(file, content) for file, content in s.files.items()}
            for name, s in self._corpus.items()
        }
        self._on_disk: dict[str, dict[str, bytes]] = {}

    def case(self, number: int) -> tuple[str, dict[str, bytes]]:
        """The seed's name and the changed files of a case."""
        rng = random.Random(f"{self._seed}/{number}")
        name = rng.choices(self._names, self._weights)[0]
        return name, mutate.mutated(rng, self._corpus[name].files, self._trees[name])

    def run(
        self, name: str, files: Mapping[str, bytes], *, thorough: bool = True
    ) -> list[tuple[str, str, str]]:
        """The refusals of a case.

        Args:
            thorough: run the slow stages, too.

        Raises:
            Exception: of any kind, for a finding.
        """
        seed = self._corpus[name]
        stages = targets.Stages(thorough=thorough)
        n_bytes = MEMORY + 3 * sum(map(len, files.values()))  # the file is mapped besides
        if seed.kind in ("image", "video"):
            n_bytes += PICTURE
        with self._placed(name, files) as folder, _limits(n_bytes), warnings.catch_warnings():
            warnings.simplefilter("error")
            began = time.process_time()
            targets.TARGETS[seed.kind](folder / seed.main, stages)
            seconds = time.process_time() - began
        if seconds > SECONDS:
            raise targets.Fault(f"it took {seconds:.1f} s of CPU")
        return stages.refusals

    def sound(self) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
        """Run the corpus itself, unchanged."""
        for name, seed in self._corpus.items():
            yield name, self.run(name, seed.files)

    @contextlib.contextmanager
    def _placed(self, name: str, files: Mapping[str, bytes]) -> Iterator[Path]:
        """A folder with these files; those of the last case that are the same stay."""
        folder = self._folder / name.replace(" ", "-")
        there = self._on_disk.setdefault(name, {})
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            if there.get(file) is not content:
                # A new file each time, as maps of the old one may live on; zeros at its end are a hole.
                part = folder / f"{file}.new"
                with part.open("wb") as out:
                    out.write(content.rstrip(b"\0"))
                    out.truncate(len(content))
                part.replace(folder / file)
                there[file] = content
        yield folder

    def minimized(self, name: str, files: Mapping[str, bytes], what: str) -> dict[str, bytes]:
        """Files that do the same, with less changed and less in them where that is quickly found."""
        best = dict(files)
        for file, original in self._corpus[name].files.items():
            if best[file] != original and self._does(name, best | {file: original}, what):
                best[file] = original
        for file in best:
            size = len(best[file]) // 2
            began = time.monotonic()
            while size and time.monotonic() - began < 20:
                at, shorter = 0, False
                while at < len(best[file]) and time.monotonic() - began < 20:
                    tried = best[file][:at] + best[file][at + size :]
                    if self._does(name, best | {file: tried}, what):
                        best[file], shorter = tried, True
                    else:
                        at += size
                size = size if shorter and size > 64 else size // 2
        return best

    def _does(self, name: str, files: Mapping[str, bytes], what: str) -> bool:
        try:
            self.run(name, files)
        except Exception as error:
            return describe(error) == what
        return False


def describe(error: BaseException) -> str:
    """A fault in a line: what was raised, and where in dgguf."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/dgguf/" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
    text = str(error).split(":")[0] if isinstance(error, targets.Fault) else ""
    return f"{type(error).__name__} {text} in {where}"


@contextlib.contextmanager
def _limits(n_bytes: int) -> Iterator[None]:
    """Stop what takes too long or more memory than so many bytes."""

    def stop(number: int, frame: Any) -> None:
        raise targets.Fault(f"stopped after {_HARD_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 10 * _HARD_SECONDS)
    virtual = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _HARD_SECONDS)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if sys.platform == "linux":
            most = _mapped_bytes() + n_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most, limit[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGVTALRM, virtual)


def _mapped_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def fuzz(
    fuzzer: Fuzzer, numbers: range, progress: float = 0.0
) -> tuple[collections.Counter[tuple[str, str]], list[Finding]]:
    """Run cases, up to Ctrl-C: how often each outcome came for each seed, and the first finding of each kind.

    Args:
        progress: seconds between lines to stderr; 0 for none.
    """
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    findings: dict[tuple[str, str], Finding] = {}
    began = said = time.monotonic()
    for number in numbers:
        try:
            name, files = fuzzer.case(number)
            outcome = _outcome(fuzzer, number, name, files, findings)
        except KeyboardInterrupt:
            break
        outcomes[name, outcome] += 1
        if progress and time.monotonic() - said > progress:
            said = time.monotonic()
            done = number - numbers.start + 1
            line = f"{done:,} cases, {done / (said - began):.0f}/s, {len(findings)} findings"
            print(line, file=sys.stderr, flush=True)
    return outcomes, list(findings.values())


def _outcome(
    fuzzer: Fuzzer,
    number: int,
    name: str,
    files: Mapping[str, bytes],
    findings: dict[tuple[str, str], Finding],
) -> str:
    """What became of a case, in a few words; the first finding of each kind is added."""
    try:
        refusals = fuzzer.run(name, files, thorough=number % 4 == 0)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = describe(error)
        if (name, what) not in findings:
            findings[name, what] = Finding(number, name, what, traceback.format_exc(), files)
        return "FINDING"
    return f"{refusals[0][1]} at {refusals[0][0]}" if refusals else "works"


def table(outcomes: Mapping[tuple[str, str], int]) -> str:
    """The outcomes, as lines of Markdown."""
    lines = ["| input | outcome | cases |", "|---|---|---|"]
    lines += [f"| {name} | {outcome} | {n:,} |" for (name, outcome), n in sorted(outcomes.items())]
    total = collections.Counter[str]()
    for (_, outcome), n in outcomes.items():
        total["works" if outcome == "works" else "FINDING" if outcome == "FINDING" else "refused"] += n
    lines += [f"| all | {outcome} | {n:,} |" for outcome, n in total.items()]
    return "\n".join(lines)


def keep(finding: Finding, folder: Path, fuzzer: Fuzzer) -> Path:
    """Put a finding into a folder of its own, as small as it gets."""
    here = folder / f"{finding.seed.replace(' ', '-')}-{finding.number}"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    for name, content in fuzzer.minimized(finding.seed, finding.files, finding.what).items():
        (here / name).write_bytes(content)
    (here / "finding.txt").write_text(f"{finding.what}\n{finding.detail}", encoding="utf-8", errors="replace")
    return here


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed changed files to dgguf's readers.")
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="how many (default: 10000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first (default: 0)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all cases (default: 1)")
    parser.add_argument("--case", type=int, metavar="N", help="run this one alone and show what it does")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a seed of the corpus; repeatable"
    )
    parser.add_argument(
        "--findings", type=Path, default=Path("findings"), metavar="DIR", help="where they are kept"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="dgguf-fuzz-", dir=memory if memory.is_dir() else None) as folder:
        fuzzer = Fuzzer(options.seed, Path(folder), tuple(options.only))
        if options.case is not None:
            name, files = fuzzer.case(options.case)
            print(f"{name}: {fuzzer.run(name, files)}")
            return
        for name, refusals in fuzzer.sound():
            print(f"{name}: {refusals or 'works'}", file=sys.stderr)
        began = time.monotonic()
        outcomes, findings = fuzz(fuzzer, range(options.first, options.first + options.cases), progress=30.0)
        seconds = time.monotonic() - began
        print(table(outcomes))
        done = sum(outcomes.values())
        print(f"\n{done:,} cases from {options.first} of seed {options.seed} in {seconds:.0f} s")
        for finding in findings:
            kept = keep(finding, options.findings, fuzzer)
            print(f"case {finding.number}, {finding.seed}: {finding.what}: {kept}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
