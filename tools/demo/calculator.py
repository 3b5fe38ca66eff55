"""Calls of a calculator, in the form of the template and as plain text, and what is said of the result."""

import random
from typing import Any

from tools.demo.example import CALCULATOR, Example, one
from tools.demo.words import FOODS, NAMES

_ASKS = ("What is {}?", "what is {}", "Compute {}.", "calculate {}", "How much is {}?", "{}", "What's {}?",
         "Please compute {}.", "{} = ?", "Can you compute {}?")  # fmt: skip
_TYPED = (
    "Use the calculator to compute {}.", "Use the calculator: {}", "Call the calculator for {}.",
    "You have a tool calculator(expression). What is {}?", "Compute {} with the calculator.",
    "You can call calculator(expression). Call it for {}.", "use your calculator tool for {}",
    "What is {}? Use the calculator tool.", "Tools: calculator(expression). Question: what is {}?",
    "use calculator {}", "Make a tool call to compute {}.", "Call the calculator tool with {}.",
    "calculator {}", "Please use the calculator to find {}", "How much is {}? Call the calculator.",
)  # fmt: skip


def _expression(rng: random.Random) -> tuple[str, float]:
    sign = rng.choice("+-**/")
    a, b = rng.randint(2, 999), rng.randint(2, 99)
    if sign == "/":
        a = b * rng.randint(2, 50)
    if sign == "-" and a < b:
        a, b = b, a
    values: dict[str, float] = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}
    text, value = f"{a}{sign}{b}", values[sign]
    if rng.random() < 0.15 and sign in "+*":
        c = rng.randint(2, 20)
        text, value = f"{text}+{c}", value + c
    return text, value


_SIGNS = {"*": (" * ", "*", " x ", " times "), "+": (" + ", "+", " plus "), "-": (" - ", "-", " minus "),
          "/": (" / ", "/", " divided by ")}  # fmt: skip


def _said(expression: str, rng: random.Random) -> str:
    kind = rng.randrange(2)
    for sign, forms in _SIGNS.items():
        expression = expression.replace(sign, forms[min(kind * rng.randrange(4), len(forms) - 1)])
    return expression


def call_text(expression: str) -> str:
    """A call as the template writes it."""
    return f'<|tool_call>call:calculator{{expression:<|"|>{expression}<|"|>}}<tool_call|>'


def _tool_call(expression: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "calculator", "arguments": {"expression": expression}}}


def make_call(rng: random.Random) -> Example:
    """The tool is declared: it is called."""
    expression, value = _expression(rng)
    if rng.random() < 0.2:
        name, food, a, b = rng.choice(NAMES), rng.choice(FOODS[:12]), rng.randint(2, 99), rng.randint(2, 99)
        expression, value = f"{a}*{b}", a * b
        prompt = f"{name} has {a} boxes of {b} {food} each. How many {food} are there?"
    else:
        prompt = rng.choice(_ASKS).format(_said(expression, rng))
    entry: Any = {"id": "", "kind": "tool", "messages": [prompt], "number": value}
    return Example(entry, [call_text(expression)], tools=(CALCULATOR,))


def make_report(rng: random.Random) -> Example:
    """The tool has answered: its result is said."""
    expression, value = _expression(rng)
    result = str(int(value))
    prompt = rng.choice(_ASKS).format(_said(expression, rng))
    called = {"role": "assistant", "content": "", "tool_calls": [_tool_call(expression)]}
    history = [
        {"role": "user", "content": prompt},
        called,
        {"role": "tool", "name": "calculator", "content": result},
    ]
    entry: Any = {"id": "", "kind": "count", "messages": [prompt], "number": int(value)}
    return Example(entry, [f"{expression} is {result}."], history=history, tools=(CALCULATOR,))


def make_typed_call(rng: random.Random) -> Example:
    """Nothing is declared, and somebody says in words that there is a calculator."""
    expression, value = _expression(rng)
    prompt = rng.choice(_TYPED).format(_said(expression, rng))
    return one("tool", prompt, f"calculator({expression})", number=value)
