"""An answer cut at its limit of tokens and at its stop strings, however the canvases cut it."""

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Finished, PromptEncoded
from dgguf.server.reply import Reply
from dgguf.server.requests import conversation_of, read_request
from dgguf.text.chat import ChatTemplate
from dgguf.text.tool_calls import BrokenCall, ToolCall

DATA = Path(__file__).parents[1] / "data"


class Letters:
    """A vocabulary in which each token is a letter."""

    channel_open_id = channel_close_id = None
    special = MappingProxyType({"<|tool_call>": ord("<"), "<tool_call|>": ord(">"), '<|"|>': ord('"')})

    def piece(self, token, *, special=False):
        return chr(token).encode()

    def token_text(self, token):
        return chr(token)

    def is_special(self, token):
        return False


def events_of(text, canvas, *, stopped):
    """The commits of an answer, in canvases of so many tokens."""
    ids = [ord(c) for c in text]
    yield PromptEncoded(7, 7, 3, 0.1)
    blocks = range(0, len(ids), canvas)
    for number, first in enumerate(blocks):
        some = ids[first : first + canvas]
        last = number == len(blocks) - 1
        tokens = np.array(some + [0] * (canvas - len(some)))
        nothing = np.zeros(canvas)
        yield CanvasStarted(number, tokens, 7)
        yield DenoisingStep(number, 1, 3, 0.5, tokens, tokens, nothing == 0, nothing, True, 0.1)
        yield CanvasCommitted(number, tokens, len(some), stopped and last, 3, True, 0.1, 0.2)
    yield Finished("stop" if stopped else "length", len(ids), 1.0)


def folded(text, canvas, most=1000, stops=(), *, stopped=True):
    reply, given = Reply(Letters(), most, stops), []
    for event in events_of(text, canvas, stopped=stopped):
        given += reply.add(event)
        if reply.is_over:
            break
    assert "".join(piece for _, piece in given) == reply.text
    return reply


TEXT = "one two three four five"


@pytest.mark.parametrize("canvas", [1, 2, 3, 5, 8, 23, 40])
def test_a_limit_and_stop_strings_do_not_depend_on_the_canvas(canvas):
    assert (folded(TEXT, canvas).text, folded(TEXT, canvas).reason) == (TEXT, "stop")
    assert folded(TEXT, canvas, stopped=False).reason == "length"
    for most in range(1, len(TEXT)):
        cut = folded(TEXT, canvas, most)
        assert (cut.text, cut.reason, cut.n_tokens) == (TEXT[:most], "length", most)
    whole = folded(TEXT, canvas, len(TEXT))
    assert (whole.text, whole.reason) == (TEXT, "stop")
    for stop in ("three", "e", "o t", "five", "ee f", "one"):
        ended = folded(TEXT, canvas, stops=["xyz", stop, ""])
        assert (ended.text, ended.reason) == (TEXT[: TEXT.index(stop)], "stop"), stop
    held = folded(TEXT, canvas, stops=["fiver"])
    assert (held.text, held.reason) == (TEXT, "stop"), "the beginning of a stop string is given in the end"
    first = folded(TEXT, canvas, 9, stops=["four"])
    assert (first.text, first.reason) == (TEXT[:9], "length")


@pytest.mark.parametrize("canvas", [1, 2, 3, 5, 8, 23, 40])
def test_calls_are_taken_out(canvas):
    answer = folded('Look:<call:f{city:"Lima"}><call:g{,}>', canvas, stops=["Li", "xyz"])
    assert (answer.text, answer.reason) == ("Look:", "tool_calls")
    assert answer.calls == [ToolCall("f", {"city": "Lima"}), BrokenCall("g", "{,}")]
    broken = folded("a<nothing>b", canvas)
    assert (broken.text, broken.reason, broken.calls) == ("a<nothing>b", "stop", [])
    cut = folded('<call:f{city:"Lima', canvas, stopped=False)
    assert (cut.calls, cut.reason) == ([ToolCall("f", {"city": "Lima"})], "tool_calls")
    assert cut.n_tokens == 18, "tokens of calls count"


def test_usage():
    reply = folded(TEXT, 8)
    assert reply.usage() == {
        "prompt_tokens": 7,
        "completion_tokens": len(TEXT),
        "total_tokens": 7 + len(TEXT),
        "prompt_tokens_details": {"cached_tokens": 3},
    }


@pytest.mark.parametrize("template", ["chat_template.jinja", "chat_template_2026-07.jinja"])
def test_results_are_rendered(template):
    """Texts and JSON, by the id of the call, by name, and by neither; what is JSON is a mapping there."""
    text = (DATA / template).read_text(encoding="utf-8")
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    body = {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": None, "tool_calls": [call | {"id": "1"}, call | {"id": "2"}]},
            {"role": "tool", "tool_call_id": "1", "content": '{"sum": 4, "exact": true}'},
            {"role": "tool", "tool_call_id": "2", "content": "four"},
            {"role": "tool", "name": "look", "content": "{}"},
        ]
    }
    messages = conversation_of(read_request(json.dumps(body).encode()).request).messages
    rendered = ChatTemplate(text, "m.gguf").render(messages)
    _, _, results = rendered.partition("<|tool_response>")
    assert results == (
        "response:add{exact:true,sum:4}<tool_response|><|tool_response>"
        'response:add{value:<|"|>four<|"|>}<tool_response|><|tool_response>response:look{}<tool_response|>'
    )
