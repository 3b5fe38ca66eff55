"""What is told before a download: how much, how long at which speed, and whether disk and memory will do."""

import pytest

from dgguf.cli import forecast, last

GB = 10**9


def test_how_much_has_to_come():
    assert forecast.download(17 * GB, 0) == "17.00 GB"
    assert forecast.download(17 * GB, 3 * GB) == "17.00 GB; 3.00 GB of it are here"


def test_how_long_at_which_speed():
    assert forecast.time_needed(17 * GB, 12.5e6) == "23 minutes at 12.50 MB/s, as just measured"
    assert forecast.time_needed(17 * GB, 1e9) == "0:17 at 1.00 GB/s, as just measured"
    guessed = forecast.time_needed(17 * GB, None)
    assert guessed == "23 minutes at 12.50 MB/s, if the network has 100 Mbit/s; it was not measured"


def test_whether_disk_and_memory_will_do():
    assert forecast.disk(17 * GB, 18 * GB, "/x") == "18.00 GB free in /x"
    assert "too little: HF_HOME" in forecast.disk(17 * GB, 16 * GB, "/x")
    assert (
        forecast.memory(17 * GB, 20 * GB, 32 * GB) == "19.00 GB with a context; 20.00 GB of 32.00 GB are free"
    )
    assert "each step reads the file again" in forecast.memory(17 * GB, 18 * GB, 32 * GB)
    assert forecast.memory(17 * GB, None, None) == "19.00 GB with a context"


def test_how_long_a_step_takes_if_bench_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("DGGUF_STATE_DIR", str(tmp_path))
    assert last.recall_step() is None
    last.remember_step("other.gguf", 20 * GB, 4.321)
    told = forecast.step(17 * GB, last.recall_step())
    assert told == "some 4.3 s, which `dgguf bench` measured here with other.gguf, 20.00 GB"
    for n_bytes in (3 * 10**6, 50 * GB):  # the demo says nothing about a large model
        assert "not known yet" in forecast.step(n_bytes, last.recall_step())
    for damaged in ("", "[]", '{"name": 1}', '{"name": "", "bytes": "x", "seconds": 1}'):
        (tmp_path / "last_bench.json").write_text(damaged)
        assert last.recall_step() is None
    monkeypatch.setenv("DGGUF_HISTORY", "0")
    last.remember_step("other.gguf", 20 * GB, 4.321)
    assert last.recall_step() is None


@pytest.mark.parametrize("n_files", [0, 1])
def test_the_forecast(n_files, monkeypatch, capsys):
    """Without a network nothing is measured, and it says so."""
    monkeypatch.setattr(forecast.hub, "speed", lambda file, seconds: 1e6)
    monkeypatch.setattr(forecast.hub, "begun_of", lambda files: 0)
    monkeypatch.setattr(forecast.hub, "room", lambda: ("/cache", GB))
    forecast.show_forecast("a/b", [None] * n_files, 17 * GB)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["download", "time", "disk", "memory", "a"]
    assert ("as just measured" in lines[2]) == bool(n_files)
    assert ("no network" in lines[0]) == (not n_files)
