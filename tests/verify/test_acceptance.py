"""The acceptance report: judges of right and wrong answers, a session that answers from a table, the time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dgguf.cli import cli
from dgguf.diffusion.events import (
    CanvasCommitted,
    CanvasStarted,
    DenoisingStep,
    Event,
    Finished,
    PromptEncoded,
    Started,
)
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import BackendError, NumericsError
from dgguf.session import Session
from dgguf.text.chat import ChatTemplate
from dgguf.verify import acceptance, published
from dgguf.verify.acceptance import Budget
from dgguf.verify.known_answers import KNOWN_ANSWERS
from tests.support.synthetic.writer import write_model

DATA = Path(__file__).parents[1] / "data"
TEMPLATE = (
    "{{ bos_token }}<|turn>system\n{{ '<|think|>\n' if enable_thinking }}{{ messages[0].content }}<turn|>\n"
    "{% for m in messages[1:] %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<turn|>\n{% endfor %}{{ '<|turn>model\n' }}"
)  # renders as the published ones do
DAYS = "Monday\nTuesday\nWednesday\nThursday\nFriday\nSaturday\nSunday"
RIGHT = {
    "arithmetic": ["42", "17 + 25 = **42**", "The answer is 42."],
    "reading": ["a lantern", "A lantern lies on shelf 17.", "Lantern."],
    "a capital": ["Canberra", "The capital of Australia is **Canberra**."],
    "a list": [DAYS, "\n".join(f"{i}. {day}" for i, day in enumerate(DAYS.split(), 1))],
    "JSON": ['{"name": "Ada", "age": 36}', '```json\n{\n  "age": 36,\n  "name": "Ada"\n}\n```'],
    "spelling": ["g-a-r-d-e-n", "G-A-R-D-E-N", "**g-a-r-d-e-n**", "Here it is: g-a-r-d-e-n"],
    "translation": ["Guten Morgen", "„Guten Morgen“", '"Guten Morgen!"'],
    "counting": [", ".join(map(str, range(1, 16))), "Here you are: " + ",".join(map(str, range(1, 16)))],
    "sorting": ["3, 7, 19, 42, 88", "Sorted: 3 7 19 42 88"],
    "a haiku": ["Rain taps on the roof\nA quiet song of grey skies\nThe garden drinks deep"],
}
WRONG = {
    "arithmetic": ["", "43", "17", "forty-two"],
    "reading": ["a chess board", "an iron key", "There is nothing."],
    "a capital": ["Sydney", "Canberra " * 30],
    "a list": [DAYS.replace("Monday", "Friday"), "Monday", DAYS + "\nMonday", ""],
    "JSON": ['{"name": "Ada"}', "Ada, 36", '{"name": "Ada", "age": "36"}', "[" * 100_000],
    "spelling": ["garden", "g-a-r-d-e", "n-e-d-r-a-g", ""],
    "translation": ["Good morning", "Guten Abend"],
    "counting": ["1, 2, 3", ", ".join(map(str, range(1, 17)))],
    "sorting": ["42, 7, 19, 88, 3", "88, 42, 19, 7, 3"],
    "a haiku": ["Rain taps on the roof", "Rain\nfalls\ndown", "one two\nthree four\nfive six\nseven eight"],
}


def test_ten_prompts_are_in_the_table() -> None:
    assert [known.name for known in KNOWN_ANSWERS] == list(RIGHT) == list(WRONG)
    assert len(KNOWN_ANSWERS) == 10


@pytest.mark.parametrize("known", KNOWN_ANSWERS, ids=lambda known: known.name)
def test_right_and_wrong_answers(known: Any) -> None:
    for answer in RIGHT[known.name]:
        assert not known.fault(answer), answer
        assert not known.fault(f"{answer}\n"), answer
    for answer in WRONG[known.name]:
        assert 0 < len(known.fault(answer)) < 200, answer


class Letters:
    """A vocabulary whose ids are code points, and which knows the published texts."""

    n_tokens, channel_open_id, channel_close_id = 262_144, None, None

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return chr(token).encode()

    def token_text(self, token: int) -> str:
        return published._KNOWN_BY.get(token, "?")

    def is_special(self, token: int) -> bool:
        return False

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return [*dict(published._TEXTS)[text]]


class Answering:
    """A session that answers from a table: by a prompt's name, its text or the error it ends with."""

    def __init__(self, answers: Mapping[str, str | Exception], steps: int = 12, settles: bool = True) -> None:
        self.answers, self.steps, self.settles = answers, steps, settles
        self.config = SimpleNamespace(canvas_length=256)
        self.tokenizer = Letters()
        self.backend = SimpleNamespace(describe=lambda: "a table")
        self.n_steps = 0
        path, metadata = Path(__file__), {"tokenizer.chat_template": TEMPLATE}
        self.file = SimpleNamespace(metadata=metadata, path=path, paths=[path], n_bytes=1000)

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, prompt: str, *, max_tokens: int, seed: int) -> Iterator[Event]:
        answer = self.answers[next(known.name for known in KNOWN_ANSWERS if known.prompt == prompt)]
        if isinstance(answer, Exception):
            raise answer
        tokens = np.array([*map(ord, answer), *[0] * (256 - len(answer))])
        number, flags = np.array([ord(letter) for letter in prompt]), np.zeros(256, bool)
        yield Started("m", seed, SamplerSettings(), number, max_tokens, frozenset([0]), 256, 1 << 18, 8192)
        yield PromptEncoded(len(number), len(number), 0, len(number) / 1000)
        yield CanvasStarted(0, tokens, len(number))
        for step in range(1, self.steps + 1):
            self.n_steps += 1
            settled = self.settles and step == self.steps
            yield DenoisingStep(
                0, step, 48, 0.5, tokens, tokens, flags, flags.astype(np.float32), settled, seconds=2.0
            )
        seconds = 2.0 * self.steps
        yield CanvasCommitted(0, tokens, len(answer), True, self.steps, self.settles, 0.1, seconds)
        yield Finished("stop", len(answer), seconds)


def first(answers: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: texts[0] for name, texts in answers.items()}


def accept(session: Answering, budget: Budget | None = None) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return acceptance.accept(session, budget or Budget.begin(), said.append), said  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_model(path, type_name="Q8_0", seed=3)
    return path


def opens(monkeypatch: pytest.MonkeyPatch, answering: Answering) -> None:
    """Let the command ask this session, after the model was opened to see whether it loads."""
    whole = Session

    def opened(path: str, **options: Any) -> Any:
        return whole(path, **options) if "threads" in options else answering

    monkeypatch.setattr("dgguf.session.Session", opened)


def states(report: dict[str, Any]) -> dict[str, str]:
    return {name: check["status"] for name, check in report["checks"].items()}


def test_everything_right() -> None:
    report, said = accept(Answering(first(RIGHT)))
    assert set(states(report).values()) == {"pass"}
    assert acceptance.passed(report["checks"])
    prompts = report["checks"]["prompts"]
    assert (prompts["right"], prompts["of"]) == (10, 10)
    assert prompts["answers"][0]["answer"] == "42"
    assert prompts["answers"][0]["steps"] == [12]
    assert report["checks"]["settling"]["median_steps"] == 12
    assert report["speed"]["seconds_per_step"] == 2.0
    assert report["speed"]["prompt_tokens_per_s"] == pytest.approx(1000)
    assert report["memory"]["mapped_bytes"] == 1000
    assert report["machine"]["cores"] >= 1
    assert len([line for line in said if line.startswith("prompt ")]) == 10
    json.dumps(report)


@pytest.mark.parametrize("name", RIGHT)
def test_one_wrong_answer_is_enough(name: str) -> None:
    report, _ = accept(Answering(first(RIGHT) | {name: WRONG[name][-1][:200]}))
    assert states(report) == {"tokens": "pass", "template": "pass", "prompts": "fail", "settling": "pass"}
    assert report["checks"]["prompts"]["right"] == 9
    assert not acceptance.passed(report["checks"])


@pytest.mark.parametrize(("steps", "settles"), [(9, True), (31, True), (12, False)])
def test_canvases_that_settle_otherwise(steps: int, settles: bool) -> None:
    report, _ = accept(Answering(first(RIGHT), steps, settles))
    assert states(report) == {"tokens": "pass", "template": "pass", "prompts": "pass", "settling": "fail"}


def test_an_error_is_a_fault_of_its_prompt() -> None:
    report, _ = accept(Answering(first(RIGHT) | {"JSON": NumericsError("not finite in layer 3")}))
    (row,) = [row for row in report["checks"]["prompts"]["answers"] if row["status"] == "fail"]
    assert (row["name"], row["fault"]) == ("JSON", "not finite in layer 3")
    assert report["checks"]["prompts"]["right"] == 9


def test_the_time_is_kept_within_a_prompt_and_what_had_none_is_said() -> None:
    """Each step takes 2 s: 40 s are 3 prompts and a part of the fourth."""
    session = Answering(first(RIGHT))
    budget = Budget.begin(80.0, clock=lambda: 2.0 * session.n_steps)
    report, _ = accept(session, budget)
    rows = report["checks"]["prompts"]["answers"]
    assert [row["status"] for row in rows] == ["pass"] * 3 + ["no time"] * 7
    assert session.n_steps == 40
    assert states(report)["prompts"] == "no time"
    assert not acceptance.passed(report["checks"])


def test_ctrl_c_ends_the_prompts_and_leaves_a_report(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Answering):
        def stream(self, prompt: str, *, max_tokens: int, seed: int) -> Iterator[Event]:
            for event in super().stream(prompt, max_tokens=max_tokens, seed=seed):
                if self.n_steps == 30:
                    raise KeyboardInterrupt
                yield event

    opens(monkeypatch, Interrupted(first(RIGHT)))
    done = CliRunner().invoke(cli, ["check", str(model), "--acceptance"], standalone_mode=False)
    assert isinstance(done.exception, click.Abort)
    report = json.loads(done.stdout)
    assert report["interrupted"] is True
    assert report["ok"] is False
    assert [row["status"] for row in report["checks"]["prompts"]["answers"]] == ["pass"] * 2 + ["no time"] * 8


def test_another_vocabulary_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "n_tokens", 1447)
    report, _ = accept(Answering(first(RIGHT)))
    assert report["checks"]["tokens"] == {"status": "skipped", "faults": ["not the published vocabulary"]}
    assert not acceptance.passed(report["checks"])


def test_other_ids_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "encode", lambda self, text, special=False: [7])
    report, _ = accept(Answering(first(RIGHT)))
    assert report["checks"]["tokens"]["status"] == "fail"
    assert len(report["checks"]["tokens"]["faults"]) == len(published._TEXTS) == 9


@pytest.mark.parametrize("name", ["chat_template", "chat_template_2026-07"])
def test_published_templates_render_as_known(name: str) -> None:
    text = (DATA / f"{name}.jinja").read_text(encoding="utf-8")
    assert not published.template_faults(ChatTemplate(text, "m"))
    other = ChatTemplate(text.replace("<turn|>", "<end|>"), "m")
    assert [fault[:7] for fault in published.template_faults(other)] == ["with th", "without"]


def test_a_file_for_pictures_is_seen(tmp_path: Path) -> None:
    session = Answering(first(RIGHT))
    session.file.paths = [tmp_path / "m.gguf"]
    assert accept(session)[0]["picture"]["mmproj"] is None
    (tmp_path / "mmproj-F16.gguf").touch()
    picture = accept(session)[0]["picture"]
    assert picture["mmproj"] == str(tmp_path / "mmproj-F16.gguf")
    assert "shows no pictures" in picture["note"]


# The command


def check(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, arguments), "--acceptance"])


def test_the_command_accepts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens(monkeypatch, Answering(first(RIGHT)))
    done = check(model)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert list(report["checks"]) == ["file", "tokens", "template", "prompts", "settling"]
    assert len(report["file"]["files"][0]["sha256"]) == 64
    lines = done.stderr.splitlines()
    assert lines[-1] == "accepted"
    assert ["pass", "prompts", "10", "of", "10", "right"] in [line.split() for line in lines]


def test_the_command_does_not_accept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance.Budget.begin.__func__, "__defaults__", (0.0, lambda: 1.0))
    done = check(model)
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert states(report) == {
        "file": "pass",
        "tokens": "skipped",
        "template": states(report)["template"],
        "prompts": "no time",
        "settling": "no time",
    }
    assert done.stderr.splitlines()[-1] == "not accepted"


def test_a_model_that_does_not_load_is_not_asked(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", omit_tensors=["blk.1.attn_q.weight"])
    done = check(tmp_path / "m.gguf")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert list(report["checks"]) == ["file"]
    assert "lacks the tensor" in report["checks"]["file"]["faults"][0]


def test_options_that_would_do_nothing_are_refused(model: Path) -> None:
    assert check(model, "--json").exit_code == 2
    done = CliRunner().invoke(cli, ["check", str(model), "--cuda"])
    assert done.exit_code == 2
    assert "--cuda goes with --acceptance" in done.stderr


def test_a_gpu_that_is_missing_is_told_before_the_file_is_read(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise BackendError("there is no GPU")

    monkeypatch.setattr("dgguf.session.gpu_backend", missing)
    done = CliRunner().invoke(cli, ["check", str(model), "--acceptance", "--cuda"])
    assert isinstance(done.exception, BackendError)
    assert "reading" not in done.stderr


@pytest.mark.slow(20)
def test_the_demo_fails_honestly() -> None:
    done = check("demo")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["checks"]["file"]["status"] == "pass"
    assert report["checks"]["prompts"]["right"] < 10
    assert len(report["checks"]["prompts"]["answers"]) == 10
    assert report["speed"]["seconds_per_step"] > 0
