"""Values of options that are of no plain kind."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dgguf.diffusion.turbo import Turbo

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # which took no type arguments in older versions of click


class Finite(click.FloatRange):
    """A number within bounds, which NaN, that no bound refuses, is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r:.99} is no number", param, ctx)
        return number


class TurboParts(ParamType):
    """Parts of `Turbo`; without a value, all of them (see `commands.WithParts`)."""

    name = "PARTS"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> "Turbo":
        from dgguf.diffusion.turbo import Turbo
        from dgguf.errors import PromptError

        try:
            return value if isinstance(value, Turbo) else Turbo.of(value)
        except PromptError as error:
            self.fail(str(error), param, context)


class CountOr(ParamType):
    """A number, or one word.

    Args:
        word: that stands for a number to be found.
        of: what is counted.
        least: the smallest number.
    """

    def __init__(self, word: str, of: str, least: int = 0) -> None:
        self.name = f"N|{word}"
        self._word, self._of, self._least = word, of, least

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int | str:
        if value == self._word:
            return self._word
        if isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) < 10):
            self.fail(f"{value!r:.99} is neither a number of {self._of} nor {self._word}", param, context)
        if int(value) < self._least:
            self.fail(f"{value} is too few {self._of}: it takes {self._least} or more", param, context)
        return int(value)
