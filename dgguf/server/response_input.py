"""What /v1/responses takes, as /v1/chat/completions does: items as messages, tools, a choice of tools."""

from collections.abc import Callable
from typing import Any

from dgguf.server.errors import ApiError

_TEXTS = ("input_text", "output_text", "text")


def messages_of(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that items say; thoughts are left out, as a template leaves them out.

    Raises:
        ApiError: 400; one is not as OpenAI's clients write it.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(given):
        place, kind = f"input[{number}]", item.get("type", "message")
        if kind == "reasoning":
            continue
        read = _ITEMS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise ApiError(400, f"{place}: an item of type {kind!r:.60} is not taken here", param=place)
        message = read(item, place)
        if kind == "function_call" and messages and "tool_calls" in messages[-1]:
            messages[-1]["tool_calls"] += message["tool_calls"]
        else:
            messages.append(message)
    return messages


def _message(item: dict[str, Any], place: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "system", "developer", "assistant"):
        raise ApiError(400, f"{place}: a message has a role, such as user", param=place)
    return {"role": role, "content": _content(content, f"{place}.content")}


def _content(content: Any, place: str) -> str | list[dict[str, Any]]:
    """A content as the parts that /v1/chat/completions reads."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(400, f"{place} must be a text or a list of parts", param=place)
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            parts.append({"type": "text", "text": part["refusal"]})
        elif kind == "input_image":
            parts.append({"type": "image_url", "image_url": part.get("image_url")})
        else:
            here = f"{place}[{number}]"
            raise ApiError(400, f"{here}: a part of type {kind!r:.60} is not taken here", param=here)
    return parts


def _call(item: dict[str, Any], place: str) -> dict[str, Any]:
    call = {
        "id": item.get("call_id"),
        "function": {"name": item.get("name"), "arguments": item.get("arguments")},
    }
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _output(item: dict[str, Any], place: str) -> dict[str, Any]:
    content = _content(item.get("output"), f"{place}.output")
    return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}


_ITEMS: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
}


def tools_of(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Tools with what describes them in an object of its own.

    Raises:
        ApiError: 400; one is no function of the client's.
    """
    if tools is None:
        return None
    for number, tool in enumerate(tools):
        if tool.get("type") != "function":
            place = f"tools[{number}]"
            raise ApiError(
                400, f"{place}: {tool.get('type')!r:.60} is not run here; functions are tools", param=place
            )
    return [
        {"type": "function", "function": {k: tool[k] for k in _ABOUT if tool.get(k) is not None}}
        for tool in tools
    ]


_ABOUT = ("name", "description", "parameters")


def tool_choice_of(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A choice with its name in an object of its own."""
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice
