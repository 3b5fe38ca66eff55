"""Which type each tensor gets: the table that `--type` chooses from.

All recipes but one are those of llama.cpp's `llama-quantize` without an importance matrix, so that
files have the types and the size of the published ones. `Q4_K_DG` is dgguf's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dgguf.backends.base import Role
from dgguf.model.tensor_names import (
    ATTENTION_K,
    ATTENTION_OUTPUT,
    ATTENTION_V,
    DOWN_EXPERTS,
    EMBEDDING,
    GATE_EXPERTS,
    GATE_UP_EXPERTS,
    HEAD,
    MLP_DOWN,
    UP_EXPERTS,
    layer_and_kind,
    role_of,
)
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


def always(name: str) -> Rule:
    return lambda i, n: name


def first(count: Callable[[int], int], better: str, rest: str) -> Rule:
    """`better` for the first `count(n)` tensors."""
    return lambda i, n: better if i < count(n) else rest


def more_bits(better: str, rest: str) -> Rule:
    """`better` for the first and the last eighth and for every third tensor between them."""

    def rule(i: int, n: int) -> str:
        return better if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else rest

    return rule


@dataclass(frozen=True)
class Recipe:
    """A mixture of types under one name.

    Attributes:
        file_type: its number under `general.file_type`.
        base: the type of every matrix that no other field speaks of.
        head: the type of the output head, which is the embedding table where the two are tied.
        rules: kinds of a layer's tensors that get another type, see `tensor_names`.
        rules_of_8: what comes before `rules` in a model of exactly eight experts.
        searched: search for the best scales even where nothing is known of the columns' importance.
    """

    file_type: int
    base: str
    head: str = "Q6_K"
    rules: Mapping[str, Rule] = field(default_factory=dict)
    rules_of_8: Mapping[str, Rule] = field(default_factory=dict)
    searched: bool = False


def down(rule: Rule) -> dict[str, Rule]:
    return {MLP_DOWN: rule, DOWN_EXPERTS: rule}


_GATE_UP_EXPERTS = (GATE_UP_EXPERTS, GATE_EXPERTS, UP_EXPERTS)

RECIPES: dict[str, Recipe] = {
    "F32": Recipe(0, "F32", "F32"),
    "F16": Recipe(1, "F16", "F16"),
    "BF16": Recipe(32, "BF16", "BF16"),
    "Q8_0": Recipe(7, "Q8_0", "Q8_0"),
    "Q4_0": Recipe(2, "Q4_0"),
    "Q4_1": Recipe(3, "Q4_1"),
    "Q5_0": Recipe(8, "Q5_0"),
    "Q5_1": Recipe(9, "Q5_1"),
    "Q2_K": Recipe(
        10,
        "Q2_K",
        rules={ATTENTION_V: always("Q3_K"), ATTENTION_OUTPUT: always("Q3_K"), **down(always("Q3_K"))},
    ),
    "Q3_K_S": Recipe(11, "Q3_K"),
    "Q3_K_M": Recipe(
        12,
        "Q3_K",
        rules={
            ATTENTION_V: first(lambda n: 2, "Q5_K", "Q4_K"),
            ATTENTION_OUTPUT: always("Q4_K"),
            **down(first(lambda n: n // 16, "Q5_K", "Q4_K")),
        },
    ),
    "Q3_K_L": Recipe(
        13,
        "Q3_K",
        rules={ATTENTION_V: always("Q5_K"), ATTENTION_OUTPUT: always("Q5_K"), **down(always("Q5_K"))},
    ),
    "Q4_K_S": Recipe(
        14,
        "Q4_K",
        rules={
            ATTENTION_V: first(lambda n: 4, "Q5_K", "Q4_K"),
            **down(first(lambda n: n // 8, "Q5_K", "Q4_K")),
        },
    ),
    "Q4_K_M": Recipe(
        15, "Q4_K", rules={ATTENTION_V: more_bits("Q6_K", "Q4_K"), **down(more_bits("Q6_K", "Q4_K"))}
    ),
    # As large as Q4_K_M. That one spends 8.5 bits on half of the experts' down projections, whose rows no
    # K-quant divides; here they get 5.5, and the bits go where a bit takes most error away: to half of
    # the experts' gate and up, and to everything outside the experts, which is small.
    "Q4_K_DG": Recipe(
        15,
        "Q6_K",
        rules={
            **dict.fromkeys(_GATE_UP_EXPERTS, more_bits("Q5_K", "Q4_K")),
            DOWN_EXPERTS: always("Q5_0"),
        },
        searched=True,
    ),
    "Q5_K_S": Recipe(16, "Q5_K"),
    "Q5_K_M": Recipe(
        17, "Q5_K", rules={ATTENTION_V: more_bits("Q6_K", "Q5_K"), **down(more_bits("Q6_K", "Q5_K"))}
    ),
    "Q6_K": Recipe(18, "Q6_K"),
    "IQ4_NL": Recipe(25, "IQ4_NL", rules=down(first(lambda n: n // 8, "Q5_1", "IQ4_NL"))),
    "IQ4_XS": Recipe(30, "IQ4_XS", rules=down(first(lambda n: n // 8, "Q5_K", "IQ4_XS"))),
    "MXFP4_MOE": Recipe(
        38,
        "Q8_0",
        "Q8_0",
        rules=dict.fromkeys((*_GATE_UP_EXPERTS, DOWN_EXPERTS), always("MXFP4")),
    ),
}


def _with_rules_of_8(name: str, recipe: Recipe) -> Recipe:
    """llama.cpp's rules for Mixtral's eight experts, beside which the attention is small.

    It asks for eight experts, not for Mixtral, and gives the output five bits in some recipes only.
    """
    if recipe.searched or FORMATS_BY_NAME[recipe.base].block_size == 1:
        return recipe
    five_bits = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
    output = "Q5_K" if name in five_bits else recipe.base
    rules = dict.fromkeys((ATTENTION_K, ATTENTION_V), always("Q8_0"))
    return replace(recipe, rules_of_8=rules | {ATTENTION_OUTPUT: always(output)})


RECIPES |= {name: _with_rules_of_8(name, recipe) for name, recipe in RECIPES.items()}


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a recipe chooses a tensor's type: vectors and the router stay F32 in every one.

    The router picks experts by its sums: an error there changes which weights are used at all.
    """
    return len(shape) > 1 and role_of(name) is not Role.ROUTER


def mixture(recipe: Recipe, columns: Mapping[str, int], n_experts: int = 0) -> dict[str, str]:
    """The type of every weight matrix of a model: what `chosen` names, or what fits its rows; see there."""
    types = chosen(recipe, columns, n_experts=n_experts)
    return {name: fitting(type_name, columns[name]) for name, type_name in types.items()}


def chosen(
    recipe: Recipe, columns: Mapping[str, int], overrides: Mapping[str, str] = {}, n_experts: int = 0
) -> dict[str, str]:
    """The type that each weight matrix of a model should get, whether its blocks divide the rows or not.

    Args:
        columns: the matrices by name, in file order, with the length of their rows. What is no matrix
            does not belong here, see `is_matrix`.
        overrides: types for some of them, instead of the recipe's.
        n_experts: of a layer.
    """
    head = head_name(columns)
    layers_and_kinds = {name: layer_and_kind(name) for name in columns}
    kinds = {name: kind for name, (layer, kind) in layers_and_kinds.items() if layer is not None}
    rules = {**recipe.rules, **(recipe.rules_of_8 if n_experts == 8 else {})}
    types = {}
    for name in columns:
        kind = kinds.get(name, "")
        if name in overrides:
            types[name] = overrides[name]
        elif name == head:
            types[name] = recipe.head
        elif kind in rules:
            of_kind = [other for other, its_kind in kinds.items() if its_kind == kind]
            types[name] = rules[kind](of_kind.index(name), len(of_kind))
        else:
            types[name] = recipe.base
    return types


def head_name(names: Mapping[str, int]) -> str:
    """The tensor that makes the logits: the embedding table, unless there is another one."""
    return HEAD if HEAD in names else EMBEDDING


def fitting(type_name: str, n_columns: int) -> str:
    """`type_name`, or what stands in for it where its blocks do not divide rows of `n_columns`."""
    if n_columns % FORMATS_BY_NAME[type_name].block_size:
        type_name = _FALLBACK.get(type_name, type_name)
    return "F16" if n_columns % FORMATS_BY_NAME[type_name].block_size else type_name
