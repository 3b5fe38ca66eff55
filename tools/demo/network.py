"""A torch twin of DiffusionGemma, small and fast to train, and the way from it to a checkpoint.

The prompt and the canvas run through the layers as one sequence: the weights of the two passes are
tied, so that with a causal mask over the prompt this equals encoding and then denoising, as long as
the prompt is shorter than the sliding window. All experts are computed densely: exact, and on small
sizes faster than gathering. Parameters have the names and shapes of transformers' checkpoints.
Letters: B examples, P prompt, C canvas, L = P + C, D hidden, H/G query/KV heads, E experts.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6
_DECODER = "model.decoder."
_ENCODER = "model.encoder.language_model."
_MASKED = -1e4


@dataclass(frozen=True)
class Sizes:
    """The geometry; the last layer has full attention, the others slide."""

    vocab_size: int
    hidden: int = 256
    n_layers: int = 6
    n_heads: int = 4
    kv_heads: int = 2
    kv_heads_full: int = 1
    head_dim: int = 32
    head_dim_full: int = 64
    ff: int = 96
    n_experts: int = 8
    n_used: int = 2
    expert_ff: int = 32
    window: int = 128
    canvas: int = 96
    context: int = 4096
    softcap: float = 30.0


def layer_shapes(sizes: Sizes, layer: int) -> dict[str, tuple[int, ...]]:
    """Shapes by name of a layer's tensors, as in a checkpoint, the encoder's scalar left out."""
    full = layer == sizes.n_layers - 1
    head = sizes.head_dim_full if full else sizes.head_dim
    q_rows, kv_rows = sizes.n_heads * head, (sizes.kv_heads_full if full else sizes.kv_heads) * head
    d, f, e, fe = sizes.hidden, sizes.ff, sizes.n_experts, sizes.expert_ff
    shapes = {
        "input_layernorm.weight": (d,),
        "self_attn.q_proj.weight": (q_rows, d),
        "self_attn.k_proj.weight": (kv_rows, d),
        "self_attn.v_proj.weight": (kv_rows, d),
        "self_attn.o_proj.weight": (d, q_rows),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "post_attention_layernorm.weight": (d,),
        "pre_feedforward_layernorm.weight": (d,),
        "mlp.gate_proj.weight": (f, d),
        "mlp.up_proj.weight": (f, d),
        "mlp.down_proj.weight": (d, f),
        "post_feedforward_layernorm.weight": (d,),
        "post_feedforward_layernorm_1.weight": (d,),
        "post_feedforward_layernorm_2.weight": (d,),
        "pre_feedforward_layernorm_2.weight": (d,),
        "router.proj.weight": (e, d),
        "router.scale": (d,),
        "router.per_expert_scale": (e,),
        "experts.gate_up_proj": (e, 2 * fe, d),
        "experts.down_proj": (e, d, fe),
        "layer_scalar": (1,),
    }
    if full:  # the value is the raw key projection
        del shapes["self_attn.v_proj.weight"]
    return shapes


def initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """What a parameter starts from."""
    if name == "embed_tokens.weight":
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    if name.endswith("router.proj.weight"):
        return torch.randn(shape, generator=generator) * 0.5
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) * 0.7 * shape[-1] ** -0.5
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return torch.full(shape, shape[0] ** -0.25)  # nothing else divides the scores by sqrt(head)
    if "post_" in name:
        return torch.full(shape, 0.5)
    return torch.ones(shape)


def rms(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over halves: x (B, L, heads, Dh); cos, sin (L, 1, Dh / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)


def block(
    x: Tensor, w: dict[str, Tensor], encoder_scalar: Tensor, bias: Tensor, cos: Tensor, sin: Tensor,
    sizes: Sizes, n_prompt: int, first_row: int, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One layer over (B, L, D); rows before `first_row` only serve as keys and are left out of the result.

    Returns:
        the layer's output (B, L - first_row, D), and its load-balance loss.
    """
    n, length, _ = x.shape
    norm = lambda y, name: rms(y) * w[name + ".weight"]  # noqa: E731
    linear = lambda y, matrix: F.linear(y.to(dtype), matrix.to(dtype))  # noqa: E731
    has_value = "self_attn.v_proj.weight" in w
    head = w["self_attn.q_norm.weight"].shape[0]
    names = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")[: 1 + has_value]
    h = norm(x, "input_layernorm")
    q = linear(h[:, first_row:], w["self_attn.q_proj.weight"]).view(n, length - first_row, -1, head)
    kv = linear(h, torch.cat([w[name] for name in names])).view(n, length, len(names), -1, head)
    k, v = kv[:, :, 0], rms(kv[:, :, -1])
    q = turned(norm(q, "self_attn.q_norm"), cos[first_row:], sin[first_row:])
    k = turned(norm(k, "self_attn.k_norm"), cos, sin)
    groups = q.shape[2] // k.shape[2]
    q, k, v = (y.transpose(1, 2).to(dtype) for y in (q, k, v))  # (B, heads, L, Dh)
    k, v = (y.repeat_interleave(groups, dim=1) for y in (k, v))
    scores = (q @ k.transpose(-1, -2)).float() + bias[:, :, first_row:]
    a = (scores.softmax(-1).to(dtype) @ v).transpose(1, 2).reshape(n, length - first_row, -1)
    x = x[:, first_row:] + norm(linear(a, w["self_attn.o_proj.weight"]), "post_attention_layernorm")

    h = norm(x, "pre_feedforward_layernorm")
    gate, up = linear(h, torch.cat((w["mlp.gate_proj.weight"], w["mlp.up_proj.weight"]))).chunk(2, -1)
    dense = norm(linear(gelu(gate) * up, w["mlp.down_proj.weight"]), "post_feedforward_layernorm_1")

    r = rms(x) * (w["router.scale"] * sizes.hidden**-0.5)
    p = F.linear(r, w["router.proj.weight"]).softmax(-1)
    chosen = p >= p.topk(sizes.n_used, -1).values[..., -1:]
    kept = p * chosen
    weights = kept / kept.sum(-1, keepdim=True) * w["router.per_expert_scale"]
    share = chosen.float().mean((0, 1)) / sizes.n_used
    balance = sizes.n_experts * (share * p.mean((0, 1))).sum()
    h = norm(x, "pre_feedforward_layernorm_2")
    e, fe = sizes.n_experts, sizes.expert_ff
    both = linear(h, w["experts.gate_up_proj"].view(e * 2 * fe, -1)).view(n, -1, e, 2, fe)
    inner = gelu(both[..., 0, :]) * both[..., 1, :] * weights[..., None].to(dtype)
    down = w["experts.down_proj"].transpose(0, 1).reshape(-1, e * fe)
    moe = norm(linear(inner.reshape(n, -1, e * fe), down), "post_feedforward_layernorm_2")

    n_encoded = n_prompt - first_row
    scale = torch.cat((encoder_scalar.expand(n_encoded), w["layer_scalar"].expand(x.shape[1] - n_encoded)))
    return (x + norm(dense + moe, "post_feedforward_layernorm")) * scale[:, None], balance


def head_losses(
    x: Tensor, norm: Tensor, embedding: Tensor, targets: Tensor, softcap: float, dtype: torch.dtype
) -> Tensor:
    """The cross-entropy of each position, (B, C); x (B, C, D), targets (B, C)."""
    logits = head_logits(x, norm, embedding, softcap, dtype)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def head_logits(x: Tensor, norm: Tensor, embedding: Tensor, softcap: float, dtype: torch.dtype) -> Tensor:
    logits = F.linear((rms(x) * norm).to(dtype), embedding.to(dtype)).float()
    return torch.tanh(logits / softcap) * softcap


@dataclass(frozen=True)
class Pictures:
    """Rows of images in prompts.

    Attributes:
        rows: (B, P, D) float32; they stand as they are, not multiplied by sqrt(D).
        spans: (B, P) int, which image of its example a place belongs to, 0 for text.
    """

    rows: Tensor
    spans: Tensor


class Twin(nn.Module):
    """The model; `dtype` is that of products, everything else is float32."""

    def __init__(self, sizes: Sizes, seed: int, dtype: torch.dtype = torch.bfloat16, fused: bool = True):
        """With `fused`, layers are compiled, once for each shape of a batch."""
        super().__init__()
        self.sizes, self.dtype = sizes, dtype
        generator = torch.Generator().manual_seed(seed)
        d, f = sizes.hidden, sizes.ff
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens.weight": (sizes.vocab_size, d),
            "norm.weight": (d,),
            "self_conditioning.pre_norm.weight": (d,),
            "self_conditioning.gate_proj.weight": (f, d),
            "self_conditioning.up_proj.weight": (f, d),
            "self_conditioning.down_proj.weight": (d, f),
        }
        for i in range(sizes.n_layers):
            shapes |= {f"layers.{i}.{name}": shape for name, shape in layer_shapes(sizes, i).items()}
            shapes[f"layers.{i}.encoder_scalar"] = (1,)
        self.tensors = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(initial(name, shape, generator))
                for name, shape in shapes.items()
            }
        )
        self._block = torch.compile(block, dynamic=False) if fused else block
        self._head_losses = torch.compile(head_losses, dynamic=False) if fused else head_losses
        self._tables: dict[Any, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name.replace(".", "/")]

    def named(self) -> dict[str, Tensor]:
        """Every parameter by its dotted name."""
        return {name.replace("/", "."): value for name, value in self.tensors.items()}

    def _turns(self, head: int, full: bool, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (L, 1, Dh / 2); on full layers only a quarter of the pairs turns."""
        if (key := (head, full, length, device)) not in self._tables:
            pairs = torch.arange(head // 2, device=device)
            frequencies = (1e6 if full else 1e4) ** (-2.0 * pairs / head)
            if full:
                frequencies = frequencies * (pairs < head // 8)
            angles = torch.arange(length, device=device)[:, None, None] * frequencies
            self._tables[key] = angles.cos(), angles.sin()
        return self._tables[key]

    def hidden(
        self, prompt: Tensor, canvas: Tensor, signal: Tensor | None, pictures: Pictures | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last layer's output of the canvas (B, C, D), and the mean load-balance loss.

        Args:
            prompt: ids (B, P), left-padded with -1.
            canvas: ids (B, C).
            signal: of self-conditioning, (B, C, D), or None.
            pictures: rows of images in the prompts, or None.
        """
        sizes, n_prompt = self.sizes, prompt.shape[1]
        embedding = self["embed_tokens.weight"]
        root = math.sqrt(sizes.hidden)
        x = F.embedding(canvas, embedding) * root
        x = rms(x if signal is None else x + signal)
        before = F.embedding(prompt.clamp(min=0), embedding) * root
        if pictures is not None:
            before = torch.where((pictures.spans > 0)[..., None], pictures.rows, before)
        x = torch.cat((before, x), 1)
        length = x.shape[1]
        places = torch.arange(length, device=x.device)
        sees = (places[None] <= places[:, None]) | (places[:, None] >= n_prompt)
        real = F.pad(prompt >= 0, (0, canvas.shape[1]), value=True)
        bias = causal = torch.where(sees[None, None] & real[:, None, None], 0.0, _MASKED)
        if pictures is not None:  # on sliding layers the rows of an image see each other
            spans = F.pad(pictures.spans, (0, canvas.shape[1]))
            together = (spans[:, None] == spans[:, :, None]) & (spans > 0)[:, None]
            bias = torch.where(together[:, None], 0.0, causal)
        total = x.new_zeros(())
        names = {i: f"layers.{i}." for i in range(sizes.n_layers)}
        every = self.named()
        for i, prefix in names.items():
            w = {name: every[prefix + name] for name in layer_shapes(sizes, i)}
            full = i == sizes.n_layers - 1
            cos, sin = self._turns(w["self_attn.q_norm.weight"].shape[0], full, length, x.device)
            first_row = n_prompt if full else 0
            scalar = every[prefix + "encoder_scalar"]
            x, balance = self._block(
                x, w, scalar, causal if full else bias, cos, sin, sizes, n_prompt, first_row, self.dtype
            )  # fmt: skip
            total = total + balance
        return x, total / sizes.n_layers

    def logits(
        self, prompt: Tensor, canvas: Tensor, signal: Tensor | None = None, pictures: Pictures | None = None
    ) -> Tensor:
        """(B, C, V) float32."""
        x, _ = self.hidden(prompt, canvas, signal, pictures)
        return head_logits(
            x, self["norm.weight"], self["embed_tokens.weight"], self.sizes.softcap, self.dtype
        )

    def signal(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Self-conditioning by earlier logits (B, C, V) over temperatures (B, 1, 1)."""
        embedding = self["embed_tokens.weight"]
        with torch.no_grad():
            p = (logits / temperature).softmax(-1).to(self.dtype)
            soft = p @ embedding.to(self.dtype) * math.sqrt(self.sizes.hidden)
        gate, up, down = (
            self[f"self_conditioning.{name}_proj.weight"].to(self.dtype) for name in ("gate", "up", "down")
        )
        n = (rms(soft) * self["self_conditioning.pre_norm.weight"]).to(self.dtype)
        return F.linear(gelu(F.linear(n, gate)) * F.linear(n, up), down).float()

    def loss(
        self,
        prompt: Tensor,
        canvas: Tensor,
        signal: Tensor | None,
        targets: Tensor,
        pictures: Pictures | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The cross-entropy of each position of the canvas (B, C), and the load-balance loss."""
        x, balance = self.hidden(prompt, canvas, signal, pictures)
        norm, embedding = self["norm.weight"], self["embed_tokens.weight"]
        losses = self._head_losses(x, norm, embedding, targets, self.sizes.softcap, self.dtype)
        return losses, balance


def checkpoint_tensors(twin: Twin) -> dict[str, Tensor]:
    """The parameters under the names of a transformers checkpoint, float32."""
    tensors = {}
    for name, value in twin.named().items():
        prefix = _ENCODER if name.endswith("encoder_scalar") else _DECODER
        name = name.replace("encoder_scalar", "layer_scalar")
        tensors[prefix + name] = value.detach().float().cpu().contiguous()
    return tensors


def checkpoint_config(sizes: Sizes) -> dict[str, Any]:
    """config.json."""
    kinds = ["sliding_attention"] * (sizes.n_layers - 1) + ["full_attention"]
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    }
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "model_type": "diffusion_gemma",
        "canvas_length": sizes.canvas,
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_activation": "gelu_pytorch_tanh",
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.ff,
            "num_hidden_layers": sizes.n_layers,
            "num_attention_heads": sizes.n_heads,
            "num_key_value_heads": sizes.kv_heads,
            "num_global_key_value_heads": sizes.kv_heads_full,
            "head_dim": sizes.head_dim,
            "global_head_dim": sizes.head_dim_full,
            "layer_types": kinds,
            "max_position_embeddings": sizes.context,
            "rms_norm_eps": _EPS,
            "sliding_window": sizes.window,
            "rope_parameters": rope,
            "final_logit_softcapping": sizes.softcap,
            "num_experts": sizes.n_experts,
            "top_k_experts": sizes.n_used,
            "moe_intermediate_size": sizes.expert_ff,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
    }
