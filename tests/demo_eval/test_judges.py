"""Each judge of tools/demo_eval: answers that it must pass, and answers that it must not."""

import pytest

from tools.demo_eval import sudoku
from tools.demo_eval import text_checks as checks
from tools.demo_eval.judges import JUDGES, judge

STORY = (
    "Once there was a girl named Mia. One day she met a blue fox by the sea. The fox was hungry, so Mia "
    "gave it two carrots. They were happy."
)
DECLINED = "I do not know that. I am a tiny model."
GRID4 = "21.33..1...21..."
GRID6 = "." * 36
CAT = {"before": "The cat", "after": "on the mat", "accept": ["sat"]}
SOLVED6 = "123456456123231564564231312645645312"
PROMPT = {"id": "x", "messages": ["Please"]}

# judge, what the entry says, answer, outcome
CASES = [
    ("story", {"names": ["Mia"], "facts": ["fox", "two|2"]}, STORY, "right"),
    ("story", {"names": ["Mio"]}, STORY, "wrong"),
    ("story", {"facts": ["bear"]}, STORY, "wrong"),
    ("story", {"none": ["fox"]}, STORY, "wrong"),
    ("story", {"sentences": 3}, STORY, "wrong"),
    ("story", {"sentences": 4}, STORY, "right"),
    ("story", {"least_sentences": 6}, STORY, "wrong"),
    ("story", {"most_sentences": 3}, STORY, "wrong"),
    ("story", {"dialogue": True}, STORY, "wrong"),
    ("story", {"dialogue": True}, 'Mia met a fox. "Hi," said Mia. "I am sorry," said the fox.', "right"),
    ("story", {}, "A fox ran. It fell.", "wrong"),
    ("story", {}, "There was a owl. It flew away. It slept.", "wrong"),
    ("story", {"names": ["Leo"]}, "Leo and Leo met a fox. They played. They slept.", "wrong"),
    ("story", {"names": ["Oluwaseun"]}, "Oluwaseun ran. Then Oluwaseum fell. He slept.", "wrong"),
    ("story", {}, "Mia ran ran ran home. She slept. She woke.", "garbled"),
    ("story", {}, "Mia met the the fox. It slept. It woke.", "garbled"),
    ("story", {}, "Mia met a fox. it slept. It woke.", "garbled"),
    ("story", {}, "Mia met a fox. It slept. It woke and", "garbled"),
    ("story", {}, 'Mia said "Hi. The fox ran. It slept.', "garbled"),
    ("story", {}, "A braveTom met a fox. It slept. It woke.", "garbled"),
    ("story", {}, "A fxpqr met Mia. It slept. It woke.", "garbled"),
    ("story", {}, "Mia met a f\ufffdx. It slept. It woke.", "garbled"),
    ("story", {}, "Mia met a fox , and ran. It slept. It woke.", "garbled"),
    ("story", {}, DECLINED, "refused"),
    ("story", {}, "", "garbled"),
    ("smalltalk", {"any": ["hello|hi"]}, "Hello! What shall I tell you?", "right"),
    ("smalltalk", {"any": ["hello|hi"]}, "This is nothing.", "wrong"),
    ("smalltalk", {"any": ["hello|hi"]}, DECLINED, "refused"),
    ("smalltalk", {"any": ["no"], "may_decline": True}, "No, I do not have a body.", "right"),
    ("smalltalk", {"most_words": 3}, "Hello to you all.", "wrong"),
    ("smalltalk", {}, "hello hello hello", "garbled"),
    ("smalltalk", {}, "I am fine. a tiny model that!", "garbled"),
    ("smalltalk", {"system": "Say meow."}, "Hello! meow", "right"),
    ("text", {"all": ["Nova"]}, "I am Nova.", "right"),
    ("text", {"all": ["Nova"]}, "I am Novalis.", "wrong"),
    ("text", {"upper": True}, "HELLO!", "right"),
    ("text", {"upper": True}, "Hello!", "wrong"),
    ("text", {"end": "meow"}, "Hello, meow!", "right"),
    ("text", {"end": "meow"}, "Meow, hello!", "wrong"),
    ("scope", {}, DECLINED, "right"),
    ("scope", {}, "Sorry, that is beyond me.", "right"),
    ("scope", {}, "I am too small for that.", "right"),
    ("scope", {}, "It is Paris.", "wrong"),
    ("scope", {"none": ["Paris"]}, "I do not know, but it is Paris.", "wrong"),
    ("scope", {}, "I do not know. " + "So it is with me and you. " * 10, "wrong"),
    ("scope", {}, "I do not know know know.", "garbled"),
    ("sudoku", {"grid": GRID4}, "2143\n3421\n4312\n1234", "right"),
    ("sudoku", {"grid": GRID4}, "2 1 | 4 3\n3 4 | 2 1\n----+----\n4 3 | 1 2\n1 2 | 3 4", "right"),
    ("sudoku", {"grid": GRID4}, "Here is the 4x4:\n\n[[2,1,4,3],[3,4,2,1],[4,3,1,2],[1,2,3,4]]", "right"),
    ("sudoku", {"grid": GRID4}, "The answer: 2143342143121234", "right"),
    ("sudoku", {"grid": GRID4}, "Row 1: 2143\nRow 2: 3421\nRow 3: 4312\nRow 4: 1234", "right"),
    ("sudoku", {"grid": GRID4}, "2143\n3421\n4312\n1243", "wrong"),
    ("sudoku", {"grid": GRID4}, "1234\n3412\n2143\n4321", "wrong"),
    ("sudoku", {"grid": GRID4}, "2143\n3421\n4312", "garbled"),
    ("sudoku", {"grid": GRID4}, "2143\n34.1\n4312\n1234", "garbled"),
    ("sudoku", {"grid": GRID4}, DECLINED, "refused"),
    ("sudoku", {"grid": GRID4}, "This sudoku has no solution.", "wrong"),
    ("sudoku", {"grid": GRID6}, SOLVED6, "right"),
    ("sudoku", {"grid": GRID6}, SOLVED6.replace("1", "x").replace("2", "1").replace("x", "1"), "wrong"),
    ("sudoku", {"grid": GRID4, "solvable": False}, "This has no solution: row 1 has 2 twice.", "right"),
    ("sudoku", {"grid": GRID4, "solvable": False}, "2143\n3421\n4312\n1234", "wrong"),
    ("sudoku", {"grid": GRID4, "solvable": False}, "No solution.\n2143\n3421\n4312\n1234", "wrong"),
    ("sudoku", {"grid": GRID4, "solvable": False}, DECLINED, "refused"),
    ("sudoku", {"grid": GRID4, "solvable": False}, "000 1 2 [", "garbled"),
    ("sort", {"items": ["10", "9", "9", "-1"]}, "-1, 9, 9, 10", "right"),
    ("sort", {"items": ["10", "9"]}, "Sorted, 2 numbers: 9 10", "right"),
    ("sort", {"items": ["10", "9"]}, "10 9", "wrong"),
    ("sort", {"items": ["10", "9", "9"]}, "9 10", "wrong"),
    ("sort", {"items": ["10", "9"]}, "9, stories and small", "garbled"),
    ("sort", {"items": ["1", "2", "3"], "order": "down"}, "3 2 1", "right"),
    ("sort", {"items": ["1", "2", "3"], "order": "down"}, "1 2 3", "wrong"),
    ("sort", {"items": ["pear", "Anna", "fig"]}, "Anna, fig and pear.", "right"),
    ("sort", {"items": ["pear", "fig"]}, "fig, pear, plum", "wrong"),
    ("sort", {"items": ["pear", "fig"]}, "fig pexrPr", "garbled"),
    ("sort", {"items": ["pear", "fig"]}, DECLINED, "refused"),
    ("reverse", {"text": "garden"}, "nedrag", "right"),
    ("reverse", {"text": "garden"}, 'The word "garden" backwards is "nedrag".', "right"),
    ("reverse", {"text": "garden"}, "n-e-d-r-a-g", "right"),
    ("reverse", {"text": "Kenji"}, "Kenji backwards: i j n e K", "right"),
    ("reverse", {"text": "garden"}, "nedrga", "wrong"),
    ("reverse", {"text": "garden"}, "garden", "wrong"),
    ("reverse", {"text": "garden"}, "nedrag garden", "wrong"),
    ("reverse", {"text": "garden"}, "n\ufffddrag", "garbled"),
    ("reverse", {"text": "garden"}, DECLINED, "refused"),
    ("reverse", {"text": "The cat sat", "unit": "words"}, "sat cat the", "right"),
    ("reverse", {"text": "The cat sat", "unit": "words"}, "Backwards it is: sat cat The.", "right"),
    ("reverse", {"text": "The cat sat", "unit": "words"}, "tas tac eht", "wrong"),
    ("count", {"number": 6}, "There are 6 letters in garden.", "right"),
    ("count", {"number": 6}, "Six.", "right"),
    ("count", {"number": 35}, "20 + 15 = 35", "right"),
    ("count", {"number": 35}, "thirty five", "right"),
    ("count", {"number": 6}, "7", "wrong"),
    ("count", {"number": 6}, "some", "garbled"),
    ("count", {"number": 6}, DECLINED, "refused"),
    ("count", {"sequence": [3, 2, 1]}, "3, 2, 1", "right"),
    ("count", {"sequence": [3, 2, 1]}, "three two one", "right"),
    ("count", {"sequence": [3, 2, 1]}, "3 2 1 0", "wrong"),
    ("json", {"value": {"name": "Tom", "age": 5}}, '{"name": "Tom", "age": 5}', "right"),
    ("json", {"value": {"name": "Tom", "age": 5}}, '```json\n{"age": 5, "name": "Tom"}\n```', "right"),
    ("json", {"value": {"name": "Tom", "age": 5}}, '{"name": "Tom", "age": 6}', "wrong"),
    ("json", {"value": {"name": "Tom"}}, '{"name": "Tom", "age": 6}', "wrong"),
    ("json", {"value": {"name": "Tom"}}, '{"name": "Tom", "name": "Tom"}', "garbled"),
    ("json", {"value": {"name": "Tom"}}, '{"name": braveTom}', "garbled"),
    ("json", {"value": {"name": "Tom"}}, '{"name": "Tom"}}', "garbled"),
    ("json", {"value": [1, 2]}, "[1, 2]", "right"),
    ("json", {"value": [1, 2]}, "[2, 1]", "wrong"),
    ("json", {"value": {"wild": False}}, '{"wild": false}', "right"),
    ("json", {"value": {"wild": False}}, '{"wild": 1}', "wrong"),
    ("json", {"messages": ["Tom has two dogs"], "values": ["Tom", 2]}, '{"a": "tom", "b": [2]}', "right"),
    ("json", {"messages": ["Tom has two dogs"], "values": ["Tom", 2]}, '{"who": "Tom"}', "wrong"),
    ("json", {"messages": ["Tom has two dogs"], "values": ["Tom"]}, '{"who": "Tom", "x": "cat"}', "wrong"),
    ("json", {"value": {}}, DECLINED, "refused"),
    ("json", {"value": {}}, "name is Tom", "garbled"),
    ("poem", {"form": "word", "rhyme": "cat"}, "hat", "right"),
    ("poem", {"form": "word", "rhyme": "cat"}, "Hat and bat rhyme with cat.", "right"),
    ("poem", {"form": "word", "rhyme": "day"}, "They are: play, way, weigh", "right"),
    ("poem", {"form": "word", "rhyme": "cat"}, "dog", "wrong"),
    ("poem", {"form": "word", "rhyme": "cat"}, "cat", "wrong"),
    ("poem", {"form": "haiku"}, "An old silent pond\nA frog jumps into it now\nNight is here again", "right"),
    ("poem", {"form": "haiku"}, "A pond\nA frog\nSplash.", "wrong"),
    ("poem", {"form": "haiku", "topic": "sea"}, "An old pond\nA frog\nSplash.", "wrong"),
    ("poem", {"form": "couplet"}, "The stars are bright,\nso is the night.", "right"),
    ("poem", {"form": "couplet"}, "The stars are bright,\nso is the moon.", "wrong"),
    ("poem", {"form": "couplet"}, "The boat at sea\nlooks like a tree.", "right"),
    ("poem", {"form": "poem"}, "I see the sea,\nthe cat in the tree,\na star so high\nin the sky.", "right"),
    ("poem", {"form": "poem"}, "I see the sea.", "wrong"),
    ("poem", {"form": "poem"}, "Sea sea sea\ntree", "garbled"),
    ("poem", {"form": "poem"}, DECLINED, "refused"),
    ("decide", {"choices": ["yes", "no"], "answer": "yes"}, "Yes, it is.", "right"),
    ("decide", {"choices": ["yes", "no"], "answer": "yes"}, "no", "wrong"),
    ("decide", {"choices": ["yes", "no"], "answer": "no"}, "No, I cannot see one.", "right"),
    ("decide", {"choices": ["happy", "sad"], "answer": "sad"}, "It is not happy but sad.", "wrong"),
    ("decide", {"choices": ["happy", "sad"], "answer": "sad"}, "It is blue.", "wrong"),
    ("decide", {"choices": ["happy", "sad"], "answer": "sad"}, DECLINED, "refused"),
    ("decide", {"choices": ["happy", "sad"], "answer": "sad"}, "sad sad sad", "garbled"),
    ("decide", {"low": 4, "high": 5}, "I would say 5 out of 5", "right"),
    ("decide", {"low": 4, "high": 5}, "2/5", "wrong"),
    ("decide", {"low": 4, "high": 5}, "many", "wrong"),
    ("fill", CAT, "sat", "right"),
    ("fill", CAT, "The cat sat on the mat.", "right"),
    ("fill", CAT, "Green", "wrong"),
    ("fill", CAT, "The cat green on the mat.", "wrong"),
    ("fill", CAT, "The cat sat in a tree.", "wrong"),
    ("fill", CAT, "The cat ___ on the mat.", "wrong"),
    ("fill", {"before": "The sky is", "after": "", "accept": ["blue"]}, "The sky is blue.", "right"),
    ("fill", {"before": "The sky is", "after": "", "accept": ["blue"]}, DECLINED, "refused"),
    ("fill", {"before": "The sky is", "after": "", "accept": ["blue"]}, "blue blue blue", "garbled"),
    ("tool", {"number": 391}, '{"tool": "calculator", "expression": "23 * 17"}', "right"),
    ("tool", {"number": 391}, "calculator(23*17)", "right"),
    ("tool", {"number": 84}, "call:calculator{expression:(15 + 6) * 4}", "right"),
    ("tool", {"number": 84}, "calculator((15 + 6) * 4)", "right"),
    ("tool", {"number": 84}, "calculator(4 * (15 + 6))", "right"),
    ("tool", {"number": 84}, "calculator(84)", "wrong"),
    ("tool", {"number": 391}, "calculator(23+17)", "wrong"),
    ("tool", {"number": 391}, "391", "wrong"),
    ("tool", {"number": 391}, "calculator(now)", "wrong"),
    ("tool", {"number": 391}, DECLINED, "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wanted", "answer", "outcome"), CASES)
def test_verdict(name, wanted, answer, outcome):
    verdict = judge({**PROMPT, "kind": name, **wanted}, [answer])
    assert verdict.outcome == outcome, verdict
    assert bool(verdict.reason) == (outcome in ("wrong", "garbled"))


LONGER = STORY[:-1] + " ever after. Then they went home."
FOLLOW_UPS = [
    ({"relation": "another"}, LONGER, "right"),
    ({"relation": "another"}, STORY, "wrong"),
    ({"relation": "another"}, DECLINED, "refused"),
    ({"relation": "longer", "names": ["Mia"]}, LONGER, "right"),
    ({"relation": "longer", "names": ["Tom"]}, LONGER, "wrong"),
    ({"relation": "longer"}, "Mia met a fox. It ate. It slept.", "wrong"),
    ({"relation": "shorter"}, "Mia met a fox. It ate. It slept.", "right"),
    ({"relation": "shorter"}, LONGER, "wrong"),
    ({"relation": "shorter"}, "Mia met a fox. It ate. it slept", "garbled"),
    ({"relation": "from_story"}, "Mia gave the fox two carrots.", "right"),
    ({"relation": "from_story"}, "Mia gave the fox a hat.", "wrong"),
    ({"relation": "from_story"}, "Mia gave the fox.", "wrong"),
    ({"relation": "from_story"}, STORY, "wrong"),
    ({"relation": "from_story"}, DECLINED, "refused"),
    ({"all": ["carrots"]}, "Two carrots.", "right"),
    ({"all": ["carrots"]}, "Two apples.", "wrong"),
]


@pytest.mark.parametrize(("wanted", "answer", "outcome"), FOLLOW_UPS)
def test_followup(wanted, answer, outcome):
    messages = ["Tell me a story about Mia and a fox.", "What did Mia give the fox?"]
    verdict = judge({"id": "x", "kind": "followup", "messages": messages, **wanted}, [STORY, answer])
    assert verdict.outcome == outcome, verdict


def test_every_judge_passes_and_fails():
    for name in JUDGES.keys() - {"followup"}:
        outcomes = {outcome for case, _, _, outcome in CASES if case == name}
        assert {"right", "wrong"} <= outcomes, name


def test_one_answer_for_each_message():
    with pytest.raises(ValueError, match="1 answers to 2 messages"):
        judge({"id": "x", "kind": "text", "messages": ["a", "b"]}, ["c"])


def test_sentences_keep_what_is_said_together():
    assert len(checks.sentences('"Hi! Who are you?" said Mia. "I am Dr. Fox." He ran away.')) == 3


def test_what_a_character_says_is_no_refusal():
    assert checks.declines("I don't know that.")
    assert checks.declines("I only know sudokus.")
    assert not checks.declines("I only know sudokus.", limits=False)
    assert not checks.declines('"I do not know," said the fox.')
    assert not checks.declines("The fox was sorry that the bird was unable to fly.")


@pytest.mark.parametrize("grid", [GRID6, SOLVED6[:10] + "." * 26])
def test_solver_finds_a_solution(grid):
    found = next(sudoku.solutions(grid))
    assert sudoku.fault(found, grid) is None


def test_solver_sees_that_there_is_none():
    assert not list(sudoku.solutions("11.............."))
    assert not list(sudoku.solutions("123.4..........."[:4] + "...4" + "." * 8))
