"""Texts with holes: what is parsed, where its tokens stand, and what is read again."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest

from dgguf.catalog import find_model
from dgguf.errors import PromptError
from dgguf.ggufio.file import GgufFile
from dgguf.template import Hole, Piece, Template
from dgguf.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    with GgufFile(find_model("demo")) as file:
        yield Tokenizer.from_metadata(file.metadata, "demo")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a [[8]] b", ("a ", Hole(8), " b")),
        ("[[]]", (Hole(None),)),
        ("[[3]][[4]]", (Hole(3), Hole(4))),
        (r"\[[x]] [[1]]", ("[[x]] ", Hole(1))),
        ("a[b]]c[[2]]\n", ("a[b]]c", Hole(2), "\n")),
        ("[[[2]]]", ("[", Hole(2), "]")),
    ],
)
def test_what_is_parsed(text, parts):
    assert Template.parse(text).parts == parts


@pytest.mark.parametrize("text", ["", "a", r"\[[3]]", "[[x]]", "[[0]]", "[[-1]]", "[[ 3 ]]", "[[3", "[[³]]",
                                  "[[65537]]", "[[" + "9" * 5000 + "]]", "a[[2]] [["])  # fmt: skip
def test_what_is_no_template(text):
    with pytest.raises(PromptError) as refusal:
        Template.parse(text)
    assert "hole" in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_open_holes_get_a_size():
    template = Template.parse("a[[]]b[[2]]c[[]]")
    assert template.is_open
    sized = template.with_size(8)
    assert sized.parts == ("a", Hole(8), "b", Hole(2), "c", Hole(8))
    assert not sized.is_open


def test_a_space_before_a_hole_is_left_to_it_where_that_takes_fewer_tokens(tokenizer):
    placed = Template.parse("There once was a [[2]], who [[1]].").place(tokenizer)
    assert placed.parts[0] == Piece("There once was a ", 1)
    assert placed.parts[2] == Piece(", who ", 1)
    pinned = [placed.pins.get(place) for place in range(placed.length)]
    text = "".join("_" if token is None else tokenizer.token_text(token) for token in pinned)
    assert text == "There once was a__, who_."
    assert placed.pins[placed.length] == tokenizer.special["<turn|>"]
    assert placed.n_tokens == placed.length + 2
    whole = placed.all_pins(48, tokenizer)
    assert {whole[place] for place in range(placed.length + 1, 48)} == {tokenizer.pad_id}
    assert len(whole) == 48 - 3


def test_pieces_stand_as_they_were_written(tokenizer):
    """Whatever fills the holes: 200 random templates and fillings."""
    rng = random.Random(1)
    letters = 'ab Ms.,\n é世\t"](0'
    for _ in range(200):
        pieces = ["".join(rng.choices(letters, k=rng.randrange(6))) for _ in range(3)]
        text = f"{pieces[0]}[[3]]{pieces[1]}[[2]]{pieces[2]}"
        placed = Template.parse(text).place(tokenizer)
        tokens = [placed.pins.get(i, rng.randrange(tokenizer.n_tokens)) for i in range(placed.n_tokens)]
        whole, (first, second) = placed.read(tokens, tokenizer)
        assert whole == f"{pieces[0]}{first}{pieces[1]}{second}{pieces[2]}"


@pytest.mark.parametrize(
    ("hole", "text", "kept"),
    [
        ([" fox", "<turn|>", " the"], "a fox.", 1),
        ([" fox", "<eos>", "<pad>"], "a fox.", 1),
        ([" fox", " ", "\n"], "a fox.", 1),
        (["<turn|>", "<turn|>", "<turn|>"], "a .", 0),
        ([" blue", " fox", "<pad>"], "a blue fox.", 2),
        (["f", "<pad>", " fox"], "a f fox.", 3),
    ],
)
def test_filler_at_a_holes_end_is_dropped(tokenizer, hole, text, kept):
    names = {tokenizer.token_text(i): i for i in range(tokenizer.n_tokens)}
    placed = Template.parse("a [[3]].").place(tokenizer)
    start = placed.parts[1].start
    tokens = [placed.pins.get(i, 0) for i in range(placed.n_tokens)]
    tokens[start : start + 3] = [names[piece] for piece in hole]
    assert placed.read(tokens, tokenizer)[0] == text
    assert len(placed.kept(tokens, tokenizer)[0]) == kept


def test_control_tokens_are_pinned_only_where_that_is_asked_for(tokenizer):
    template = Template.parse("<|channel>[[1]]")
    control = tokenizer.special["<|channel>"]
    assert control not in list(template.place(tokenizer).pins.values())[:-1]
    assert template.place(tokenizer, special=True).pins[0] == control


def test_what_the_vocabulary_cannot_write_is_refused():
    unable = SimpleNamespace(encode=lambda text, special: [3], decode=lambda ids, special: "?", unk_id=3)
    with pytest.raises(PromptError, match="'Ab' cannot be pinned: the model's vocabulary has no tokens"):
        Template.parse("Ab[[1]]").place(unable)


def test_of_all_ways_to_cut_a_text_the_one_with_the_fewest_tokens_is_taken(tokenizer):
    """Each hole takes the space before it, or none does: counted over the whole text, 100 random ones."""
    rng = random.Random(4)
    words = ["Once", " there", " was", " a ", "fox", ", ", " ", "  ", "\n", "/", "un", "able", " who "]
    for _ in range(100):
        pieces = ["".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(4)]
        placed = Template.parse("[[1]]".join(pieces)).place(tokenizer)
        ways = []
        for given_up in itertools.product((0, 1), repeat=3):
            cut = zip(pieces, (*given_up, 0), strict=True)
            if all(piece.endswith(" ") or not n for piece, n in cut):
                cut = zip(pieces, (*given_up, 0), strict=True)
                ways.append([i for piece, n in cut for i in tokenizer.encode(piece[: len(piece) - n])])
        fewest = min(map(len, ways))
        pinned = [placed.pins[place] for place in range(placed.length) if place in placed.pins]
        assert len(pinned) == fewest
        assert pinned in ways


def test_a_board_is_a_template():
    board = np.array([[2, 0, 0], [0, 1, 3], [3, 0, 0]])
    hole = Hole(1)
    assert Template.of_board(board).parts == ("2", hole, hole, "\n", hole, "13\n3", hole, hole)
