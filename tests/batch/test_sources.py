"""Rows of every kind of file are what they are, from the first byte on and again in any order."""

import csv
import json
import random
import sys

import pytest

from dgguf.batch import sources
from dgguf.batch.sources import open_source
from dgguf.errors import BackendError, BatchError


def read(path, column=None):
    """All rows of a file, each read twice; those that are wrong by their errors."""
    with open_source(path, column) as source:
        found = list(source.scan())
        random.Random(3).shuffle(found)
        for row in found:
            if not row.error:
                assert source.read(row.place) == row.value
    return {row.number: row.error or row.value for row in found}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_json_lines(tmp_path, bom, end):
    path = tmp_path / "in.jsonl"
    path.write_bytes(bom + end.join([b'{"prompt": "\xe7\x99\xbd"}', b"", b"  ", b'{"a": [1]}', b"[2]"]))
    assert read(path) == {1: {"prompt": "白"}, 4: {"a": [1]}, 5: [2]}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"a": 1} 2',
        b"NaN",
        b'{"a": \xff}',
        b"[" * 5000,
        b'{"a": "\\ud800"}',
        b"Hi",
        b"\0",
        b"{'a': 1}",
    ],
)
def test_what_is_no_json_is_an_error_of_its_line(tmp_path, line):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}')
    found = read(path)
    assert found.pop(2).startswith("it is no JSON: ")
    assert found == {1: {"a": 1}, 3: {"a": 2}}


def test_plain_lines(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b'Hi\r\n\n {"a"}\xe2\x80\xa8 \n\xff\nlast')
    assert read(path) == {
        1: {"prompt": "Hi"},
        3: {"prompt": ' {"a"}\u2028 '},
        4: "it is not UTF-8",
        5: {"prompt": "last"},
    }


def test_a_line_without_an_end_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_LINE", 100)
    path = tmp_path / "in.txt"
    path.write_bytes(b"a" * 100 + b"\n" + b"b" * 1000 + b"\n" + b"c" * 99 + b"\n")
    found = read(path)
    assert "longer than" in found.pop(2)
    assert found == {3: {"prompt": "c" * 99}} | {1: found[1]}


def test_csv(tmp_path):
    path = tmp_path / "in.csv"
    values = ["Hi", 'two\nlines, "quoted"', "a\r\nb\u2028c", "", "白"]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [["custom_id", "text", "x"], *([f"i{i}", v, "1"] for i, v in enumerate(values))]
        )
    expected = {i + 1: {"custom_id": f"i{i}", "text": v} for i, v in enumerate(values)}
    expected[4].pop("text")
    assert read(path) == expected
    assert read(path, "x")[1] == {"custom_id": "i0", "prompt": "1"}


def test_records_of_csv_that_are_wrong(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b'prompt,x\na,1\nb\n\nc,1,2\n"d"e,1\n\xff,1\nf,1\n')
    found = read(path)
    assert {number: found.pop(number)[:10] for number in (2, 3, 4, 5)} == {
        2: "it has 1 f", 3: "it has 3 f", 4: "it is no C", 5: "it is not "
    }  # fmt: skip
    assert found == {1: {"prompt": "a"}, 6: {"prompt": "f"}}


@pytest.mark.parametrize("quotation", [b'"a\nb,1\n', b'"' + b"a\n" * 200])
def test_a_quotation_that_is_not_closed_is_told_at_once(tmp_path, quotation, monkeypatch):
    monkeypatch.setattr(sources, "MOST_LINE", 300)
    path = tmp_path / "in.csv"
    path.write_bytes(b"prompt,x\na,1\n" + quotation)
    with pytest.raises(BatchError, match="byte 13"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "column", "words"),
    [
        ("in.csv", "a,b\n", None, "--column; there are a, b"),
        ("in.csv", "a,b\n", "c", "no column 'c'; there are a, b"),
        ("in.csv", "prompt,text\n", None, "--column"),
        ("in.csv", "", None, "--column"),
        ("in.tsv", "a,b\n", None, "there are a,b"),
        ("in.jsonl", "", "a", "only CSV and Parquet"),
        ("in.jsonl.gz", "", None, "unpack it"),
        (".", "", None, "no file"),
        ("none.jsonl", None, None, "there is no such file"),
    ],
)
def test_inputs_that_cannot_be_read(tmp_path, name, content, column, words):
    path = tmp_path / name
    if content is not None and not path.exists():
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BatchError, match=words), open_source(path, column):
        pass


def test_an_input_that_changes_is_noticed(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n")
    with open_source(path, None) as source:
        places = [found.place for found in source.scan()]
        path.write_text("one\n2wo\n")
        assert source.read(places[0]) == {"prompt": "one"}
        with pytest.raises(BatchError, match="has changed"):
            source.read(places[1])


class TestParquet:
    @pytest.fixture
    def arrow(self):
        return pytest.importorskip("pyarrow")

    def write(self, arrow, path, columns):
        import pyarrow.parquet

        pyarrow.parquet.write_table(arrow.table(columns), path, row_group_size=2)
        return path

    def test_rows(self, arrow, tmp_path):
        message = [{"role": "user", "content": "Hi"}]
        columns = {"custom_id": ["a", None, "c"], "messages": [message, None, message * 2], "x": [1, 2, 3]}
        path = self.write(arrow, tmp_path / "in.parquet", columns)
        assert read(path) == {
            1: {"custom_id": "a", "messages": message}, 2: {}, 3: {"custom_id": "c", "messages": message * 2}
        }  # fmt: skip
        assert read(path, "x")[3] == {"custom_id": "c", "prompt": 3}

    def test_bytes_are_texts_where_they_can_be(self, arrow, tmp_path):
        path = self.write(arrow, tmp_path / "in.parquet", {"prompt": [b"\xff", b"Hi"]})
        assert read(path) == {1: "it is not UTF-8", 2: {"prompt": "Hi"}}

    def test_damaged_files(self, arrow, tmp_path):
        path = self.write(arrow, tmp_path / "in.parquet", {"prompt": ["Hi"] * 100})
        whole = path.read_bytes()
        for cut in (0, 3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(BatchError, match="Parquet"):
                read(path)


def test_without_pyarrow_a_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "in.parquet"
    path.write_bytes(json.dumps({}).encode())
    with pytest.raises(BackendError, match=r"pip install 'dgguf\[parquet\]'"), open_source(path, None):
        pass
