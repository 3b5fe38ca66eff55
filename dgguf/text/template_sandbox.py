"""Runs a chat template, which is a program from a stranger's file: no access to Python, bounded work.

jinja2's sandbox keeps a template from attributes and methods that reach into Python. On top, every
loop turn, call, filter, operator, literal, slice and output is charged against two budgets: of space, by
the size of what it makes, and of steps, by the work it takes. A step is half a microsecond to one; how
many there are depends on no clock. Operations whose result may be far larger than what goes into
them, or whose work is, such as comparing nested lists, are charged before they run, or do not exist
here. A limit of CPU time stands behind that, for what was overlooked.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

T = TypeVar("T")

MAX_TEMPLATE = 1 << 18  # characters; the published ones have 18,000
MAX_TOKENS = 1 << 14  # of Jinja; the published ones have 4,000
BASE_SPACE = 1 << 22
SPACE_PER_CHARACTER = 64  # of the messages; the published templates need 11
BASE_STEPS = 1 << 20  # below a second
STEPS_PER_ITEM = 512  # of the messages: keys, values; the published templates need 240
MAX_SECONDS = 5.0  # of CPU, beside a microsecond for each step that the messages give
_MAX_BITS = 1024
_SIZED = (str, list, tuple, dict, set, range)  # what templates handle; jinja2's own containers are not
_TURN_COST = 8  # of space: what Python keeps of a turn
_CALL_STEPS = 10
_ITEMS_A_STEP, _CHARACTERS_A_STEP = 4, 128
_CLOCK_EVERY = 1024  # charges

_STRING_METHODS = """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace
    rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
"""
# Filters and tests that compare or hash what they are given, however deep.
_COMPARING = """
    dictsort groupby max min sort unique == eq equalto != ne < lt lessthan > gt greaterthan <= le >= ge in
"""
_FILTERS = """
    abs attr capitalize count d default dictsort e escape first float groupby int items join last
    length list lower map max min reject rejectattr replace reverse safe select selectattr sort string
    title tojson trim truncate unique upper
"""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are written for, with a budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        self._space, self._steps = BASE_SPACE, BASE_STEPS
        self._charges = 0
        self._end = math.inf  # by this thread's CPU clock
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            finalize=self.charge,
            optimized=False,
        )
        self.filters |= {
            "tojson": _to_json,
            "replace": lambda text, old, new, count=-1: self._replace(str(text), old, new, count),
            "join": lambda items, by="": self._join(str(by), items),
        }
        self.filters = {name: self._charged(name, self.filters[name]) for name in _FILTERS.split()}
        self.tests = {name: self._charged(name, test) for name, test in self.tests.items()}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception

    def load(self, text: str) -> Template:
        """Compile a template.

        Raises:
            Exception: of any class, for whatever is wrong with the template; from `render` too.
        """
        if len(text) > MAX_TEMPLATE:
            raise SecurityError(f"it has {len(text):,} characters, more than {MAX_TEMPLATE:,}")
        if next(itertools.islice(self.lex(text), MAX_TOKENS, None), None):  # compiling them takes long
            raise SecurityError(f"it has more than {MAX_TOKENS:,} tokens")
        return self.from_string(_Charging().visit(self.parse(text)))

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """The text that a loaded template makes of its variables."""
        size, items = _size(variables, sys.maxsize)
        given = STEPS_PER_ITEM * items + size // 2
        self._space, self._steps = BASE_SPACE + SPACE_PER_CHARACTER * size, BASE_STEPS + given
        self._end = time.thread_time() + MAX_SECONDS + given / 1e6
        return template.render(variables)

    def spend(self, space: int, steps: int = 1) -> None:
        """Take from the budgets."""
        self._space -= max(space, 0)
        self._steps -= steps
        self._charges += 1
        if (
            self._space < 0
            or self._steps < 0
            or (self._charges % _CLOCK_EVERY == 0 and time.thread_time() > self._end)
        ):
            raise SecurityError("it takes too much work or memory")

    def charge(self, value: T) -> T:
        """Take the size of a value from the space, and looking at it from the steps; the value itself."""
        size, items = _size(value, self._space)
        self.spend(size, 1 + items // _ITEMS_A_STEP + size // _CHARACTERS_A_STEP)
        return value

    def passes(self, value: T, steps: int) -> T:
        """The condition of a loop, which is asked for each item."""
        self.spend(_TURN_COST, steps)
        return value

    def concatenate(self, *values: Any) -> str:
        """The operator `~`."""
        return "".join(str(self.charge(v)) for v in values)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something from the template."""
        owner = getattr(__obj, "__self__", None)
        if owner is __self:  # a charge that `_Charging` put here
            return __obj(*args)
        __self.spend(_TURN_COST, _CALL_STEPS)
        # A macro may keep its arguments. jinja2 adds some of its own, underlined.
        __self.charge([args, [value for name, value in kwargs.items() if not name.startswith("_")]])
        if isinstance(owner, str):
            __self.spend(len(owner))
            if __obj.__name__ == "replace":
                return __self._replace(owner, *args)
            if __obj.__name__ == "join":
                return __self._join(owner, *args)
        return __self.charge(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with an operator."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not possible here")
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            n_bits = (
                left.bit_length() * max(right, 1)
                if operator == "**"
                else left.bit_length() + right.bit_length()
            )
            if n_bits > _MAX_BITS:
                raise SecurityError("it computes with numbers too large")
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(value, _SIZED):
                    self.spend(len(value) * times)
        return self.charge(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute."""
        if isinstance(obj, str):
            return attr in _STRING_METHODS.split()
        return not isinstance(obj, int | float | bytes) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """str.format is treated as any other method, so it is refused."""

    def _replace(self, text: str, old: str, new: str, count: int = -1) -> str:
        times = text.count(old) if count < 0 else min(count, text.count(old))
        self.spend(len(text) + times * len(new))
        return text.replace(old, new, count)

    def _join(self, by: str, items: Iterable[Any]) -> str:
        texts = [str(self.charge(item)) for item in items]
        self.spend(len(texts) * len(by))
        return by.join(texts)

    def _charged(self, name: str, function: Any) -> Any:
        def charged(*args: Any, **kwargs: Any) -> Any:
            length = sum(len(argument) for argument in args if isinstance(argument, _SIZED))
            letters = sum(len(argument) for argument in args if isinstance(argument, str))
            steps = (length - letters) // _ITEMS_A_STEP + letters // _CHARACTERS_A_STEP
            self.spend(length, _CALL_STEPS + steps)
            if name in _COMPARING.split():  # sorting looks at everything so many times
                size, items = _size(args, self._space)
                steps = items // _ITEMS_A_STEP + size // _CHARACTERS_A_STEP
                self.spend(0, steps * (length - letters).bit_length())
            return self.charge(function(*args, **kwargs))

        # How jinja2 marks filters and tests that want the environment or the context as first argument.
        if hasattr(function, "jinja_pass_arg"):
            charged.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return charged


_BRANCHES = (nodes.For, nodes.If, nodes.Macro, nodes.CallBlock)


class _Charging(NodeTransformer):
    """Puts charges where the sandbox has no hook of its own: loop turns, literals, comparisons, `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        if node.test is not None:
            node.test = _call("passes", [node.test, nodes.Const(_weight([node.test]))])
        fixed = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        _charge_body(node.body, _TURN_COST + fixed)
        return node

    def visit_If(self, node: nodes.If) -> nodes.Node:
        self.generic_visit(node)
        for body in (node.body, node.else_):
            if body:
                _charge_body(body)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        _charge_body(node.body)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        _charge_body(node.body)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenate", node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _call("charge", [node.expr])
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if node.ctx != "load" or isinstance(node.arg, nodes.Const):
            return node
        if isinstance(node.arg, nodes.Slice):
            return _call("charge", [node])
        node.arg = _call("charge", [node.arg])  # a key is hashed, however deep it is
        return node

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _call("charge", [node.expr])
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("charge", [node])

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _call("charge", [node])

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("charge", [node]) if node.ctx == "load" else node


def _charge_body(body: list[nodes.Node], space: int = 0) -> None:
    """Let statements that may run often be charged each time."""
    amounts = [nodes.Const(space), nodes.Const(_weight(body))]
    body.insert(0, nodes.ExprStmt(_call("spend", amounts)))


def _weight(statements: Iterable[nodes.Node]) -> int:
    """The steps of nodes: one each, without those that `_charge_body` charges by themselves."""
    steps, stack = 0, list(statements)
    while stack:
        node = stack.pop()
        steps += 1
        own = ("body", "else_") if isinstance(node, _BRANCHES) else ()
        stack += node.iter_child_nodes(exclude=own)
    return steps


def _call(method: str, arguments: list[Any]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)


def _size(value: Any, limit: int) -> tuple[int, int]:
    """How much a value holds, whatever it holds twice counted twice, and how many values that are.

    Counting ends above `limit`: that is too much.
    """
    size, items, stack = 0, 0, [value]
    while stack and size <= limit:
        item = stack.pop()
        size += 1
        items += 1
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, int):
            size += item.bit_length() >> 3
        elif isinstance(item, Mapping):
            size += 2 * len(item)
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            size += len(item)
            if size <= limit:
                stack += item
    return size, items


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
) -> str:
    """As chat templates expect it: nothing escaped for HTML."""
    indent = None if indent is None else max(0, min(int(indent), 8))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
