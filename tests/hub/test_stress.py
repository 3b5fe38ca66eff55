"""Many pulls from a server with random faults: each ends with the right bytes, or with a sentence."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.hub_server import DEMO, MODEL, Fault, Hub

PULLS = 200
SIZE = len(DEMO)


def random_fault(draw: random.Random) -> Fault | None:
    """Of a download; few are right answers."""
    some = draw.randrange(SIZE)
    return draw.choice(
        [
            Fault(after=0),
            Fault(after=draw.randrange(100_000)),
            Fault(after=some),
            Fault(after=some, stall=0.8),
            Fault(stall=0.8),
            Fault(ignores_range=True),
            Fault(ignores_range=True, after=some),
            Fault(sends_other_range=draw.choice([-1000, -1, 1, 1000])),
            Fault(length=some),
            Fault(length=SIZE + some),
            Fault(flips=some, after=draw.choice([None, some])),
            Fault(status=draw.choice([200, 204, 206, 301, 302, 304, 400, 408, 416, 418, 500, 502, 503, 504])),
            Fault(status=429, headers={"Retry-After": draw.choice(["0", "x", "-1", "9999"])}),
            Fault(status=302, headers={"Location": draw.choice(["/", "//", "http://[", "?"])}),
            Fault(status=206, headers={"Content-Range": draw.choice(["", "bytes 0-1/2"])}, body=b"ab"),
            Fault(status=200, headers={"Content-Encoding": draw.choice(["gzip", "br"])}, body=bytes(99)),
            None,
        ]
    )  # fmt: skip


def random_listing_fault(draw: random.Random) -> Fault:
    return draw.choice([Fault(), Fault(stall=0.8), Fault(status=503), Fault(status=502), Fault(status=403)])


@pytest.mark.slow(90)
def test_pulls_with_random_faults(hub: Hub, pull, monkeypatch, tmp_path: Path) -> None:
    cache, came, requests = tmp_path / "hub", Counter[str](), 0
    for seed in range(PULLS):
        draw = random.Random(seed)
        if draw.random() < 0.7:
            shutil.rmtree(cache, ignore_errors=True)
        for path in cache.rglob("blobs/*"):
            if draw.random() < 0.3:
                path.write_bytes(
                    draw.choice([b"", DEMO[:9], DEMO + b"\0", bytes(SIZE), draw.randbytes(500_000)])
                )
        hub.faults = [random_fault(draw) for _ in range(draw.randrange(20))]
        hub.listing_faults = [random_listing_fault(draw) for _ in range(draw.choice([0, 0, 1, 3]))]
        hub.always = random_fault(draw) if draw.random() < 0.2 else None
        with monkeypatch.context() as impatient:
            impatient.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
            impatient.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
            pulled = pull()
        if pulled.data is None:
            assert 0 < len(pulled.error) < 500, seed
            assert pulled.error.isprintable(), seed
            hub.faults, hub.listing_faults, hub.always = [], [], None
            assert pull().data == DEMO, seed
        else:
            assert pulled.data == DEMO, seed
        came["sentences" if pulled.error else "files"] += 1
        requests += len(hub.requests)
        hub.requests.clear()
    print(f"\n{PULLS} pulls, {requests} requests: {dict(came)}")
    assert min(came["files"], came["sentences"]) >= PULLS // 10, "the faults are too many or too few"


@pytest.mark.posix
@pytest.mark.slow(60)
def test_pulls_that_are_stopped_at_random_moments(hub: Hub, hub_environment, pull, tmp_path: Path) -> None:
    import pty

    hub.always = Fault(after=200_000, stall=0.02)
    codes, began = Counter[int](), 0
    for seed in range(30):
        draw = random.Random(seed)
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "dgguf", "pull", MODEL]
        with subprocess.Popen(
            command, env=hub_environment, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
        ) as process:
            said = os.read(ours, 4096)  # the first line: what is pulled
            time.sleep(draw.random() * 0.6)
            process.send_signal(draw.choice([signal.SIGINT, signal.SIGTERM]))
            out, _ = process.communicate()
        os.close(theirs)
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # there is no more
            os.close(ours)
        assert b"Traceback" not in said, seed
        modes = re.findall(rb"\x1b\[\?\d+[hl]", said)  # the bar hides the cursor
        assert set(modes) <= {b"\x1b[?25l", b"\x1b[?25h"}, seed
        assert modes[-1:] in ([], [b"\x1b[?25h"]), f"{seed}: the cursor is shown again"
        # A signal may also come while Python ends, when the path is printed already.
        assert out or process.returncode != 0, seed
        assert not out or Path(os.fsdecode(out).removesuffix("\n")).read_bytes() == DEMO, seed
        codes[process.returncode] += 1
        partial = sum(path.stat().st_size for path in (tmp_path / "hub").rglob("*.incomplete"))
        hub.requests.clear()
        assert pull().data == DEMO, seed
        if 0 < partial < len(DEMO):  # a whole one needs no request
            began += 1
            assert hub.downloads[0].endswith(f"bytes={partial}-"), seed
    print(f"\n30 pulls stopped: exit codes {dict(codes)}, {began} went on with what there was")
    # The negative ones come before and after all work.
    assert set(codes) <= {0, -signal.SIGINT, 130, -signal.SIGTERM, 128 + signal.SIGTERM}
