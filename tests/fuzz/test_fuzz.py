"""Changed files of every kind: each works or is refused in one visible line. See tools/fuzz."""

import pytest

pytest.importorskip("resource", reason="the fuzzer needs POSIX")

from tools.fuzz.run import Fuzzer, fuzz, table

REFUSED = {"vocabulary", "projector"}  # of the corpus, as they hold no model


@pytest.fixture
def fuzzer(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.fuzz.run.SECONDS", 15.0)  # 2 s are for the tool, on a machine that is known
    return Fuzzer(1, tmp_path)


def findings(fuzzer, numbers):
    outcomes, found = fuzz(fuzzer, numbers)
    assert not found, "\n".join(f"case {f.number}, {f.seed}: {f.what}\n{f.detail}" for f in found)
    return outcomes


@pytest.mark.posix
def test_the_corpus_itself_works(fuzzer):
    refused = {name for name, refusals in fuzzer.sound() if refusals}
    assert refused == REFUSED


@pytest.mark.posix
def test_changed_files_work_or_are_refused(fuzzer):
    outcomes = findings(fuzzer, range(600))
    # Both must come often, or the changes are too wild or too tame to show anything.
    works = sum(n for (_, outcome), n in outcomes.items() if outcome == "works")
    assert 30 < works < 300, table(outcomes)


@pytest.mark.posix
@pytest.mark.slow(60)
def test_many_changed_files_work_or_are_refused(fuzzer):
    findings(fuzzer, range(10_000, 30_000))


@pytest.mark.posix
def test_a_case_is_the_same_every_time(fuzzer, tmp_path):
    (tmp_path / "other").mkdir()
    other = Fuzzer(1, tmp_path / "other")
    assert [fuzzer.case(n) for n in range(40)] == [other.case(n) for n in range(40)]


@pytest.mark.posix
def test_a_fault_is_found_and_made_smaller(tmp_path, monkeypatch):
    """Today's readers have none that is known, so one of them is broken."""
    from tools.fuzz import targets

    def broken(path, stages):
        if b"\x1b" in path.read_bytes():
            raise KeyError("an escape code")

    monkeypatch.setitem(targets.TARGETS, "conversation", broken)
    fuzzer = Fuzzer(1, tmp_path, ("conversation",))
    _, found = fuzz(fuzzer, range(300))
    assert len(found) == 1
    small = fuzzer.minimized("conversation", found[0].files, found[0].what)
    assert small["c.json"] == b"\x1b"
