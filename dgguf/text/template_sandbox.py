"""Runs a chat template, which is a program from a stranger's file: no access to Python, bounded work.

jinja2's sandbox keeps a template from attributes and methods that reach into Python. On top, every
loop turn, call, filter, operator, literal and output is charged, by the size of what it makes,
against a budget. Operations whose result may be far larger than what goes into them are charged
before they run, or do not exist here.

Not covered: filters that compare large nested lists; over and over they may take minutes.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

T = TypeVar("T")

MAX_TEMPLATE = 1 << 18  # characters; the published ones have 18,000
BASE_BUDGET = 1 << 24
BUDGET_PER_CHARACTER = 64  # of the messages; the published templates need 11
_MAX_BITS = 1024
_SIZED = (str, list, tuple, dict, set, range)  # what templates handle; jinja2's own containers are not
_TURN_COST = _CALL_COST = 8  # a few microseconds of Python: the base budget is some ten seconds of them

_STRING_METHODS = """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace
    rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
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
        self._budget = BASE_BUDGET
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
        self.filters = {name: self._charged(self.filters[name]) for name in _FILTERS.split()}
        self.tests = {name: self._charged(test) for name, test in self.tests.items()}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception

    def load(self, text: str) -> Template:
        """Compile a template.

        Raises:
            Exception: of any class, for whatever is wrong with the template; from `render` too.
        """
        if len(text) > MAX_TEMPLATE:
            raise SecurityError(f"it has {len(text):,} characters, more than {MAX_TEMPLATE:,}")
        return self.from_string(_Charging().visit(self.parse(text)))

    def render(self, template: Template, variables: Mapping[str, Any]) -> str:
        """The text that a loaded template makes of its variables."""
        self._budget = BASE_BUDGET + BUDGET_PER_CHARACTER * _size(variables, sys.maxsize)
        return template.render(variables)

    def spend(self, amount: int) -> None:
        """Take an amount from the budget."""
        self._budget -= max(amount, 0)
        if self._budget < 0:
            raise SecurityError("it takes too much work or memory")

    def charge(self, value: T) -> T:
        """Take the size of a value from the budget; the value itself."""
        self.spend(_size(value, self._budget))
        return value

    def concatenate(self, *values: Any) -> str:
        """The operator `~`."""
        return "".join(str(self.charge(v)) for v in values)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something from the template."""
        owner = getattr(__obj, "__self__", None)
        if owner is __self:  # a charge that `_Charging` put here
            return __obj(*args)
        __self.spend(_CALL_COST)
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

    def _charged(self, function: Any) -> Any:
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.spend(sum(len(argument) for argument in args if isinstance(argument, _SIZED)))
            return self.charge(function(*args, **kwargs))

        # How jinja2 marks filters and tests that want the environment or the context as first argument.
        if hasattr(function, "jinja_pass_arg"):
            charged.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return charged


class _Charging(NodeTransformer):
    """Puts charges where the sandbox has no hook of its own: loop turns, literals, comparisons, `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        fixed = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_call("spend", [nodes.Const(_TURN_COST + fixed)])))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenate", node.nodes)

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


def _call(method: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)


def _size(value: Any, limit: int) -> int:
    """How much a value holds, whatever it holds twice counted twice; anything above `limit` is too much."""
    size, stack = 0, [value]
    while stack and size <= limit:
        item = stack.pop()
        size += 1
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
    return size


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
) -> str:
    """As chat templates expect it: nothing escaped for HTML."""
    indent = None if indent is None else max(0, min(int(indent), 8))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
