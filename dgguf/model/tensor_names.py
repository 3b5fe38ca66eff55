"""The names of a DiffusionGemma's tensors in a GGUF file, and what each of them is for.

A tensor of a layer is called `blk.N.` and its kind, such as `blk.3.ffn_gate_inp.weight`; outside the
layers, name and kind are the same. Source of the names: llama.cpp (gguf-py's constants).
"""

import re

from dgguf.backends.base import Role

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"  # missing where the embedding is the head, too
ROUTER = "ffn_gate_inp.weight"
ATTENTION_K, ATTENTION_V, ATTENTION_OUTPUT = "attn_k.weight", "attn_v.weight", "attn_output.weight"
MLP_DOWN = "ffn_down.weight"
# The experts' gate and up matrices are one tensor, gate first, or two.
GATE_UP_EXPERTS, GATE_EXPERTS, UP_EXPERTS = (
    "ffn_gate_up_exps.weight",
    "ffn_gate_exps.weight",
    "ffn_up_exps.weight",
)
DOWN_EXPERTS = "ffn_down_exps.weight"

_OF_TOWER = ("v.", "mm.")  # of a vision tower, which is in a file of its own: see `model.mmproj`
_OF_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)
_ROLES = {
    EMBEDDING: Role.EMBEDDING,
    HEAD: Role.HEAD,
    ROUTER: Role.ROUTER,
    **dict.fromkeys(("attn_q.weight", ATTENTION_K, ATTENTION_V, ATTENTION_OUTPUT), Role.ATTENTION),
    **dict.fromkeys(("ffn_gate.weight", "ffn_up.weight", MLP_DOWN), Role.MLP),
    **dict.fromkeys((GATE_UP_EXPERTS, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS), Role.EXPERTS),
    **dict.fromkeys(
        ("self_cond_gate.weight", "self_cond_up.weight", "self_cond_down.weight"), Role.SELF_CONDITIONING
    ),
}


def layer_and_kind(name: str) -> tuple[int | None, str]:
    """The layer that a tensor belongs to, None for none, and its kind."""
    found = _OF_LAYER.fullmatch(name)
    return (int(found[1]), found[2]) if found else (None, name)


def role_of(name: str) -> Role:
    """What a tensor is for; `Role.OTHER` for vectors and for names that no DiffusionGemma has."""
    if name.startswith(_OF_TOWER):
        return Role.VISION
    return _ROLES.get(layer_and_kind(name)[1], Role.OTHER)
