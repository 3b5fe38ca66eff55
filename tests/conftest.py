"""Which tests run by default, and what they may count on."""

import math
import os
import random
import signal
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# The tests whose results go through the product kernels that DGGUF_CPU_PATH chooses. tests/cpu/test_qgemm.py
# and test_panels.py are not among them: they take every path in turn themselves.
PRODUCTS = (
    "cli/test_bench.py",
    "compiling/test_needed.py",
    "cpu/test_fast_accuracy.py",
    "cpu/test_rows.py",
    "cpu/test_verbs.py",
    "demo/test_answers.py",
    "evaluate/test_imatrix_and_compare.py",
    "model/test_pieces.py",
    "session/test_session.py",
)
MOST_WORKERS = 4  # processes of the whole suite; each takes up to 1 GB of memory
SLOW_SECONDS = 60.0  # of a slow test whose marker does not say


def pytest_configure():
    # A shell that is not interactive lets its background jobs ignore Ctrl-C, and all that they start; so does
    # nohup with the signal of a terminal that closes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    missing = [name for name in PRODUCTS if not (TESTS / name).is_file()]
    if missing:
        raise pytest.UsageError(f"PRODUCTS in tests/conftest.py names {missing}, which are not there")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take long")
    parser.addoption(
        "--slow-sample", type=float, default=0.0, metavar="SECONDS", help="run slow tests of so many seconds"
    )
    parser.addoption("--slow-seed", type=int, default=0, metavar="N", help="which ones --slow-sample takes")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at its options
def pytest_cmdline_main(config):
    if is_whole(config) and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = min(MOST_WORKERS, os.cpu_count() or 1)
        config.option.dist = "worksteal"


def is_whole(config):
    """Whether the default suite is run, nothing of it chosen and nobody looking on: in several processes."""
    option = config.option
    chosen = option.markexpr or option.keyword or option.slow or option.slow_sample or option.collectonly
    watched = option.usepdb or option.capture == "no"
    by_default = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return by_default and not chosen and not watched and not hasattr(config, "workerinput")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    products = {TESTS / name for name in PRODUCTS}
    for item in items:
        if item.path in products:
            item.add_marker("products")
        if "posix" in item.keywords and not hasattr(signal, "SIGKILL"):
            item.add_marker(pytest.mark.skip(reason="needs POSIX"))
    yield  # -m and -k choose here
    slow = [item for item in items if "slow" in item.keywords]
    if config.getoption("--slow"):
        chosen = slow
    else:
        chosen = sample(slow, config.getoption("--slow-sample"), config.getoption("--slow-seed"))
    config.slow_tests = len(chosen), len(slow), sum(map(seconds, chosen))
    for item in slow:
        if item not in chosen:
            item.add_marker(pytest.mark.skip(reason="takes long: --slow runs it"))


def pytest_report_collectionfinish(config):
    if config.getoption("--slow-sample") and hasattr(config, "slow_tests"):  # not where a path is wrong
        n_chosen, n_slow, total = config.slow_tests
        seed = config.getoption("--slow-seed")
        return f"slow tests: {n_chosen} of {n_slow}, some {total:.0f} s, --slow-seed {seed}"
    return None


def seconds(item):
    """How long a slow test takes on two AVX2 cores, as its marker says: `slow(12)`."""
    arguments = item.get_closest_marker("slow").args
    return float(arguments[0]) if arguments else SLOW_SECONDS


def sample(slow, budget, seed):
    """The slow tests that fit so many seconds, in an order drawn with the seed; the same on every machine."""
    chosen = []
    for item in random.Random(seed).sample(sorted(slow, key=lambda item: item.nodeid), len(slow)):
        if seconds(item) <= budget:
            budget -= seconds(item)
            chosen.append(item)
    return chosen


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory):
    """What chats leave for the next time lies in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGGUF_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def many_cores(monkeypatch):
    """A backend takes as many threads as it is told to."""
    monkeypatch.setattr("dgguf.backends.cpu.backend.usable_processors", lambda: 64)
    monkeypatch.setattr("dgguf.threads.crowding.LIMIT", math.inf)
    monkeypatch.setattr("dgguf.backends.cpu.grain.NUMBERS_PER_THREAD", 1)
    monkeypatch.setattr("dgguf.backends.cpu.grain.MULTIPLY_ADDS_PER_THREAD", 1)
