"""The names of a vision tower's tensors in a checkpoint, from those in an mmproj file: llama.cpp's table."""

OUTSIDE = {
    "v.patch_embd.weight": "vision_tower.patch_embedder.input_proj.weight",
    "v.position_embd.weight": "vision_tower.patch_embedder.position_embedding_table",
    "v.std_bias": "vision_tower.std_bias",
    "v.std_scale": "vision_tower.std_scale",
    "mm.input_projection.weight": "embed_vision.embedding_projection.weight",
}
OF_LAYER = {
    "attn_q": "self_attn.q_proj.linear", "attn_k": "self_attn.k_proj.linear",
    "attn_v": "self_attn.v_proj.linear", "attn_out": "self_attn.o_proj.linear",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ln1": "input_layernorm", "attn_post_norm": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm", "ffn_post_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj.linear", "ffn_up": "mlp.up_proj.linear", "ffn_down": "mlp.down_proj.linear",
}  # fmt: skip


def checkpoint_name(name):
    """A tensor's name without the leading `model.encoder.`."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, kind, what = name.split(".")
    theirs = OF_LAYER[kind] if what == "weight" else OF_LAYER[kind].removesuffix(".linear")
    return f"vision_tower.encoder.layers.{layer}.{theirs}.{what}"
