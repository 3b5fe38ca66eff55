"""Ctrl-C, SIGTERM and SIGHUP: commands end by them, and leave the terminal and all files well."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from dgguf import interrupts
from tests.support.killing import killed_while_writing

strikes = pytest.importorskip("tests.support.strikes", reason="needs a pseudo-terminal")
strike_cases = pytest.importorskip("tests.support.strike_cases")

pytestmark = pytest.mark.posix
INT, TERM, HUP = (getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
DEFAULT = (
    ("replay --step", TERM, 0.2),
    ("replay", INT, 0.3),
    ("chat at its prompt", TERM, 0.1),
    ("run, terminal", HUP, 0.4),
    ("export .svg", TERM, 0.15),
    ("run, pipe", INT, 0.05),  # among its imports
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strikes")


@pytest.fixture(scope="module")
def cases(folder):
    return {case.name: case for case in strike_cases.cases(folder, None)}


@pytest.mark.parametrize(("name", "number", "moment"), DEFAULT, ids=[case[0] for case in DEFAULT])
def test_a_moment(name, number, moment, cases, folder):
    result = strikes.strike(cases[name], folder, number, moment)
    assert not result.faults


@pytest.mark.slow(90)
def test_random_moments(cases, folder):
    rng = random.Random(16)
    faults = {}
    for _ in range(3):
        for case in cases.values():
            number, moment = rng.choice(strikes.SIGNALS), rng.uniform(0, 3)
            if found := strikes.strike(case, folder, number, moment).faults:
                faults[f"{case.name}, {number}, {moment}"] = found
    assert not faults


@pytest.mark.slow(10)
@pytest.mark.parametrize("number", [INT, TERM, getattr(signal, "SIGKILL", 0)])
def test_a_conversion_cut_in_the_middle_goes_on(number, cases, folder, tmp_path):
    """What was written before is taken over, and the file has the bytes of one that was never cut."""
    source, out, partial = folder / "large.gguf", tmp_path / "out.gguf", tmp_path / "out.gguf.partial"
    command = [sys.executable, "-m", "dgguf", "quantize", str(source), str(out), "--type", "Q6_K"]
    code, said = killed_while_writing([*command, "--force"], partial, 9 << 20, number)
    assert code in (128 + number, -number), said
    assert not out.exists()
    assert partial.stat().st_size >= 9 << 20
    begun = partial.stat().st_ino, partial.read_bytes()[: 4 << 20]
    done = subprocess.run([*command, "--resume", "--report", str(tmp_path / "r.txt")], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "tensors that an earlier run, now resumed, had written" in (tmp_path / "r.txt").read_text()
    assert (out.stat().st_ino, out.read_bytes()[: 4 << 20]) == begun
    cases["quantize"].check(tmp_path)


class TestExceptions:
    @pytest.fixture(autouse=True)
    def handlers(self):
        before = {number: signal.getsignal(number) for number in (INT, TERM, HUP)}
        yield
        assert {number: signal.getsignal(number) for number in before} == before

    @pytest.mark.parametrize("number", [TERM, HUP])
    def test_a_request_to_end_is_an_exit(self, number):
        with pytest.raises(SystemExit) as end, interrupts.raised():
            signal.raise_signal(number)
        assert end.value.code == 128 + number
        assert interrupts.received() == number

    def test_what_is_ignored_stays_ignored(self):
        before = signal.signal(HUP, signal.SIG_IGN)
        with interrupts.raised():
            signal.raise_signal(HUP)
        assert signal.signal(HUP, before) == signal.SIG_IGN

    def test_what_must_be_done_as_a_whole_is_done_first(self):
        done = []

        def work():
            with interrupts.held():
                with interrupts.held():
                    signal.raise_signal(INT)
                done.append("inner")
                signal.raise_signal(TERM)
                done.append("outer")

        with pytest.raises(KeyboardInterrupt), interrupts.raised():
            work()
        assert done == ["inner", "outer"]

    def test_cleaning_up_is_not_disturbed_by_a_second_request(self):
        done = []

        def work():
            try:
                signal.raise_signal(TERM)
            finally:
                signal.raise_signal(HUP)
                done.append(True)

        with pytest.raises(SystemExit) as end, interrupts.raised():
            work()
        assert done
        assert end.value.code == 128 + TERM

    def test_ctrl_c_that_was_meant_for_an_answer_is_forgotten(self):
        with interrupts.raised():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(INT)
            assert interrupts.received() == INT
            interrupts.forget()
            assert interrupts.received() == 0

    @pytest.mark.parametrize("number", [INT, TERM])
    def test_a_destructor_does_not_swallow_it(self, number):
        class Swallows:
            def __del__(self):
                signal.raise_signal(number)

        def work():
            Swallows()
            time.sleep(30)

        with pytest.raises((KeyboardInterrupt, SystemExit)), interrupts.raised():
            work()

    def test_what_was_not_given_back_is_at_the_end(self):
        given_back = []
        with interrupts.raised():
            context = interrupts.undone(lambda: given_back.append(True))
            context.__enter__()  # and a signal comes before its `with` has begun
        assert given_back


def test_an_interrupt_that_became_another_exception_is_no_traceback(tmp_path):
    code = """if True:
        import signal
        from dgguf import cli
        def failing(**_):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("numpy failed to import") from None
        cli.cli.main = failing
        cli.main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.slow(3)
def test_a_closing_terminal_ends_it(cases, folder):
    """The terminal is gone: nothing can be given back, and there is nobody to tell."""
    case = cases["run, terminal"]
    terminal = strikes.Terminal(*case.arguments, "--pace", "1", folder=folder)  # minutes, were it not closed
    terminal.wait_for("block 1", 300)
    os.close(terminal._controller)
    os.close(terminal._terminal)
    assert terminal.process.wait(60) in (128 + HUP, -HUP)
