"""Which storage type each weight matrix gets in a file of a given recipe, such as Q4_K_M.

These are the rules of llama.cpp's `llama-quantize` (without an importance matrix), so that files
made here have the same size and speed as the published ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dgguf.quants.block import FORMATS_BY_NAME

# What replaces a 256-weight type where a row is no multiple of 256.
_FALLBACK = {
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    **dict.fromkeys(("IQ3_S", "IQ4_XS"), "IQ4_NL"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

# The type of the i-th of n tensors of a kind.
Rule = Callable[[int, int], str]


def _always(name: str) -> Rule:
    return lambda i, n: name


def _first(count: Callable[[int], int], better: str, rest: str) -> Rule:
    """`better` for the first `count(n)` tensors."""
    return lambda i, n: better if i < count(n) else rest


def _more_bits(better: str, rest: str) -> Rule:
    """`better` for the first and the last eighth and for every third tensor between them."""

    def rule(i: int, n: int) -> str:
        return better if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else rest

    return rule


@dataclass(frozen=True)
class Recipe:
    """One choice of `llama-quantize`.

    Attributes:
        file_type: its number under `general.file_type`.
        base: the type of every matrix that no other field speaks of.
        head: the type of the output head, which is the embedding table where the two are tied.
        rules: kinds that get another type, by the part of the tensor name after `blk.N.`.
    """

    file_type: int
    base: str
    head: str = "Q6_K"
    rules: Mapping[str, Rule] = field(default_factory=dict)


def _down(rule: Rule) -> dict[str, Rule]:
    return {"ffn_down.weight": rule, "ffn_down_exps.weight": rule}


_V, _OUT = "attn_v.weight", "attn_output.weight"

RECIPES: dict[str, Recipe] = {
    "F32": Recipe(0, "F32", "F32"),
    "F16": Recipe(1, "F16", "F16"),
    "BF16": Recipe(32, "BF16", "BF16"),
    "Q4_0": Recipe(2, "Q4_0"),
    "Q4_1": Recipe(3, "Q4_1"),
    "Q5_0": Recipe(8, "Q5_0"),
    "Q5_1": Recipe(9, "Q5_1"),
    "Q8_0": Recipe(7, "Q8_0", "Q8_0"),
    "Q2_K": Recipe(10, "Q2_K", rules={_V: _always("Q3_K"), _OUT: _always("Q3_K"), **_down(_always("Q3_K"))}),
    "Q3_K_S": Recipe(11, "Q3_K"),
    "Q3_K_M": Recipe(
        12,
        "Q3_K",
        rules={
            _V: _first(lambda n: 2, "Q5_K", "Q4_K"),
            _OUT: _always("Q4_K"),
            **_down(_first(lambda n: n // 16, "Q5_K", "Q4_K")),
        },
    ),
    "Q3_K_L": Recipe(
        13, "Q3_K", rules={_V: _always("Q5_K"), _OUT: _always("Q5_K"), **_down(_always("Q5_K"))}
    ),
    "Q4_K_S": Recipe(
        14,
        "Q4_K",
        rules={_V: _first(lambda n: 4, "Q5_K", "Q4_K"), **_down(_first(lambda n: n // 8, "Q5_K", "Q4_K"))},
    ),
    "Q4_K_M": Recipe(15, "Q4_K", rules={_V: _more_bits("Q6_K", "Q4_K"), **_down(_more_bits("Q6_K", "Q4_K"))}),
    "Q5_K_S": Recipe(16, "Q5_K"),
    "Q5_K_M": Recipe(17, "Q5_K", rules={_V: _more_bits("Q6_K", "Q5_K"), **_down(_more_bits("Q6_K", "Q5_K"))}),
    "Q6_K": Recipe(18, "Q6_K"),
    "IQ4_NL": Recipe(25, "IQ4_NL", rules=_down(_first(lambda n: n // 8, "Q5_1", "IQ4_NL"))),
    "IQ4_XS": Recipe(30, "IQ4_XS", rules=_down(_first(lambda n: n // 8, "Q5_K", "IQ4_XS"))),
    "IQ3_S": Recipe(26, "IQ3_S"),
    "IQ3_M": Recipe(
        27,
        "IQ3_S",
        rules={
            _V: _always("Q4_K"),
            _OUT: _always("Q4_K"),
            **_down(_first(lambda n: n // 8, "Q4_K", "IQ3_S")),
        },
    ),
    "MXFP4_MOE": Recipe(
        38,
        "Q8_0",
        "Q8_0",
        rules=dict.fromkeys(
            ("ffn_gate_up_exps.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"),
            _always("MXFP4"),
        ),
    ),
}


def mixture(recipe: Recipe, columns: Mapping[str, int]) -> dict[str, str]:
    """The type of every weight matrix of a model.

    Args:
        columns: the matrices by name, in file order, with the length of their rows. Norms, the
            router and other vectors stay F32 and do not belong here.
    """
    head = "output.weight" if "output.weight" in columns else "token_embd.weight"
    kinds = {name: name.split(".", 2)[2] for name in columns if name.startswith("blk.")}
    types = {}
    for name, n_columns in columns.items():
        kind = kinds.get(name, "")
        if name == head:
            chosen = recipe.head
        elif kind in recipe.rules:
            of_kind = [other for other, its_kind in kinds.items() if its_kind == kind]
            chosen = recipe.rules[kind](of_kind.index(name), len(of_kind))
        else:
            chosen = recipe.base
        if n_columns % FORMATS_BY_NAME[chosen].block_size:
            chosen = _FALLBACK.get(chosen, chosen)
        types[name] = "F16" if n_columns % FORMATS_BY_NAME[chosen].block_size else chosen
    return types
