"""Tools in a request: their declarations, which one must be called, and the calls and results of before."""

import re
from typing import Any

import msgspec

from dgguf.server.errors import ApiError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORM = '{"type": "function", "function": {"name": …}}'

Choice = str | dict[str, Any] | None


def declared_tools(tools: list[dict[str, Any]] | None, choice: Choice) -> list[dict[str, Any]]:
    """The tools as a chat template takes them; none where the model is not to call any.

    Raises:
        ApiError: 400; one is not declared as OpenAI's clients do, or the choice names none of them.
    """
    taken = [_declared(tool, f"tools[{number}]") for number, tool in enumerate(tools or ())]
    name = wanted_tool(tools, choice)
    if name is not None and not taken:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if name and name not in [tool["function"]["name"] for tool in taken]:
        raise ApiError(400, f"tool_choice names {name!r:.80}, which is no tool here", param="tool_choice")
    return [] if choice == "none" else taken


def _declared(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """A tool with all that a template counts on."""
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, dict):
        raise ApiError(400, f"{place}: a tool is {_FORM}", param=place)
    name, parameters = function.get("name"), function.get("parameters") or {}
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ApiError(400, f"{place}: its name must be 1 to 64 letters, digits, _ . or -", param=place)
    if not isinstance(parameters, dict) or not isinstance(parameters.get("properties", {}), dict):
        raise ApiError(400, f"{place}: its parameters must be a schema of an object", param=place)
    described = {"description": "", **function}
    if parameters:
        described["parameters"] = {"type": "object", **parameters}
    return {"type": "function", "function": described}


def wanted_tool(tools: list[dict[str, Any]] | None, choice: Choice) -> str | None:
    """The name of the tool that must be called; "" for any one, None where none must.

    Raises:
        ApiError: 400; the choice is not as OpenAI's clients write it.
    """
    if choice in (None, "auto", "none"):
        return None
    if choice == "required":
        only = tools[0].get("function") if tools and len(tools) == 1 else None
        return str(only["name"]) if isinstance(only, dict) and "name" in only else ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(name, str) and name:
        return name
    raise ApiError(400, f'tool_choice is "none", "auto", "required" or {_FORM}', param="tool_choice")


def calls_of(message: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The calls in an assistant's message, each with its arguments as a mapping.

    Raises:
        ApiError: 400; one is not as OpenAI's clients write it.
    """
    made = []
    calls = message["tool_calls"]
    for call in calls if isinstance(calls, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict) or not function.get("name"):
            raise ApiError(400, f"{place}: a call of a tool has a function with a name", param=place)
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = as_mapping(arguments)
        if not isinstance(arguments, dict) or not isinstance(function["name"], str):
            raise ApiError(400, f"{place}: the arguments of a call must be a JSON object", param=place)
        made.append({"id": call.get("id"), "function": {"name": function["name"], "arguments": arguments}})
    return made


def with_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the results of calls in the message that called, those that are JSON as mappings.

    Templates take a mapping there alone; in a message of its own a result must be a text.
    """
    joined: list[dict[str, Any]] = []
    caller: dict[str, Any] | None = None
    for message in messages:
        if message["role"] != "tool":
            caller = message if message.get("tool_calls") else None
        if message["role"] == "tool" and caller is not None and isinstance(message["content"], str):
            own = message.get("tool_call_id")
            named = [call["function"]["name"] for call in caller["tool_calls"] if call["id"] == own]
            name = named[0] if named else message.get("name")
            result = as_mapping(message["content"])
            response = message["content"] if result is None else result
            caller.setdefault("tool_responses", []).append(
                {"name": str(name or "unknown"), "response": response}
            )
        else:
            joined.append(message)
            if message["role"] == "tool":  # with an image: the others behind it stay where they are, too
                caller = None
    return joined


def as_mapping(text: Any) -> dict[str, Any] | None:
    """A JSON object, of the text that it is; None if it is none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError, TypeError):
        return None
    return value if isinstance(value, dict) else None
