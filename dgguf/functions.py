"""Python functions as tools that a model may call: declared by their types, called with checked arguments.

The functions of a file are those that it defines and whose names do not begin with "_". Each parameter has a
type: str, int, float, bool, list, dict, Literal, or one of these or None.
"""

import importlib.util
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from dgguf.errors import PromptError

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_TYPES = "str, int, float, bool, list, dict, Literal, or one of these or None"
_MOST_RESULT = 20_000  # characters
_INDENTED = re.compile(r"\s*(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


class CallError(Exception):
    """A call that cannot be made as the model asks; the message is for the model."""


@dataclass(frozen=True)
class Function:
    """A function that a model may call.

    Attributes:
        declaration: as OpenAI's clients declare tools.
    """

    name: str
    call: Callable[..., Any]
    hints: Mapping[str, Any]
    needed: frozenset[str]
    declaration: dict[str, Any]

    def result(self, arguments: Mapping[str, Any]) -> dict[str, Any] | str:
        """Call it; what is given back, or how it failed, as a chat template takes it.

        Raises:
            CallError: the arguments are not what it takes.
        """
        for name in arguments:
            if name not in self.hints:
                raise CallError(f"{self.name} has no parameter {name!r:.60}; it has {', '.join(self.hints)}")
        for name in self.needed:
            if name not in arguments:
                raise CallError(f"{self.name} needs {name}")
        given = {name: _checked(value, self.hints[name], name) for name, value in arguments.items()}
        try:
            return _as_result(self.call(**given))
        except Exception as error:  # somebody's program may fail in any way: the model is told
            text = str(error).strip()
            return {"error": f"{type(error).__name__}{': ' * bool(text)}{text}"[:_MOST_RESULT]}


def read_functions(path: Path) -> dict[str, Function]:
    """The functions of a Python file, by name. It is run, and its folder put first in `sys.path`.

    Raises:
        PromptError: it cannot be read or run, has no function, or one that cannot be declared.
    """
    spec = importlib.util.spec_from_file_location("dgguf_tools", path) if path.suffix == ".py" else None
    if spec is None or spec.loader is None or not path.is_file():
        raise PromptError(f"{path}: tools are the functions of a Python file, FILE.py")
    module = importlib.util.module_from_spec(spec)
    before = [*sys.path]
    sys.modules[module.__name__] = module  # dataclasses look there for what annotations name
    sys.path.insert(0, str(path.resolve().parent))  # stays: a function may import when it is called
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.path[:] = before
        sys.modules.pop(module.__name__, None)
        raise PromptError(
            f"{path}: the file cannot be run: {type(error).__name__}: {_short(error)}"
        ) from error
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    if not found:
        raise PromptError(f"{path}: it defines no function whose name does not begin with _")
    try:
        return {name: _function(name, value) for name, value in found.items()}
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _function(name: str, function: Callable[..., Any]) -> Function:
    about = inspect.getdoc(function)
    if not about:
        raise PromptError(f"{name} has no docstring, which tells the model what it does")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise PromptError(f"{name} must be an ordinary function, neither async nor a generator")
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:
        raise PromptError(f"{name}: its types cannot be read: {_short(error)}") from error
    parameters = inspect.signature(function).parameters
    first, described = _read(about)
    properties: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PromptError(f"{name}: {parameter} cannot be given by name")
        if parameter.name not in hints:
            raise PromptError(
                f"{name}: the parameter {parameter.name} has no type, as in {parameter.name}: int"
            )
        schema = _schema(hints[parameter.name], f"{name}: the type of {parameter.name}")
        text = described.get(parameter.name)
        properties[parameter.name] = schema | ({"description": text} if text else {})
    needed = [each.name for each in parameters.values() if each.default is each.empty]
    declared = {
        "name": name,
        "description": first,
        "parameters": {"type": "object", "properties": properties, "required": needed},
    }
    own = {each: hints[each] for each in parameters}
    return Function(name, function, own, frozenset(needed), {"type": "function", "function": declared})


def _read(about: str) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, and what it says of parameters under "Args:"."""
    first, _, rest = about.partition("\n\n")
    described: dict[str, str] = {}
    name, within = "", False
    for line in f"{first}\n{rest}".splitlines():
        if line.strip() in ("Args:", "Arguments:", "Parameters:"):
            within = True
        elif within and line.strip() and not line[0].isspace():
            within = False
        elif within and (found := _INDENTED.fullmatch(line)):
            name = found[1]
            described[name] = found[2].strip()
        elif within and name and line.strip():
            described[name] += " " + line.strip()
    return " ".join(first.partition("Args:")[0].split()), described


def _schema(hint: Any, what: str) -> dict[str, Any]:
    """A type as a JSON schema.

    Raises:
        PromptError: it is none of those that can be told.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is list or origin is list:
        items = {"items": _schema(arguments[0], what)} if arguments else {}
        return {"type": "array", **items}
    if hint is dict or (origin is dict and arguments[0] is str):
        return {"type": "object"}
    if origin is Literal and len({type(value) for value in arguments}) == 1:
        kind = _PLAIN.get(type(arguments[0]))
        if kind:
            return {"type": kind, "enum": list(arguments)}
    options = _options(hint)
    if options is not None and len(options) == 1:
        return _schema(options[0], what) | {"nullable": True}
    raise PromptError(f"{what} is {_named(hint)}, and must be {_TYPES}")


def _options(hint: Any) -> list[Any] | None:
    """What a union with None allows besides; None for what is none."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return None
    left = [one for one in typing.get_args(hint) if one is not type(None)]
    return left if len(left) < len(typing.get_args(hint)) else None


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)[:80]


def _checked(value: Any, hint: Any, place: str) -> Any:
    """A value of a call as a function takes it.

    Raises:
        CallError: it is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if (options := _options(hint)) is not None:
        return None if value is None else _checked(value, options[0], place)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
        raise CallError(f"{place} must be one of {', '.join(map(repr, arguments))}, not {value!r:.60}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise CallError(f"{place} is too large for a float") from None
    kind = origin or hint
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CallError(f"{place} must be of type {_named(hint)}, not {value!r:.60}")
    if kind is list and arguments:
        return [_checked(one, arguments[0], f"{place}[{i}]") for i, one in enumerate(value)]
    if kind is dict and arguments:
        return {key: _checked(one, arguments[1], f"{place}.{key}") for key, one in value.items()}
    return value


def _as_result(value: Any) -> dict[str, Any] | str:
    """What a function has given back: an object, or a text."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    if len(text) > _MOST_RESULT:
        return f"{text[:_MOST_RESULT]} … cut, of {len(text)} characters"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        plain: dict[str, Any] = json.loads(text) if text[:1] == "{" else {"value": text}
        return plain
    return text
