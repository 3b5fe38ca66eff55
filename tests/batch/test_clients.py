"""OpenAI's own client types read the results back."""

import json

import pytest

from tests.batch.conftest import write_lines
from tests.batch.test_run import ROWS

pytest.importorskip("openai")


def test_the_types_of_openai_read_the_results(batch, demo, tmp_path):
    from openai.types import Decision
    from openai.types.chat import ChatCompletion
    from openai.types.shared import ErrorObject

    bad = [{"custom_id": "empty", "prompt": " "}, {"prompt": 3}]
    batch.run(write_lines(tmp_path / "in.jsonl", [*ROWS, *bad]), demo())
    seen = set()
    for line in batch.out.read_bytes().splitlines():
        result = json.loads(line)
        assert set(result) == {"id", "custom_id", "response", "error"}
        response = result["response"]
        if response is None:
            assert set(result["error"]) == {"code", "message"}
            seen.add("line")
        elif response["status_code"] != 200:
            assert ErrorObject.model_validate(response["body"]["error"], strict=True).message
            seen.add("error")
        elif "choices" in response["body"]:
            answer = ChatCompletion.model_validate_json(json.dumps(response["body"]), strict=True)
            assert answer.choices[0].message.content
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
            seen.add("chat")
        else:
            decision = Decision.model_validate_json(json.dumps(response["body"]), strict=True)
            assert 0 <= decision.answers[0].confidence <= 1
            seen.add("decision")
    assert seen == {"line", "error", "chat", "decision"}


def test_what_openai_writes_is_understood(batch, demo, tmp_path):
    """A line as its clients' types make it."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    body = CompletionCreateParamsNonStreaming(
        model="gpt-5", messages=messages, max_completion_tokens=4, top_p=1
    )
    row = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    batch.run(write_lines(tmp_path / "in.jsonl", [row]), demo())
    choice = batch.results()["request-1"]["response"]["body"]["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")
