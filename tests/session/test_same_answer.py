"""What an answer depends on, and what not: the rows of the table in docs/determinism.md."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import dgguf
from dgguf.backends.cpu.features import possible_paths
from dgguf.cli import cli
from dgguf.diffusion.events import DenoisingStep
from dgguf.view.names import VIEWS
from dgguf.view.recording import read_recording
from tests.support.endless import write_endless_model
from tools.accuracy.histories import HISTORIES, prompt_of
from tools.accuracy.same_answers import digest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(params=[False, True], ids=["fast", "exact"])
def exact(request):
    return request.param


def events_of(session, **options):
    """Two canvases behind a prompt that is longer than the window."""
    options = {"seed": 3, "settings": session.settings(max_steps=3)} | options
    return list(session.stream(prompt_of(session), max_tokens=2 * session.config.canvas_length, **options))


def answer(session, **options):
    return digest(events_of(session, **options))


@pytest.fixture
def session(model, exact):
    with dgguf.load(model, exact=exact, threads=1) as session:
        yield session


@pytest.mark.parametrize("history", HISTORIES)
def test_the_history_of_the_cache_changes_no_bit(session, history):
    cold = answer(session)
    HISTORIES[history](session, prompt_of(session))
    assert answer(session) == cold


def test_threads_and_the_size_of_the_context_change_no_bit(session, model, exact, many_cores):
    alone = answer(session)
    for threads, context in ((2, 700), (3, 1500)):
        with dgguf.load(model, exact=exact, threads=threads, context=context) as other:
            assert answer(other) == alone


def test_what_is_reported_changes_no_bit(session):
    assert answer(session, top_k=5) == answer(session)


def test_the_seed_and_the_settings_decide(session):
    assert answer(session, seed=4) != answer(session)
    assert answer(session, settings=session.settings(max_steps=4)) != answer(session)


def test_views_and_recordings_change_no_bit(model, tmp_path):
    arguments = ["run", str(model), "-p", "Hello", "-n", "32", "--max-steps", "3", "--seed", "5"]
    alone = CliRunner().invoke(cli, [*arguments, "--view", "none"])
    assert alone.exit_code == 0
    digests = set()
    for view in VIEWS:
        record = tmp_path / f"{view}.jsonl"
        shown = CliRunner().invoke(cli, [*arguments, "--view", view, "--record", str(record)])
        assert shown.stdout == alone.stdout or view == "jsonl", view  # which prints the events
        digests.add(digest(read_recording(record).events))
    assert len(digests) == 1


def test_cpu_paths_differ_by_rounding_only(model, exact, monkeypatch):
    """In exact mode not even by that: it has one path."""
    first, digests = [], set()
    for path in possible_paths():
        monkeypatch.setenv("DGGUF_CPU_PATH", path)
        with dgguf.load(model, exact=exact, threads=1) as session:
            events = events_of(session)
        first.append(next(event for event in events if isinstance(event, DenoisingStep)).entropy)
        digests.add(digest(events))
    assert len(digests) == 1 or not exact
    for entropy in first:  # a random network magnifies what is rounded
        assert abs(entropy - first[0]).mean() < 0.5


def test_every_row_of_the_table_names_tests_that_are_there():
    text = (ROOT / "docs" / "determinism.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+/\w+\.py)::(\w+)`", text)
    assert len(named) >= 8
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"
