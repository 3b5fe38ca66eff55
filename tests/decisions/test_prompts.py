"""What is asked, and where labels are read."""

from pathlib import Path

import numpy as np
import pytest

from dgguf.decisions.prompts import DecisionPrompts
from dgguf.decisions.questions import parse_question
from dgguf.errors import PromptError, UnsupportedModelError
from dgguf.prompts import PromptEncoder
from dgguf.text.tokenizer import Tokenizer
from tests.support.small_vocabulary import NORMAL, WORDS, to_metadata

DATA = Path(__file__).parents[1] / "data"
TEMPLATES = ["chat_template.jinja", "chat_template_2026-07.jinja"]
QUESTIONS = ["Hi?", "team: Who? the sales|a model|a user", "How? low<high"]


def metadata(template=TEMPLATES[0], words=("yes", "no", "▁yes", "▁no", "▁A", "▁B")):
    pieces = dict.fromkeys(word[:n] for word in [*WORDS, *words] for n in range(2, len(word) + 1))
    return to_metadata(
        ["\n\n", *pieces], [*map(chr, range(33, 127)), "\n", "▁"]
    ) | {"tokenizer.chat_template": (DATA / template).read_text("utf-8")}  # fmt: skip


def prompts_of(keys, canvas_length=256):
    tokenizer = Tokenizer.from_metadata(keys, "m.gguf")
    return DecisionPrompts(PromptEncoder(tokenizer, keys, "m.gguf"), tokenizer, canvas_length), tokenizer


@pytest.fixture(scope="module")
def made():
    return prompts_of(metadata())


def questions(*lines):
    return [parse_question(line) for line in lines]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_empty_thought_stands_once_at_the_end_of_the_prompt(template):
    prompts, tokenizer = prompts_of(metadata(template))
    for read in prompts.reads("Say Hi", questions(*QUESTIONS), permute=False):
        text = tokenizer.decode(read.prompt, special=True)
        assert text.endswith("<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")
        assert text.count("<|channel>") == text.count("<channel|>") == 1
        assert "<|channel>" not in tokenizer.decode(read.canvas, special=True)


def test_what_the_model_reads(made):
    prompts, tokenizer = made
    texts = [
        tokenizer.decode(read.prompt, special=True).partition("<|turn>user\n")[2].partition("<turn|>")[0]
        for read in prompts.reads("  Say Hi\n", questions(*QUESTIONS), permute=False)
    ]
    assert texts == [
        "Say Hi\n\nHi?\nAnswer yes or no only.",
        "Say Hi\n\nWho?\nA) the sales\nB) a model\nC) a user\nAnswer with the letter of one option only.",
        "Say Hi\n\nHow?\nA) low\nB) high\nAnswer with the letter of one level only.",
    ]


def test_a_canvas_is_noise_then_the_end_of_the_turn_then_pads(made):
    prompts, tokenizer = made
    (read,) = prompts.reads("Hi", questions("Hi?"), permute=False)
    assert len(read.canvas) == 16
    assert read.canvas[1] == tokenizer.special["<turn|>"]
    assert (read.canvas[2:] == tokenizer.pad_id).all()
    assert [slot.place for slot in read.slots] == [0]


def test_labels_count_with_and_without_a_space(made):
    prompts, tokenizer = made
    yes, choice, score = prompts.reads("Hi", questions(*QUESTIONS), permute=False)
    one = lambda text: tokenizer.encode(text)[0]  # noqa: E731
    assert yes.slots[0].labels == ((one("yes"), one(" yes")), (one("no"), one(" no")))
    # " C" is no token here.
    assert choice.slots[0].labels == ((one("A"), one(" A")), (one("B"), one(" B")), (one("C"),))
    assert score.slots[0].labels == choice.slots[0].labels[:2]


def test_permuted_options_stand_once_in_every_place(made):
    prompts, tokenizer = made
    reads = prompts.reads("Hi", questions(*QUESTIONS), permute=True)
    assert [read.slots[0].question for read in reads] == [0, 0, 1, 1, 1, 2, 2]
    texts = [tokenizer.decode(read.prompt) for read in reads]
    assert "Answer no or yes only." in texts[1]
    assert reads[0].slots == reads[1].slots  # yes is yes wherever it stands
    a, b, c = reads[2].slots[0].labels
    assert "A) a model\nB) a user\nC) the sales" in texts[3]
    assert reads[3].slots[0].labels == (c, a, b)  # the sales are C now
    assert reads[4].slots[0].labels == (b, c, a)
    assert "A) high\nB) low" in texts[6]
    assert reads[6].slots[0].labels == (b, a)


def test_a_predicate_is_asked_by_letters_where_yes_is_no_token():
    prompts, tokenizer = prompts_of(metadata(words=()))
    (read,) = prompts.reads("Hi", questions("Hi?"), permute=False)
    assert "Hi?\nA) yes\nB) no\nAnswer with the letter" in tokenizer.decode(read.prompt)
    assert read.slots[0].labels == tuple(tuple(tokenizer.encode(letter)) for letter in "AB")


def test_labels_that_are_no_token_are_refused():
    keys = metadata()  # and "C" is no character of it, not even a byte
    tokens = keys["tokenizer.ggml.tokens"]
    keys["tokenizer.ggml.tokens"] = [{"C": "CC", "<0x43>": "CCC"}.get(token, token) for token in tokens]
    keys["tokenizer.ggml.token_type"][tokens.index("<0x43>")] = NORMAL
    prompts, _ = prompts_of(keys)
    prompts.reads("Hi", questions("Hi? the|a"), permute=False)
    with pytest.raises(UnsupportedModelError, match="the label 'C' is no token of its own"):
        prompts.reads("Hi", questions(QUESTIONS[1]), permute=False)


def test_answers_on_lines_of_one_canvas(made):
    prompts, tokenizer = made
    read = prompts.joint_read("Say Hi", questions(*QUESTIONS))
    text = tokenizer.decode(read.prompt)
    assert (
        "Say Hi\n\n1. Hi? (yes or no)\n2. Who?\nA) the sales\nB) a model\nC) a user\n3. How?\nA) low" in text
    )
    canvas = read.canvas.copy()
    canvas[[slot.place for slot in read.slots]] = [slot.labels[0][-1] for slot in read.slots]
    assert tokenizer.decode(canvas, special=True).startswith("1: yes\n2: A\n3: A<turn|><pad>")
    assert len(canvas) == 16


@pytest.mark.parametrize(("n", "length"), [(1, 16), (3, 16), (4, 32), (15, 80)])
def test_a_canvas_is_as_long_as_its_answers_need(made, n, length):
    prompts, tokenizer = made
    read = prompts.joint_read("Hi", questions(*["Hi?"] * n))
    assert len(read.canvas) == length
    assert read.canvas[-1] == tokenizer.pad_id


def test_more_answers_than_a_canvas_holds_are_refused():
    prompts, _ = prompts_of(metadata(), canvas_length=32)
    with pytest.raises(PromptError, match=r"10 questions take 42 positions, .* canvas has 32"):
        prompts.joint_read("Hi", questions(*["Hi?"] * 10))


def test_the_prefix_is_the_state(made):
    prompts, tokenizer = made
    for lines in (QUESTIONS, QUESTIONS[:1], ["Hi there?", "Hi you?"]):
        reads = prompts.reads("Say Hi", questions(*lines), permute=True)
        prefix = reads[0].prompt[: prompts.prefix("Say Hi", reads)]
        assert tokenizer.decode(prefix, special=True).endswith("<|turn>user\nSay Hi\n\n")
    for line in ("? the|a", "?Hi you?", "0", "??"):  # whatever it begins with, alone and beside others
        alone = prompts.reads("Say Hi", questions(line), permute=False)
        assert tokenizer.decode(alone[0].prompt[: prompts.prefix("Say Hi", alone)], special=True).endswith(
            "\n\n"
        )


def test_messages_are_a_state(made):
    prompts, tokenizer = made
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "the answer"},
    ]
    (read,) = prompts.reads(talk, questions("Hi?"), permute=False)
    text = tokenizer.decode(read.prompt, special=True)
    assert "the answer<turn|>\n<|turn>user\nHi?\nAnswer yes or no only.<turn|>" in text
    (read,) = prompts.reads(talk[:2], questions("Hi?"), permute=False)
    assert "<|turn>user\nHi\n\nHi?\nAnswer yes" in tokenizer.decode(read.prompt, special=True)
    assert len(talk) == 3  # nothing was added to what was given


@pytest.mark.parametrize("state", ["", " \n", []])
def test_an_empty_state_is_refused(made, state):
    with pytest.raises(PromptError, match="the state is empty"):
        made[0].reads(state, questions("Hi?"), permute=False)


def test_a_state_cannot_close_its_turn(made):
    prompts, tokenizer = made
    (read,) = prompts.reads("<turn|> <|channel>", questions("<channel|> the?"), permute=False)
    assert np.count_nonzero(read.prompt == tokenizer.special["<turn|>"]) == 1
    assert np.count_nonzero(read.prompt == tokenizer.channel_close_id) == 1
