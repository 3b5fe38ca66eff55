"""Hugging Face names of a DiffusionGemma's tensors, and what they are called in a GGUF.

`decoder` holds the network that both passes share; `encoder.language_model` repeats it, tied, but
for its own `layer_scalar`. A checkpoint may store either copy, or both. All names here go without
the leading `model.`, which is absent where the network was saved without its head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dgguf.convert.config import CheckpointConfig, LayerShape

_DECODER = "decoder."
_ENCODER = "encoder.language_model."
_HEAD = "lm_head.weight"
# In a file of its own: see `convert.vision`.
_SKIPPED = ("encoder.vision_tower.", "encoder.embed_vision.")

Shape = tuple[int, ...]
Piece = tuple[str, Shape]  # a stored tensor's name and shape


@dataclass(frozen=True)
class NeededTensor:
    """A tensor of the GGUF and how a checkpoint may store it.

    Attributes:
        name: in the GGUF.
        shape: slowest axis first.
        spellings: ways to store it, best first: the rows of the pieces, one after the other, are the
            tensor's. Where a checkpoint has several, they must hold the same values.
        optional: whether the model works without it.
    """

    name: str
    shape: Shape
    spellings: tuple[tuple[Piece, ...], ...]
    optional: bool = False


def is_skipped(name: str) -> bool:
    """Whether a checkpoint's tensor (without `model.`) is of the vision tower."""
    return name.startswith(_SKIPPED)


def full_name(name: str) -> str:
    """A tensor's name as most checkpoints spell it."""
    return name if name == _HEAD else f"model.{name}"


def needed_tensors(config: CheckpointConfig) -> Iterator[NeededTensor]:
    """Every tensor that the GGUF takes from the checkpoint, in file order."""
    d, f, v = config.hidden_size, config.ff_size, config.vocab_size
    head = ((_HEAD, (v, d)),)
    embedding = _shared("token_embd.weight", "embed_tokens.weight", (v, d))
    if config.tied_head:
        yield NeededTensor(embedding.name, embedding.shape, (*embedding.spellings, head))
    else:
        yield embedding
        yield NeededTensor("output.weight", (v, d), (head,))
    yield _shared("output_norm.weight", "norm.weight", (d,))
    conditioning: dict[str, tuple[str, Shape]] = {
        "self_cond_pre_norm.weight": ("pre_norm.weight", (d,)),
        "self_cond_gate.weight": ("gate_proj.weight", (f, d)),
        "self_cond_up.weight": ("up_proj.weight", (f, d)),
        "self_cond_down.weight": ("down_proj.weight", (d, f)),
    }
    for name, (theirs, shape) in conditioning.items():
        yield _stored(name, f"{_DECODER}self_conditioning.{theirs}", shape)
    for i, layer in enumerate(config.layers):
        yield from _layer_tensors(config, i, layer)


def _layer_tensors(config: CheckpointConfig, i: int, layer: LayerShape) -> Iterator[NeededTensor]:
    d, f, e = config.hidden_size, config.ff_size, config.n_experts
    q_rows, kv_rows = config.n_heads * layer.head_dim, layer.n_kv_heads * layer.head_dim
    tensors: dict[str, tuple[str, Shape]] = {
        "attn_norm.weight": ("input_layernorm.weight", (d,)),
        "attn_q.weight": ("self_attn.q_proj.weight", (q_rows, d)),
        "attn_k.weight": ("self_attn.k_proj.weight", (kv_rows, d)),
        "attn_v.weight": ("self_attn.v_proj.weight", (kv_rows, d)),
        "attn_q_norm.weight": ("self_attn.q_norm.weight", (layer.head_dim,)),
        "attn_k_norm.weight": ("self_attn.k_norm.weight", (layer.head_dim,)),
        "attn_output.weight": ("self_attn.o_proj.weight", (d, q_rows)),
        "post_attention_norm.weight": ("post_attention_layernorm.weight", (d,)),
        "ffn_norm.weight": ("pre_feedforward_layernorm.weight", (d,)),
        "ffn_gate.weight": ("mlp.gate_proj.weight", (f, d)),
        "ffn_up.weight": ("mlp.up_proj.weight", (f, d)),
        "ffn_down.weight": ("mlp.down_proj.weight", (d, f)),
        "post_ffw_norm_1.weight": ("post_feedforward_layernorm_1.weight", (d,)),
        "ffn_gate_inp.weight": ("router.proj.weight", (e, d)),
        "ffn_gate_inp.scale": ("router.scale", (d,)),
        "pre_ffw_norm_2.weight": ("pre_feedforward_layernorm_2.weight", (d,)),
        "ffn_down_exps.scale": ("router.per_expert_scale", (e,)),
        "post_ffw_norm_2.weight": ("post_feedforward_layernorm_2.weight", (d,)),
        "post_ffw_norm.weight": ("post_feedforward_layernorm.weight", (d,)),
    }
    if not layer.sliding:  # the value is the raw key projection
        del tensors["attn_v.weight"]
    for name, (theirs, shape) in tensors.items():
        yield _shared(f"blk.{i}.{name}", f"layers.{i}.{theirs}", shape)
    yield from _expert_tensors(config, i)
    # The scales of the two passes are the one thing in a layer that is not tied.
    yield _stored(f"blk.{i}.layer_output_scale.weight", f"{_DECODER}layers.{i}.layer_scalar", (1,))
    yield _stored(
        f"blk.{i}.enc_layer_output_scale.weight", f"{_ENCODER}layers.{i}.layer_scalar", (1,), optional=True
    )


def _expert_tensors(config: CheckpointConfig, i: int) -> Iterator[NeededTensor]:
    """The experts, stored in one tensor for all or in one per expert."""
    d, e, fe = config.hidden_size, config.n_experts, config.expert_ff_size
    each = f"layers.{i}.experts."
    gate_up = [(f"{each}{k}.{side}_proj.weight", (fe, d)) for k in range(e) for side in ("gate", "up")]
    down = [(f"{each}{k}.down_proj.weight", (d, fe)) for k in range(e)]
    for name, fused, shape, single in (
        ("ffn_gate_up_exps", "gate_up_proj", (e, 2 * fe, d), gate_up),
        ("ffn_down_exps", "down_proj", (e, d, fe), down),
    ):
        spellings = tuple(
            tuple((place + piece, piece_shape) for piece, piece_shape in pieces)
            for pieces in ([(each + fused, shape)], single)
            for place in (_DECODER, _ENCODER)
        )
        yield NeededTensor(f"blk.{i}.{name}.weight", shape, spellings)


def _shared(name: str, theirs: str, shape: Shape) -> NeededTensor:
    """A tensor of the network that both passes share."""
    return NeededTensor(name, shape, tuple(((place + theirs, shape),) for place in (_DECODER, _ENCODER)))


def _stored(name: str, theirs: str, shape: Shape, *, optional: bool = False) -> NeededTensor:
    """A tensor that a checkpoint keeps in one place only."""
    return NeededTensor(name, shape, (((theirs, shape),),), optional)
