"""What the demo model is trained and measured on: puzzles, stories, tasks, and the tokenizer."""

import itertools
import random
import re

import numpy as np
import pytest

from dgguf.view.sudoku import find_board
from tools.demo.batches import CANVAS, KINDS, Examples, is_held_out
from tools.demo.checks import is_grammatical, make_cases, read_story, tells
from tools.demo.stories import Facts, make_story
from tools.demo.sudoku import BOXES, count_solutions, make_puzzle, sudoku_prompt, written
from tools.demo.sudoku import is_held_out as is_held_out_board
from tools.demo.tasks import HELD_OUT_QUESTIONS, MAKERS, QUESTIONS
from tools.demo.vocabulary import WORD, make_vocabulary


@pytest.fixture(scope="module")
def examples():
    return Examples()


def obeys(board, n):
    """The rules, spelled out."""
    high, wide = BOXES[n]
    boxes = board.reshape(n // high, high, n // wide, wide).transpose(0, 2, 1, 3).reshape(n, n)
    return all(sorted(group) == list(range(1, n + 1)) for side in (board, board.T, boxes) for group in side)


def slow_count(board, n):
    """Solutions by trying every digit in the first empty cell, without any cleverness."""
    empty = np.argwhere(board == 0)
    if not len(empty):
        return int(obeys(board, n))
    r, c = empty[0]
    high, wide = BOXES[n]
    top, left = r // high * high, c // wide * wide
    total = 0
    for digit in range(1, n + 1):
        if digit not in board[r] and digit not in board[:, c]:
            if digit in board[top : top + high, left : left + wide]:
                continue
            board[r, c] = digit
            total += slow_count(board, n)
            board[r, c] = 0
    return total


@pytest.mark.parametrize(("n", "givens"), [(4, 4), (4, 9), (6, 14), (6, 26), (9, 50)])
def test_puzzles_have_the_one_solution_that_comes_with_them(n, givens):
    numbers = np.random.default_rng(1)
    for held_out in (False, True):
        puzzle, solution = make_puzzle(n, givens, numbers, held_out=held_out)
        assert obeys(solution, n)
        assert np.count_nonzero(puzzle) == givens
        np.testing.assert_array_equal(puzzle[puzzle > 0], solution[puzzle > 0])
        assert is_held_out_board(solution) == held_out
        assert slow_count(puzzle.copy(), n) == 1


def test_solutions_are_counted_as_a_slow_search_counts_them():
    numbers = np.random.default_rng(2)
    counts = []
    for _ in range(30):
        board = make_puzzle(4, 8, numbers, held_out=False)[1]
        board.flat[numbers.permutation(16)[:12]] = 0
        counts.append(slow_count(board.copy(), 4))
        assert count_solutions(board.copy(), 2, 2, 0, 1000) == counts[-1]
        clash = board.copy()
        clash[0, :2] = 1
        assert count_solutions(clash, 2, 2, 0, 1000) == 0
    assert len(set(counts)) > 5


def test_the_view_finds_the_boards_of_prompts():
    numbers = np.random.default_rng(3)
    for n in BOXES:
        puzzle, _ = make_puzzle(n, n * n - 4, numbers, held_out=False)
        prompts = {sudoku_prompt(puzzle, numbers) for _ in range(100)}
        assert len(prompts) > 8
        found = [find_board(prompt) for prompt in prompts if "_" not in prompt]
        assert all(board is not None and len(board) == n for board in found)
        np.testing.assert_array_equal(find_board(written(puzzle)), puzzle)


def test_stories_pass_their_own_checks_and_damaged_ones_do_not():
    rng = random.Random(4)
    for long in (False, True) * 40:
        story = make_story(rng, long=long)
        assert is_grammatical(story.text), story.text
        assert tells(story.text, story.asked), story
        repeated = story.text.replace(" the ", " the the ", 1)
        assert not is_grammatical(repeated)
        _, facts = read_story(story.text)
        stranger = "cat" if facts.animal != "cat" else "dog"
        other = re.sub(rf"\b{facts.animal}\b", stranger, story.text, count=1)
        assert is_grammatical(other)
        assert not tells(other, Facts())
        assert not tells(story.text, Facts(animal=stranger))


def test_no_training_example_is_a_test_case(examples):
    """Nothing with facts of its own: "Tell me a story." and small talk have no other form."""
    tested = {case.prompt for case in make_cases({"story": 20, "sort": 20, "reverse": 20, "json": 20}, 1)}
    assert all(map(is_held_out, tested))
    rng, numbers = random.Random(5), np.random.default_rng(5)
    for skill in ["story", "first canvas", "second canvas", "small"] * 100:
        example = examples.draw(skill, rng, numbers)
        if example.skill in ("talk", "stranger"):
            continue
        text = examples.encoder.tokenizer.decode(example.prompt).split("\n", 1)[1].split("\nmodel")[0]
        assert not is_held_out(text.removesuffix("<turn|>"))
    assert not set(QUESTIONS) & set(HELD_OUT_QUESTIONS)


def test_every_word_is_one_token_and_texts_are_cut_as_dgguf_cuts_them(examples):
    encoder, rng = examples.encoder, random.Random(6)
    for long in (False, True) * 50:
        story = make_story(rng, long=long)
        words = WORD.findall(story.text.replace(" ", "▁"))
        assert {word for word in words if len(encoder.text(word)) > 1} <= {"There", "Here"}
        assert encoder.text(story.text) == encoder.tokenizer.encode(story.text)
    for make in (*MAKERS.values(),) * 50:
        prompt, answer = make(rng)
        assert encoder.text(answer) == encoder.tokenizer.encode(answer)
        assert encoder.prompt(prompt) == encoder.chat(prompt)
    for text in ("café", 'iPhone "no" <eos> ▁', "  two  spaces\t", "JSON's"):
        assert encoder.text(text) == encoder.tokenizer.encode(text)


def test_merges_agree_with_the_tokenizers_package(examples, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from tools.demo.vocabulary import write_tokenizer

    write_tokenizer(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(7)
    for make in (*MAKERS.values(),) * 20:
        text = make(rng)[0]
        assert theirs.encode(text, add_special_tokens=False).ids == examples.encoder.text(text)
    assert theirs.get_vocab_size() == len(make_vocabulary().tokens)


def test_batches_are_a_function_of_seed_and_step(examples):
    first, again, other = (examples.batch(KINDS[0], 1, step) for step in (3, 3, 4))
    np.testing.assert_array_equal(first.canvas, again.canvas)
    assert first.skills == again.skills
    assert not np.array_equal(first.canvas, other.canvas)


def test_batches_hold_prompt_and_answer_whole(examples):
    for kind in KINDS[:2] + KINDS[-1:]:
        batch = examples.batch(kind, 1, 0)
        assert batch.prompt.shape == (sum(kind.rows.values()), kind.prompt)
        assert batch.targets.shape == batch.canvas.shape == (len(batch.prompt), kind.canvas)
        starts = [row[row >= 0][0] for row in batch.prompt]
        assert set(starts) == {examples.encoder.tokenizer.bos_id}
        np.testing.assert_array_equal(batch.canvas[~batch.corrupted], batch.targets[~batch.corrupted])
        for skill, row in zip(batch.skills, batch.targets.tolist(), strict=True):
            assert row.count(examples.encoder.end_of_turn) == (skill != "first canvas")


def test_a_system_turn_stands_where_the_template_puts_it(examples):
    encoder = examples.encoder
    plain, system, thinking = encoder.chat("x"), encoder.chat("x", "Be brief."), encoder.chat("x", think=True)
    turns = [ids[1 : 1 + len(ids) - len(plain)] for ids in (thinking, system)]
    assert examples._system_turns[:2] == turns
    assert [plain[0], *turns[1], *plain[1:]] == system
    texts = [encoder.tokenizer.decode(ids, special=True) for ids in (system, thinking)]
    question = "<|turn>user\nx<turn|>\n<|turn>model\n"
    assert texts[0] == f"<bos><|turn>system\nBe brief.<turn|>\n{question}"
    assert texts[1] == f"<bos><|turn>system\n<|think|>\n<turn|>\n{question}"


def test_long_stories_take_two_canvases(examples):
    rng = random.Random(8)
    lengths = [len(examples.encoder.text(make_story(rng, long=long).text)) for long in (False, True) * 50]
    assert all(length < CANVAS for length in itertools.islice(lengths, 0, None, 2))
    assert all(CANVAS < length < 2 * CANVAS for length in itertools.islice(lengths, 1, None, 2))
