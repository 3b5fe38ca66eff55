"""The fields of a recording's lines: plain values that make sense, and arrays, which are written as lists.

A line may say anything. What no recording has raises whatever reading it does, such as ValueError, TypeError
or KeyError; `recording.read_recording` makes a sentence of it.
"""

import dataclasses
import math
from typing import Any, TypeVar, get_args

import numpy as np

from dgguf.diffusion.events import TopTokens
from dgguf.diffusion.sampler import Branch
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.turbo import Turbo

MAX_TOKENS = 1 << 20  # tokens with a text
_MAX_COUNT, _MAX_SECONDS = 1 << 64, 1e9
_Numbers = TypeVar("_Numbers", SamplerSettings, Turbo)


def numbers(kind: type[_Numbers], line: dict[str, Any]) -> _Numbers:
    """Settings whose fields have their types."""
    made = kind(**line)
    for field in dataclasses.fields(made):
        if type(getattr(made, field.name)) not in _PLAIN[field.type]:
            raise TypeError(field.name)
    return made


def bits(line: str, count: int) -> np.ndarray:
    """(count,) bool of bits in hexadecimal."""
    packed = np.frombuffer(bytes.fromhex(line), np.uint8)
    if len(packed) != math.ceil(count / 8):
        raise ValueError("as many bits as positions")
    return np.unpackbits(packed, count=count).astype(bool)


def pins(line: dict[str, int]) -> dict[int, int]:
    """Ids by position."""
    found = {int(place): token for place, token in line.items()}
    for place, token in found.items():
        if type(token) is not int or not 0 <= token < MAX_TOKENS or not 0 <= place < _MAX_COUNT:
            raise ValueError("a pin")
    return found


def branches(line: list[list[int]]) -> tuple[Branch, ...]:
    """Where other seeds took over."""
    found = tuple(Branch(*values) for values in line)
    if any(type(value) is not int or not 0 <= value < _MAX_COUNT for branch in found for value in branch):
        raise ValueError("a branch")
    return found


def vector(values: list[int]) -> np.ndarray:
    """(n,) int64 ids."""
    ids = np.array(values, np.int64)
    if ids.ndim != 1:
        raise ValueError("a list of numbers")
    return ids


def top_tokens(values: dict[str, list[int]], length: int) -> TopTokens:
    """The likeliest tokens of `length` positions."""
    tokens = np.array(values["tokens"], np.int64).reshape(length, -1)
    probabilities = np.array(values["probabilities"], np.float32).reshape(tokens.shape) / 1000
    return TopTokens(tokens, probabilities)


# How much may be said by a field of each type; arrays and what is made of them are read elsewhere.
_PLAIN: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}


def pick(event: type, line: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event that are plain values in its line; counts and seconds make sense."""
    picked = {}
    for field in dataclasses.fields(event):
        if field.name == "reason" and line["reason"] not in get_args(field.type):
            raise ValueError("a reason")
        if field.name == "max_steps" or not (
            kinds := _PLAIN.get(field.type, (str,) * (field.name == "reason"))
        ):
            continue
        if field.name not in line and field.default is not dataclasses.MISSING:
            continue
        value = line[field.name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(field.name)
        limit = _MAX_SECONDS if field.type is float else _MAX_COUNT
        if isinstance(value, float | int) and not 0 <= value < limit:
            raise ValueError(field.name)
        picked[field.name] = value
    return picked
