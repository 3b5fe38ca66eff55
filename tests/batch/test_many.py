"""Very many rows, with a network that answers at once: neither memory nor the time of a row grows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs a batch of so many rows, which is stopped in its middle and gone on with; prints what it took.
PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from tests.batch.conftest import Batch, Scripted

folder, n = Path(sys.argv[1]), int(sys.argv[2])
with open(folder / "in.jsonl", "w") as file:
    for row in range(n):
        prompt = f"Document {row % 1000}, of some length, which several questions are asked about. {row}?"
        file.write(json.dumps({"custom_id": f"request-{row}", "prompt": prompt}) + chr(10))
batch = Batch(folder)
class Forgetful(Scripted):
    def answers(self, rows, stop):
        for n, pair in enumerate(super().answers(rows, stop)):
            self.seen.clear()
            if n == self.most:
                return
            yield pair
began = time.process_time()
Forgetful.most = n // 2
assert batch.run(folder / "in.jsonl", Forgetful).stopped
Forgetful.most = n
progress = batch.run(folder / "in.jsonl", Forgetful)
assert (progress.n_done, progress.n_before) == (n, n // 2)
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.process_time() - began, "megabytes": kilobytes / 1024}))
"""


def measured(folder, n_rows):
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, str(n_rows)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with (folder / "out.jsonl").open() as file:
        for number, line in enumerate(file):
            assert f'"custom_id":"request-{number}"' in line
            assert number or json.loads(line)["response"]["status_code"] == 200
    assert number == n_rows - 1
    for path in folder.iterdir():
        path.unlink()
    return json.loads(done.stdout)


@pytest.mark.posix
@pytest.mark.parametrize(
    ("few", "many"),
    [
        pytest.param(10_000, 60_000, marks=pytest.mark.slow(15)),
        pytest.param(100_000, 1_000_000, marks=pytest.mark.slow(200)),
    ],
)
def test_memory_and_the_time_of_a_row_stay(tmp_path, few, many):
    small, large = measured(tmp_path / "small", few), measured(tmp_path / "large", many)
    print(small, large)
    assert large["megabytes"] < small["megabytes"] + 12
    assert large["seconds"] / many < 2 * small["seconds"] / few
    assert large["seconds"] / many < 1e-3  # of processor time; the model takes a thousand times as long
