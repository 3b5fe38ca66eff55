"""Tables at the widths that terminals have, through a pipe, without colours, and with a stranger's names."""

import io
import re
import sys
from collections import Counter

import pytest
from click.testing import CliRunner

from dgguf.cli import cli, tables
from dgguf.cli.tables import Column, Facts, Rows, drawn
from dgguf.cli.turbo_price import parts as price_parts
from dgguf.diffusion.statistics import Statistics
from dgguf.view.summary import statistics_facts
from dgguf.view.terminal import cell_width

# The package has the commands under these names.
compare, bench = (sys.modules[f"dgguf.cli.{name}"] for name in ("compare", "bench"))


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def on_a_terminal(parts, width, monkeypatch, **environment):
    """The parts as a terminal of so many columns gets them."""
    with monkeypatch.context() as patch:
        patch.setattr(tables, "terminal_size", lambda out: (width, 24))
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            patch.delenv(name, raising=False)
        for name, value in ({"TERM": "xterm-256color"} | environment).items():
            patch.setenv(name, value)
        return drawn(parts, Screen())


def said(*arguments):
    """What a command gives to `echo`."""
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "echo", lambda *given, err=False: parts.extend(given))
        done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return parts


def bench_result():
    parts = {
        name: {"ms": 1234.5, "gops": 900.0 * i, "share_of_peak": 0.9 * i or None}
        for i, name in enumerate(["norms and the rest", "experts"])
    }
    numbers = dict.fromkeys(
        [
            "load_seconds",
            "first_encode_seconds",
            "first_step_ms",
            "commit_ms",
            "ms_per_step",
            "gops",
            "gb_per_s",
            "share_of_peak",
            "encode_tokens_per_s",
        ],
        123.45,
    )
    sizes = {"first_encode_tokens": 32, "prompt_tokens": 32, "peak_gops": 999.0, "peak_private_bytes": 10**9}
    words = {"machine": "AMD EPYC 9554", "backend": "CPU, 2 threads, avx512_vnni", "cpu_path": "avx512_vnni"}
    return numbers | sizes | words | {"ms_of_steps": [1.0, 2.0], "cold": True, "parts": parts}


def compare_rows():
    keys = [f"kl_{key}" for key in ("mean", "standard_error", "median", "99", "max")]
    row = dict.fromkeys(keys, 0.123456) | {"agreement": 0.98765, "positions": 16384}
    return [row | {"noise": noise} for noise in ("100%", "75%", "all")]


def price_result():
    costs = {"steps": [120, 97], "rows": [30720, 11000], "seconds": [480.5, 270.25]}
    rows = [
        {"prompt": "Why is the sky blue? " * 20, "same": True, **costs},
        {"prompt": "Sort: 2 1", "same": False, **costs},
    ]
    return {"prompts": rows, "all": {"answers": 2, "same": 1, **costs}, "divergence": compare_rows()[0]}


TABLES = {
    "list": lambda: said("list"),
    "show": lambda: said("show", "demo"),
    "show --tensors": lambda: said("show", "demo", "--tensors"),
    "doctor": lambda: said("doctor", "demo"),
    "check": lambda: said("check", "demo"),
    "quantize --dry-run": lambda: said("quantize", "demo", "out.gguf", "--type", "Q4_K_M", "--dry-run"),
    "stats": lambda: [Facts(statistics_facts(Statistics()))],
    "compare": lambda: [compare.table(compare_rows(), "noise")],
    "compare --turbo": lambda: [*price_parts(price_result())],
    "bench": lambda: [*bench.parts(bench_result())],
}


@pytest.fixture(scope="module", params=TABLES)
def parts(request):
    return TABLES[request.param]()


def without_codes(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost(parts, width, monkeypatch):
    shown = without_codes(on_a_terminal(parts, width, monkeypatch))
    assert max(map(cell_width, shown.splitlines())) <= width
    assert all(line == line.rstrip() for line in shown.splitlines())
    for part in parts:
        texts = part if isinstance(part, str) else "".join(map("".join, contents(part)))
        lost = Counter("".join(texts.split())) - Counter("".join(shown.split()))
        assert not lost, part


def contents(part):
    return part.facts if isinstance(part, Facts) else part.cells


def test_a_pipe_gets_one_line_a_row_and_no_codes(parts):
    text = drawn(parts, io.StringIO())
    assert "\x1b" not in text
    rows = sum(1 if isinstance(part, str) else len(contents(part)) + isinstance(part, Rows) for part in parts)
    assert len(text.splitlines()) == rows
    assert text == drawn(parts)  # as in a file


@pytest.mark.parametrize(("environment", "pattern"), [({"TERM": "dumb"}, "$^"), ({"NO_COLOR": "1"}, "[01]?")])
def test_terminals_without_colours(parts, environment, pattern, monkeypatch):
    shown = on_a_terminal(parts, 80, monkeypatch, **environment)
    assert all(re.fullmatch(pattern, code) for code in re.findall(r"\x1b\[([^m]*)m?", shown))


def test_numbers_end_below_each_other_and_heads_stand_above(monkeypatch):
    rows = Rows((Column("name"), Column("bytes", right=True)), [("a", "5"), ("bc", "1234567")])
    assert drawn([rows]).splitlines() == ["name    bytes", "a           5", "bc    1234567"]
    narrow = on_a_terminal([rows], 12, monkeypatch, TERM="dumb").split()
    assert narrow[:3] == ["a", "bytes", "5"]  # each row a list


def test_what_a_file_says_controls_no_terminal(monkeypatch):
    hostile = "\x1b[2Jm[red]\nnext\x9b1m"
    rows = Rows((Column("tensor"), Column("type")), [(hostile, hostile)])
    for width in (200, 10):
        shown = on_a_terminal([hostile, rows, Facts([(hostile, hostile)])], width, monkeypatch, TERM="dumb")
        assert all(line.isprintable() for line in shown.splitlines())
        assert "[red]" in "".join(shown.split())
