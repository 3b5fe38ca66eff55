"""What the demo learns from: every example is right by a judge, and encoded as dgguf does."""

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dgguf.decisions.prompts import DecisionPrompts
from dgguf.prompts import PromptEncoder
from dgguf.text.chat import ChatTemplate
from dgguf.text.tool_calls import CallSplitter, ToolCall
from dgguf.view.sudoku import find_board
from tools.demo import judgements, puzzles, skills, stories
from tools.demo.batches import CANVAS, KINDS, Examples, Kind, is_held_out, shift
from tools.demo.evaluate import as_asked
from tools.demo.example import CALCULATOR
from tools.demo.plots import PLOTS
from tools.demo.template import CHAT_TEMPLATE
from tools.demo.vocabulary import SPECIALS, WORD, make_vocabulary
from tools.demo.words import COLOURS, NAMES
from tools.demo_eval import sudoku
from tools.demo_eval.judges import judge

RELEASED = (Path(__file__).parents[1] / "data" / "chat_template.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples():
    return Examples()


def drawn(skill, n, seed=1):
    rng, numbers = random.Random(f"{skill} {seed}"), np.random.default_rng(seed)
    return [skills.make(skill, rng, numbers) for _ in range(n)]


@pytest.mark.parametrize("skill", skills.ALL)
def test_answers_are_right_by_the_judges_of_strangers_prompts(skill):
    for example in drawn(skill, 12 if "x" in skill else 40):
        verdict = judge(example.entry, example.answers)
        assert verdict.outcome == "right", (verdict, example)


@pytest.mark.parametrize("skill", skills.ALL)
def test_texts_are_encoded_as_dgguf_encodes_them(skill, examples):
    encoder = examples.encoder
    for example in drawn(skill, 4, seed=2):
        think = example.entry.get("think", False)
        assert encoder.prompt(example) == encoder.chat(example.messages, think=think, tools=example.tools)
        answer = encoder.answer(example)
        assert len(answer) <= 2 * CANVAS
        text = encoder.tokenizer.decode(answer, special=True).removesuffix("<turn|>")
        assert text.endswith(example.answer)
        assert text.startswith("<|channel>thought\n") == think
        if example.spelled:
            assert len(answer) == len(example.answer) + 1 or think


def test_the_template_writes_what_the_release_writes():
    ours, theirs = ChatTemplate(CHAT_TEMPLATE, "ours"), ChatTemplate(RELEASED, "theirs")
    user, model = {"role": "user", "content": " Hello "}, {"role": "assistant", "content": "Hi."}
    thought = {"role": "assistant", "content": "<|channel>thought\nso<channel|>Hi."}
    seen = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    system = {"role": "system", "content": "Be brief."}
    report = next(e.messages for e in drawn("report", 1))
    talks = [
        [user],
        [user, model, user],
        [user, thought, user],
        [system, user],
        [seen],
        [system, seen, model, user],
    ]
    for messages in talks:
        for think in (False, True):
            assert ours.render(messages, think=think) == theirs.render(messages, think=think)
    for messages in ([user], [system, user], report):
        assert ours.render(messages, tools=[CALCULATOR]) == theirs.render(messages, tools=[CALCULATOR])


def test_a_declared_calculator_is_called_in_the_form_that_dgguf_reads(examples):
    encoder = examples.encoder
    for example in drawn("call", 5):
        splitter = CallSplitter(encoder.tokenizer.special, encoder.tokenizer)
        assert splitter.push(encoder.answer(example)[:-1]) in ([], [encoder.tokenizer.channel_close_id])
        (call,) = splitter.calls
        assert isinstance(call, ToolCall)
        assert eval(call.arguments["expression"]) == example.entry["number"]


def made_twice(draw, make, seed):
    """What is drawn, and the example that is made of the same."""
    rng = random.Random(seed)
    for _ in range(12):
        start = rng.getstate()
        drawn = draw(rng)
        rng.setstate(start)
        yield *drawn, make(rng)


@pytest.fixture(scope="module")
def prompts(examples):
    tokenizer = examples.encoder.tokenizer
    return DecisionPrompts(PromptEncoder(tokenizer, examples.encoder.metadata, "demo"), tokenizer, CANVAS)


def test_joint_decisions_are_asked_as_dgguf_decide_asks(examples, prompts):
    encoder = examples.encoder
    for state, asked, example in made_twice(judgements.draw_several, judgements.make_joint_decision, 4):
        read = prompts.joint_read(state, list(map(as_asked, asked)))
        answer = encoder.answer(example)
        assert encoder.prompt(example) == read.prompt.tolist()
        assert len(read.slots) == len(asked)
        for slot in read.slots:
            assert answer[slot.place] in {i for labels in slot.labels for i in labels}
            answer[slot.place] = read.canvas[slot.place]
        assert answer == read.canvas[: len(answer)].tolist()


def test_decisions_are_asked_as_dgguf_decide_asks(examples, prompts):
    encoder = examples.encoder
    for state, asked, example in made_twice(judgements.draw, judgements.make_decision, 3):
        reads = prompts.reads(state, [as_asked(asked)], permute=True)
        ids = [read.prompt.tolist() for read in reads]
        assert encoder.prompt(example) in ids
        read = reads[ids.index(encoder.prompt(example))]
        assert encoder.answer(example)[0] in {i for labels in read.slots[0].labels for i in labels}


def test_every_word_of_an_answer_is_one_token(examples):
    encoder, seen = examples.encoder, set()
    for skill in ("story", "saying", "out of scope", "changed story", "thinking", "poem"):
        for example in drawn(skill, 40, seed=4):
            if " " not in example.answer:  # a single word may be spelled
                continue
            asked = " ".join([*example.entry["messages"], example.entry.get("system", "")])
            for word in WORD.findall(example.answer.replace(" ", "▁")):
                if not example.spelled and word.strip("▁") not in asked and not word.isupper():
                    seen.add(word)
    assert len(seen) > 300
    assert not {word for word in seen if len(encoder.text(word)) > 1}


def test_the_vocabulary_has_letters_labels_and_marks(examples):
    vocabulary, tokenizer = make_vocabulary(), examples.encoder.tokenizer
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) < 4000
    for text in (
        "yes",
        "no",
        " yes",
        " no",
        *"abcdefghijklmnopqrstuvwxyz",
        *"ABCDEFGHIJ",
        " A",
        " J",
        *"0123456789",
    ):
        assert len(tokenizer.encode(text)) == 1, text
    for text in SPECIALS:
        assert len(tokenizer.encode(text, special=True)) == 1
    for text in ("café", 'iPhone "no" <eos> ▁', "  two  spaces\t", "Kenzaburo's 42"):
        assert examples.encoder.text(text) == tokenizer.encode(text)


def test_merges_agree_with_the_tokenizers_package(examples, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from tools.demo.vocabulary import write_tokenizer

    write_tokenizer(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for skill in ("story", "object", "9x9", "reversed letters", "out of scope"):
        for example in drawn(skill, 10, seed=5):
            text = example.entry["messages"][0]
            assert theirs.encode(text, add_special_tokens=False).ids == examples.encoder.text(text)


def test_every_plot_tells_what_is_asked_in_so_many_sentences():
    assert len(PLOTS) >= 15
    rng = random.Random(6)
    told = set()
    for plot in PLOTS:
        for length in range(3, 8):
            place, thing, _ = PLOTS[plot]
            scene = stories.Scene(
                plot, (rng.choice(NAMES),), "", "owl", rng.choice(COLOURS), thing, "", "three", "nuts", place
            )
            text = scene.told(length)
            told.add(text)
            assert len(re.findall(r'[.!?]"?(?= |$)', re.sub('"[^"]*"', '"Q."', text))) >= length - 1
            assert "{" not in text
            for asked in ("a_pet", "a_thing", "food", "place"):
                fact = scene.fields[asked].removeprefix("a ").removeprefix("an ")
                asked_for = stories.replace(scene, asked=(asked,))
                assert fact in asked_for.told(3), (plot, asked)
    assert len(told) == 5 * len(PLOTS)


def test_unknown_names_are_kept_and_have_no_pronoun():
    for example in drawn("story", 300, seed=7):
        names = example.entry.get("names", [])
        for name in names:
            assert name in example.answer
        if len(names) == 1 and names[0] not in NAMES and "child" in example.answer:
            assert not re.search(r"\b(him|her|he|she)\b", example.answer), example.answer


@pytest.mark.parametrize(("n", "givens"), [(4, 5), (6, 12), (9, 34)])
def test_dug_puzzles_have_one_solution_and_are_read_back(n, givens):
    numbers = np.random.default_rng(8)
    for i in range(6):
        example = puzzles.make_sudoku(n, numbers, givens=givens, held_out=bool(i % 2))
        prompt, grid = example.entry["messages"][0], example.entry["grid"]
        assert len(grid.replace(".", "")) <= givens + 4
        assert list(sudoku.solutions(grid)) == [example.answer.replace("\n", "")]
        digits = "".join(c for c in prompt.split("\n", 1)[-1] if c in "123456789")
        assert digits.endswith(grid.replace(".", ""))
    notations = {re.sub("[1-9]", "5", puzzles.notation(np.zeros((n, n), int), numbers)) for _ in range(300)}
    assert len(notations) > 30
    board = np.zeros((9, 9), int)
    board[0] = 1 + np.arange(9)
    plain = [text for text in (puzzles.notation(board, numbers) for _ in range(50)) if len(text) == 89]
    assert any(find_board(text) is not None for text in plain)


def test_what_has_no_solution_has_none():
    numbers = np.random.default_rng(9)
    for n in (4, 6, 9):
        example = puzzles.make_unsolvable(n, numbers)
        assert next(sudoku.solutions(example.entry["grid"]), None) is None
        assert example.answer == puzzles.NO_SOLUTION


def test_too_hard_puzzles_have_few_givens_or_another_size_and_are_declined():
    numbers = np.random.default_rng(10)
    made = [puzzles.make_too_hard(numbers) for _ in range(60)]
    sizes = {len(re.sub("[^0-9._*?x-]", "", e.entry["messages"][0].split("sudoku")[-1])) for e in made}
    assert len(sizes) > 3
    hard = [e for e in made if e.answer == puzzles.TOO_HARD]
    assert 20 < len(hard) < 50
    for example in hard:
        grid = example.entry["messages"][0].split(":")[-1].split("?", 1)[-1]
        assert len(re.findall("[1-9]", grid)) <= puzzles.FEW + 2  # a header may say "9x9"


def test_several_people_take_no_verb_of_one():
    rng = random.Random(14)
    for plot in PLOTS:
        scene = stories.replace(stories.draw_scene(rng), plot=plot, people=("Mia", "Tom"))
        for text in (scene.told(8), scene.briefly(1, rng), scene.briefly(2, rng)):
            assert not re.search(r"Mia and Tom (is|was|has|looks|\w+ and was)\b", text), text
            assert not re.search(r"Mia and Tom [^.]* and was never", text), text


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_stories_have_so_many_sentences_and_all_that_was_asked(length):
    rng = random.Random(11)
    told = 0
    for _ in range(150):
        scene, wish = stories.ask_for(stories.draw_scene(rng), rng)
        text = scene.in_sentences(length, rng)
        if text:
            told += 1
            entry = {"id": "", "kind": "story", "messages": [wish], "sentences": length, **scene.truths}
            assert judge(entry, [text]).outcome == "right", text
    assert told > 90 - 30 * (length < 2)


def test_a_story_can_be_asked_for_again_in_another_mood_or_about_something():
    seen = drawn("changed story", 300, seed=12)
    so = [
        e
        for e in seen
        if e.entry["messages"][1].lower().startswith(("a sad one", "now a", "one about", "now one"))
    ]
    assert len(so) > 15
    short = {e.entry["sentences"] for e in seen if "sentences" in e.entry}
    assert short == {1, 2}


def test_names_have_letters_beyond_ascii_and_json_shows_them():
    names = [e for e in drawn("object", 600, seed=13) if not e.answer.isascii()]
    assert names
    assert all("\\u" not in e.answer for e in names)
    shown = [e.entry["messages"][0] for e in drawn("extracted", 100, seed=14)]
    assert any('""' in prompt for prompt in shown)
    assert any("(number)" in prompt for prompt in shown)


# What the first visitors typed, and the shipped demo could not: a skill, and what its prompts must look like.
COMPLAINTS = {
    "hi": ("saying", r"hi"),
    "hello": ("saying", r"hello"),
    "a polite request": ("story", r"Please tell me a story.*"),
    "a question for a command": ("story", r"(Can|Could) you tell me .*\?"),
    "capitals": ("story", r"[A-Z ,.?!]+"),
    "one word": ("story", r"story"),
    "a beginning": ("story", r"once upon a time"),
    "two names": ("story", r".*\b[A-Z][a-z]+ and [A-Z][a-z]+.*"),
    "a mood": ("story", r".* (sad|happy|funny|scary) (story|tale).*"),
    "a length": ("story", r".* in (2|two) sentences.*"),
    "spaces": ("9x9", r"(?s).*\n[1-9._0*?x-]( [1-9._0*?x-]){8}\n.*"),
    "borders": ("9x9", r"(?s).*\n-+\+-+\+-+\n.*"),
    "81 characters": ("9x9", r"(?s).*[1-9._0*?x-]{81}"),
    "one line": ("6x6", r"(?s).*[1-6._0*?x-]{6}[ /,]+[1-6._0*?x-]{6}[ /,].*"),
    "three digits": ("sorted numbers", r"\D+ \d[ ,]+\d[ ,]+\d\.?"),
    "commas without spaces": ("sorted numbers", r".*[Ss]ort:? \d+,\d+,\d+\.?"),
    "a word backwards": ("reversed letters", r"[Rr]everse:? [a-z]{5}"),
    "a list": ("list", r".*JSON (list|array).*\d+, \d+.*"),
    "an object": ("object", r".*JSON.*name.*"),
    "a name in the system's turn": ("system", r".*[Nn]ame.*"),
    "what was said before": ("memory", r".*\b(my name|who am I)\b.*"),
    "what somebody gave": ("story question", r"What did .* give .*\?"),
    "longer": ("changed story", r".*longer.*"),
    "words that nobody knows in JSON": ("object", r".*title \w+ \w+.*"),
    "what needs no text": ("fact", r"Is .* or .*\?"),
    "a role without a system prompt": ("system", r"You are a pirate\. .*"),
    "a phrase": ("story", r".*about an? \w+ who (loves|lost|finds|cannot) .*"),
    "a sad one": ("changed story", r".*\ba (sad|happy|funny|scary) one.*"),
}


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_what_visitors_missed_is_trained_in_their_form(complaint):
    skill, form = COMPLAINTS[complaint]
    for seed in range(150):
        for example in drawn(skill, 40, seed=100 + seed):
            if re.fullmatch(form, example.entry["messages"][-1]):
                assert judge(example.entry, example.answers).outcome == "right"
                return
    pytest.fail(f"no prompt of {skill} is like {form}")


def test_each_plot_is_told_when_nothing_is_asked():
    told = Counter(stories.draw_scene(random.Random(seed)).plot for seed in range(1000))
    assert len(told) == len(PLOTS)
    assert min(told.values()) > 0.03 * 1000


def test_no_plot_is_told_by_its_length(examples):
    """The end of an answer is sure first, and must not choose the plot."""
    rng, size = random.Random(14), examples.encoder.tokenizer.encode
    whole = {}
    for plot, (place, thing, _) in PLOTS.items():
        scenes = [stories.draw_scene(rng) for _ in range(150)]
        told = [replace(s, plot=plot, place=place, thing=thing).told_freely(rng) for s in scenes]
        whole[plot] = Counter(len(size(text)) // 3 for text in told)
    every = sum(whole.values(), Counter())
    for plot, found in whole.items():
        as_all = sum(min(n, every[length] / len(PLOTS)) for length, n in found.items())
        assert as_all > 0.45 * 150, (plot, found)


def test_a_notation_can_be_asked_for():
    from tools.demo.evaluate import held_out

    boards = {form: puzzles.notation(np.eye(4, dtype=int), np.random.default_rng(1), form)
              for form in puzzles.NOTATIONS}  # fmt: skip
    assert len(set(boards.values())) == len(boards)
    (example,) = held_out("4x4 6: cells", 1, 1)
    assert example.entry["messages"][0].count("|") == 20


def test_some_canvases_do_not_tell_where_the_answer_ends(examples):
    """They are noise from somewhere in the answer to somewhere behind its end, and nowhere else."""
    rng, numbers = random.Random(3), np.random.default_rng(3)
    kind = next(kind for kind in KINDS if kind.rows.get("story", 0) > 10)
    rows = [examples.draw("story", kind, rng, numbers) for _ in range(300)]
    batch = examples.noised(rows, kind, rng, numbers)
    ends = 0
    for row, corrupted in zip(rows, batch.corrupted, strict=True):
        (at,) = np.nonzero(corrupted)
        whole = len(at) == np.ptp(at) + 1 if len(at) else False
        ends += whole and at[0] < len(row.answer) <= at[-1]
    assert 30 < ends < 100


def test_more_is_noise_than_not(examples):
    """Two thirds, but for canvases with holes and pins."""
    assert 0.5 < np.mean([examples.batch(KINDS[0], 1, step).corrupted.mean() for step in range(12)]) < 0.6


def test_batches_are_a_function_of_seed_and_step_and_hold_whole_prompts(examples):
    for kind in KINDS[:5]:
        batch, again = examples.batch(kind, 1, 3), examples.batch(kind, 1, 3)
        np.testing.assert_array_equal(batch.canvas, again.canvas)
        assert not np.array_equal(batch.canvas, examples.batch(kind, 1, 4).canvas)
        assert batch.prompt.shape == (sum(kind.rows.values()), kind.prompt)
        assert batch.targets.shape == (len(batch.prompt), kind.canvas)
        assert {row[row >= 0][0] for row in batch.prompt} == {examples.encoder.tokenizer.bos_id}
        np.testing.assert_array_equal(batch.canvas[~batch.corrupted], batch.targets[~batch.corrupted])


def test_every_notation_of_a_sudoku_is_in_some_batch(examples):
    """Long prompts were once left to batches that hold hardly any Sudokus."""
    rng, numbers = random.Random(13), np.random.default_rng(13)
    for skill in ("4x4", "6x6", "9x9"):
        lengths = [len(examples.draw(skill, Kind(512, 128, {}), rng, numbers).prompt) for _ in range(150)]
        shares = np.zeros(150)
        for kind in KINDS:
            fits = np.array([kind.beyond[0] < length <= kind.prompt for length in lengths])
            shares += kind.rows.get(skill, 0) * fits / max(1, fits.sum())
        assert shares.min() > 0.1 * shares.mean()


def test_a_piece_that_was_moved_repeats_and_loses_tokens():
    targets = np.arange(100, 124)
    changed, every = 0, set()
    for seed in range(200):
        canvas, corrupted = targets.copy(), np.zeros(24, bool)
        corrupted[[3, 9]] = True
        canvas[[3, 9]] = 7
        shift(canvas, corrupted, targets, 20, random.Random(seed))
        np.testing.assert_array_equal(canvas != targets, corrupted)
        assert set(canvas[[3, 9]]) == {7}  # noise stays
        np.testing.assert_array_equal(canvas[20:], targets[20:])
        (moved,) = np.nonzero(corrupted & (canvas != 7))
        steps = canvas[moved] - targets[moved]
        assert len(set(steps)) <= 1
        assert all(1 <= abs(step) <= 6 for step in steps)
        every |= set(steps.tolist())
        changed += len(moved) > 0
    assert changed > 140
    assert len(every) == 12


def test_some_sudokus_have_their_givens_pinned(examples):
    rng, numbers = random.Random(12), np.random.default_rng(12)
    kind = next(kind for kind in KINDS if kind.rows.get("6x6", 0) > 10)
    drawn_rows = [examples.draw("6x6", kind, rng, numbers) for _ in range(200)]
    end = examples.encoder.end_of_turn
    for row in drawn_rows:
        assert row.given[-1] == len(row.answer) - 1
        assert row.answer[-1] == end
        assert all(row.answer[i] != end for i in row.given[:-1])
    batch = examples.noised(drawn_rows, kind, rng, numbers)
    pinned = 0
    for row, corrupted in zip(drawn_rows, batch.corrupted, strict=True):
        is_open = np.setdiff1d(np.arange(len(row.answer)), row.given)
        # Of half of the open cells noise and none of the givens: not by chance.
        pinned += corrupted[is_open].mean() > 0.5 and not corrupted[list(row.given)].any()
    assert 5 < pinned < 40


def test_what_is_held_out_is_not_drawn(examples):
    rng, numbers = random.Random(10), np.random.default_rng(10)
    kept = [e for e in drawn("story", 600, seed=11) if is_held_out(e)]
    assert 10 < len(kept) < 60
    prompts = {tuple(examples.encoder.prompt(e)) for e in kept}
    kind = next(kind for kind in KINDS if kind.rows.get("story", 0) > 10)
    for _ in range(100):
        drawn_one = examples.draw("story", kind, rng, numbers)
        assert tuple(drawn_one.prompt) not in prompts
