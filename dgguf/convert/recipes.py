"""Which type each tensor gets: the table that `--type` chooses from."""

from collections.abc import Callable
from dataclasses import dataclass

from dgguf.quants.block import FORMATS_BY_NAME, BlockFormat

# The router picks experts by its sums: an error there changes which weights are used at all.
_KEPT_EXACT = ("ffn_gate_inp.weight",)
# What stands in for a type whose blocks do not divide a tensor's rows.
_FALLBACKS = {"Q8_0": "F16"}


@dataclass(frozen=True)
class Recipe:
    """A mixture of types under one name.

    Attributes:
        name: as `--type` spells it.
        file_type: its number in general.file_type.
        choose: the type for a matrix, from its GGUF name and shape.
    """

    name: str
    file_type: int
    choose: Callable[[str, tuple[int, ...]], BlockFormat]


def choose_format(recipe: Recipe, name: str, shape: tuple[int, ...]) -> tuple[BlockFormat, str]:
    """The type a tensor gets, and why where it is a stand-in for the recipe's choice, else "".

    Vectors and the router stay F32 in every recipe.
    """
    if len(shape) == 1 or name.endswith(_KEPT_EXACT):
        return FORMATS_BY_NAME["F32"], ""
    wanted = recipe.choose(name, shape)
    if shape[-1] % wanted.block_size == 0:
        return wanted, ""
    chosen = FORMATS_BY_NAME[_FALLBACKS[wanted.name]]
    size = wanted.block_size
    return chosen, f"{chosen.name}, as blocks of {size} ({wanted.name}) do not divide rows of {shape[-1]}"


def _uniform(name: str, file_type: int) -> Recipe:
    """One type for every matrix."""
    return Recipe(name, file_type, lambda _name, _shape: FORMATS_BY_NAME[name])


RECIPES = {
    recipe.name: recipe
    for recipe in (_uniform("F32", 0), _uniform("F16", 1), _uniform("BF16", 32), _uniform("Q8_0", 7))
}
