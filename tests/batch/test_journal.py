"""The journal: whatever was cut off or damaged, what is read back was written, from its beginning on."""

import random

import pytest

from dgguf.batch.journal import Journal
from dgguf.errors import BatchError

HEADER = {
    "input": "a",
    "seed": 3,
    "settings": {"max_tokens": 16, "choice": ["x"]},
    "model": "b",
    "arithmetic": "avx2",
}
RESULTS = {number: b'{"text": "%d, \xc3\xa9"}' % number * (number % 4) for number in (5, 2, 9, 1, 30)}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Nothing here is about power cuts."""
    monkeypatch.setattr("os.fsync", lambda number: None)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out.journal"
    with Journal(path) as journal:
        assert journal.header is None
        journal.begin(HEADER)
        for number, result in RESULTS.items():
            place = journal.add(number, result)
            assert journal.read(*place) == result
    return path


def read(path):
    """The rows of a journal and the bytes that it drops."""
    with Journal(path) as journal:
        if journal.header is None:
            return None, 0
        journal.begin(HEADER)
        found = {number: journal.read(*place) for number, *place in list(journal.rows())}
        for number in (98, 99):  # behind what was dropped
            result = b"more %d" % number
            assert journal.read(*journal.add(number, result)) == result
        dropped = journal.n_dropped
    with Journal(path) as journal:
        numbers = [number for number, *_ in journal.rows()]
        assert numbers == [*found, 98, 99]
        assert journal.n_dropped == 0
    return found, dropped


def test_what_was_written_is_read(path):
    assert read(path) == (RESULTS, 0)


def test_cut_at_every_byte(path):
    whole = path.read_bytes()
    seen = set()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, dropped = read(path)
        if found is not None:
            assert list(found.items()) == list(RESULTS.items())[: len(found)]
            assert dropped < 100
        seen.add(None if found is None else len(found))
    assert seen == {None, *range(len(RESULTS) + 1)} - {len(RESULTS)}


def test_changed_bytes_end_it_there(path):
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    rng = random.Random(5)
    for _ in range(100):
        changed = bytearray(whole)
        place = rng.randrange(header, len(whole))
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        found, dropped = read(path)
        assert list(found.items()) == list(RESULTS.items())[: len(found)]
        assert len(found) < len(RESULTS)
        assert dropped > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": "c"}, r"another input \(a, and now c\)"),
        ({"seed": 4}, r"another seed \(3, and now 4\)"),
        ({"model": "c"}, "another model"),
        ({"arithmetic": "portable"}, r"another arithmetic \(avx2, and now portable\)"),
        ({"settings": {"max_tokens": 17, "choice": ["x"]}}, r"another setting \(max_tokens 16, and now 17\)"),
        ({"settings": {"max_tokens": 16}}, r"another setting \(choice \['x'\], and now none\)"),
    ],
)
def test_another_run_is_refused(path, change, words):
    before = path.read_bytes()
    with Journal(path) as journal, pytest.raises(BatchError, match=words):
        journal.begin(HEADER | change)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"Hi\n", b"Hi", b"{}\n", b"\0" * 99, b'0123abcd {"x": 1}\n', b"\xff\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with pytest.raises(BatchError, match="no journal"):
        Journal(path)
    assert path.read_bytes() == content


def test_one_in_which_nothing_has_begun_is_not_left(tmp_path):
    with Journal(tmp_path / "x.journal"):
        pass
    assert not list(tmp_path.iterdir())
