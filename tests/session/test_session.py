"""A session: prompts to ids, answers to text, and the prefix that stays in the KV cache."""

import numpy as np
import pytest

import dgguf
from dgguf.diffusion.events import PromptEncoded
from dgguf.errors import BackendError, ModelFileError, PromptError, UnsupportedModelError
from dgguf.text.chat import check_messages
from tests.support.synthetic.writer import TINY, write_model


def reused(session, prompt, **options):
    return next(e for e in session.stream(prompt, **options) if isinstance(e, PromptEncoded)).reused


def test_generate_is_the_text_of_stream(session, quick):
    answer = session.generate("Hello", **quick)
    tokens = [
        token
        for event in session.stream("Hello", **quick)
        if isinstance(event, dgguf.CanvasCommitted)
        for token in event.tokens[: event.answer_length].tolist()
    ]
    assert answer.tokens == tokens
    assert answer.text == session.decode(np.array(tokens))
    assert (answer.seed, answer.statistics.steps) == (3, [3])


def test_a_seed_repeats_and_no_seed_does_not(session, quick):
    same = [session.generate("Hello", **quick).text for _ in range(2)]
    other = [session.generate("Hello", **quick | {"seed": None}) for _ in range(2)]
    assert same[0] == same[1]
    assert other[0].seed != other[1].seed


def test_the_longest_common_prefix_is_not_encoded_again(session, quick):
    first = session.encode("Hello, how are you?")
    second = session.encode("Hello, how old are you?")
    common = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert reused(session, "Hello, how are you?", **quick) == 0
    assert reused(session, "Hello, how are you?", **quick) == len(first)
    assert reused(session, "Hello, how old are you?", **quick) == common


def test_committed_canvases_stay_in_the_cache(session, quick):
    """A raw prompt that goes on from prompt and answer finds all but the last canvas cached."""
    quick |= {"max_tokens": 96, "raw": True, "seed": 7}  # no stop id comes up, in either mode
    prompt = "Once upon a time"
    events = list(session.stream(prompt, **quick))
    blocks = [e.tokens for e in events if isinstance(e, dgguf.CanvasCommitted)]
    assert len(blocks) == 3
    ids = session._conversation.ids
    assert len(ids) == len(session.encode(prompt, raw=True)) + 2 * len(blocks[0])
    np.testing.assert_array_equal(ids[-len(blocks[1]) :], blocks[1])


def test_a_cancelled_answer_leaves_the_session_usable(session, model, quick):
    wanted = dgguf.load(model).generate("Hello", **quick).text
    events = session.stream("Something else", **quick)
    next(events), next(events)
    events.close()
    assert session.generate("Hello", **quick).text == wanted


def test_prompts(session):
    tokenizer = session.tokenizer
    raw = session.encode("Hello", raw=True)
    assert raw[0] == tokenizer.bos_id
    chat = session.encode("Hello", system="Be brief")
    text = tokenizer.decode(chat.tolist(), special=True)
    assert "Be brief" in text
    assert text.index("Be brief") < text.index("Hello")
    assert chat.tolist().count(tokenizer.bos_id) == 1
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert len(session.encode([*conversation, {"role": "user", "content": "c"}])) > len(chat) - 5
    with_specials = "<|turn>system"
    turn = tokenizer.encode("<|turn>", special=True)[0]
    plain = session.encode(with_specials).tolist().count(turn)
    assert session.encode(with_specials, special=True).tolist().count(turn) == plain + 1


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_empty_prompts_are_refused(session, prompt):
    with pytest.raises(PromptError, match="empty"):
        session.encode(prompt)


def test_contexts_that_do_not_fit_the_model_are_refused(model):
    for context in (32, 4096):
        with pytest.raises(PromptError, match="context"):
            dgguf.load(model, context=context)


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    write_model(tmp_path / "m.gguf", TINY, "F16", shapes={"token_embd.weight": (700, 64)})
    with pytest.raises(UnsupportedModelError, match="700 rows"):
        dgguf.load(tmp_path / "m.gguf")


def test_unknown_names_list_the_known():
    with pytest.raises(ModelFileError, match="demo"):
        dgguf.load("no-such-model")


def test_the_catalog_is_true_of_the_bundled_file():
    from dgguf.catalog import find_model, known_models

    (demo,) = (known for known in known_models() if known.name == "demo")
    assert find_model("demo").stat().st_size == demo.n_bytes
    assert demo.type in {t.format.name for t in dgguf.load("demo").file.tensors.values()}


def test_a_prompt_that_opens_the_thinking_channel_is_answered_in_it(session, quick):
    prompt = session.encode("<|channel>thought\n", raw=True, special=True)
    reader = session.reader(prompt)
    hello = session.tokenizer.encode("hello")
    close = session.tokenizer.channel_close_id
    pieces = reader.push([*hello, close, *hello])
    assert [kind for kind, _ in pieces] == ["thought", "answer"]


def test_ids_are_a_prompt_too(session, quick):
    wanted = session.generate("Hello", **quick).tokens
    events = session.stream(session.encode("Hello"), **quick)
    (committed,) = (event for event in events if isinstance(event, dgguf.CanvasCommitted))
    assert committed.tokens[: committed.answer_length].tolist() == wanted


def test_options_that_make_no_sense_are_refused(session, model):
    for options, error in (
        ({"max_tokens": 0}, PromptError),
        ({"seed": -1}, PromptError),
        ({"seed": 2**64}, PromptError),
        ({"thnik": True}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            session.generate("Hello", **options)
    with pytest.raises(TypeError, match="max_step"):
        session.settings(max_step=3)
    for threads in (0, -1, 10**6):
        with pytest.raises(BackendError, match="threads"):
            dgguf.load(model, threads=threads)


def test_a_newer_answer_ends_an_older_one(session, model, quick):
    wanted = dgguf.load(model).generate("Hello, who are you?", **quick).text
    old = session.stream("Hello, who are you?", **quick)
    next(old), next(old)
    session.generate("Hello, how old are you?", **quick)
    with pytest.raises(PromptError, match="another one"):
        next(old)
    old.close()
    assert session.generate("Hello, who are you?", **quick).text == wanted


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("prompt", "options", "error", "words"),
    [
        (b"Hi", {}, TypeError, "a prompt of type bytes: it must be a str, a list of"),
        (None, {}, TypeError, "a prompt of type NoneType"),
        (USER, {}, TypeError, "a prompt of type dict"),
        (b"Hi", {"raw": True}, TypeError, "a prompt of type bytes"),
        ([1, 2, 3], {}, TypeError, "message 0 is of type int: .* numpy vector"),
        (["Hi"], {}, TypeError, "message 0 is of type str: a message is"),
        ([], {}, PromptError, "the conversation is empty"),
        ([USER, {"content": "Hi"}], {}, PromptError, "message 1 has no role: a message is"),
        ([{"role": "usr", "content": "Hi"}], {}, PromptError, "message 0 has the unknown role 'usr'"),
        ([{"role": ["user"], "content": "Hi"}], {}, PromptError, "message 0 has the unknown role"),
        ([{"role": "user"}], {}, PromptError, "message 0: its content is missing, and must be text"),
        ([{"role": "user", "content": None}], {}, PromptError, "its content is of type NoneType"),
        ([{"role": "user", "content": b"Hi"}], {}, PromptError, "its content is of type bytes"),
        ([{"role": "user", "content": []}], {}, PromptError, "its content is of type list"),
        ("Hi", {"system": b"Be brief."}, TypeError, "the system message must be a str"),
        ("Hi", {"seed": 1.5}, TypeError, "the seed must be an integer, not 1.5"),
        ("Hi", {"seed": "7"}, TypeError, "the seed must be an integer, not '7'"),
        ("Hi", {"max_tokens": 10.0}, TypeError, "max_tokens must be an integer, not 10.0"),
        ("Hi", {"max_tokens": 10**400}, PromptError, "max_tokens must be from 1 to 2147483647"),
    ],
)
def test_what_is_no_prompt_is_told_with_the_right_form(prompt, options, error, words, session):
    with pytest.raises(error, match=words):
        session.generate(prompt, **options)


def test_messages_that_templates_know_are_taken(session):
    text = session.encode([USER])
    np.testing.assert_array_equal(session.encode((dict(USER),)), text)
    for message in (
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ):
        check_messages([USER, message])
