"""DiffusionGemma as slowly and obviously as it can be written: float64 numpy, whole sequences, masks.

Nothing here is shared with dgguf's own network, so that the two can be compared. There is no cache:
an encoder pass runs over the whole past at once, and returns every layer's keys and values.
"""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Reference:
    """The network.

    Attributes:
        tensors: GGUF name -> float64 array, rows first.
        config: GGUF keys without the architecture's prefix, as plain values.
        trace: every layer's output of the last pass.
    """

    tensors: dict[str, np.ndarray]
    config: dict
    trace: list = field(default_factory=list)

    def encode(self, tokens):
        """All layers' (keys, values) of a sequence, each (T, G, Dh)."""
        n = len(tokens)
        x = self.tensors["token_embd.weight"][tokens] * math.sqrt(self.config["embedding_length"])
        past = []
        for layer in range(self.config["block_count"] - 1):
            rows, columns = np.arange(n)[:, None], np.arange(n)[None, :]
            mask = columns <= rows
            if self.config["sliding"][layer]:
                mask &= columns > rows - self.config["window"]
            x, keys, values = self._layer(layer, x, np.arange(n), None, mask, "enc_layer_output_scale.weight")
            past.append((keys, values))
        last = self.config["block_count"] - 1  # nobody reads its output
        h = self._norm(x, self.tensors[f"blk.{last}.attn_norm.weight"])
        return [*past, self._keys_and_values(last, h, np.arange(n))]

    def denoise(self, canvas, past, soft_probabilities=None):
        """Logits (C, V) of a canvas after a past from `encode` (None for an empty one)."""
        d, t = self.config["embedding_length"], self.tensors
        n_past = len(past[0][0])
        x = t["token_embd.weight"][canvas] * math.sqrt(d)
        if soft_probabilities is not None:
            soft = soft_probabilities @ t["token_embd.weight"] * math.sqrt(d)
            n = self._norm(soft, t["self_cond_pre_norm.weight"])
            x = x + self._mlp(n, *(t[f"self_cond_{part}.weight"] for part in ("gate", "up", "down")))
        x = self._norm(x)
        self.trace = []
        for layer in range(self.config["block_count"]):
            seen = np.ones(n_past + len(canvas), bool)
            if self.config["sliding"][layer]:
                seen[: max(0, n_past - (self.config["window"] - 1))] = False
            mask = np.broadcast_to(seen, (len(canvas), len(seen)))
            positions = np.arange(n_past, n_past + len(canvas))
            x, _, _ = self._layer(layer, x, positions, past[layer], mask, "layer_output_scale.weight")
            self.trace.append(x)
        logits = self._norm(x, t["output_norm.weight"]) @ t.get("output.weight", t["token_embd.weight"]).T
        cap = self.config["softcap"]
        return cap * np.tanh(logits / cap)

    def _weights(self, layer):
        start = f"blk.{layer}."
        return {name.split(".", 2)[2]: a for name, a in self.tensors.items() if name.startswith(start)}

    def _keys_and_values(self, layer, h, positions):
        w, dim = self._weights(layer), self.config["head_dim"][layer]
        k = (h @ w["attn_k.weight"].T).reshape(len(h), -1, dim)
        v = (h @ w["attn_v.weight"].T).reshape(len(h), -1, dim) if "attn_v.weight" in w else k
        return self._rope(layer, self._norm(k, w["attn_k_norm.weight"]), positions), self._norm(v)

    def _layer(self, layer, x, positions, past, mask, scale_name):
        w, dim = self._weights(layer), self.config["head_dim"][layer]
        h = self._norm(x, w["attn_norm.weight"])
        q = (h @ w["attn_q.weight"].T).reshape(len(x), -1, dim)
        q = self._rope(layer, self._norm(q, w["attn_q_norm.weight"]), positions)
        k, v = self._keys_and_values(layer, h, positions)
        keys, values = (
            (k, v) if past is None else (np.concatenate([past[0], k]), np.concatenate([past[1], v]))
        )
        group = q.shape[1] // k.shape[1]
        heads = []
        for head in range(q.shape[1]):
            scores = q[:, head] @ keys[:, head // group].T
            scores = np.where(mask, scores, -np.inf)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ values[:, head // group])
        attended = np.concatenate(heads, axis=1) @ w["attn_output.weight"].T
        x = x + self._norm(attended, w["post_attention_norm.weight"])

        dense = self._mlp(
            self._norm(x, w["ffn_norm.weight"]),
            w["ffn_gate.weight"],
            w["ffn_up.weight"],
            w["ffn_down.weight"],
        )
        dense = self._norm(dense, w["post_ffw_norm_1.weight"])
        moe = self._experts(x, w)
        x = x + self._norm(dense + moe, w["post_ffw_norm.weight"])
        scale = w.get(scale_name, w["layer_output_scale.weight"])
        return x * scale[0], k, v

    def _experts(self, x, w):
        d = self.config["embedding_length"]
        scores = (self._norm(x) / math.sqrt(d) * w["ffn_gate_inp.scale"]) @ w["ffn_gate_inp.weight"].T
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        n2 = self._norm(x, w["pre_ffw_norm_2.weight"])
        out = np.zeros_like(x)
        for row in range(len(x)):
            chosen = np.argsort(-probabilities[row], kind="stable")[: self.config["expert_used_count"]]
            weights = probabilities[row, chosen] / probabilities[row, chosen].sum()
            for expert, weight in zip(chosen, weights, strict=True):
                if "ffn_gate_up_exps.weight" in w:
                    gate, up = np.split(w["ffn_gate_up_exps.weight"][expert], 2)
                else:
                    gate, up = w["ffn_gate_exps.weight"][expert], w["ffn_up_exps.weight"][expert]
                y = self._mlp(n2[row : row + 1], gate, up, w["ffn_down_exps.weight"][expert])
                out[row] += weight * w["ffn_down_exps.scale"][expert] * y[0]
        return self._norm(out, w["post_ffw_norm_2.weight"])

    def _mlp(self, x, gate, up, down):
        g = x @ gate.T
        gelu = 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
        return (gelu * (x @ up.T)) @ down.T

    def _norm(self, x, weight=1.0):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["eps"]) * weight

    def _rope(self, layer, x, positions):
        dim = x.shape[-1]
        sliding = self.config["sliding"][layer]
        frequencies = self.config["rope_base_swa" if sliding else "rope_base"] ** (
            -np.arange(0, dim, 2) / dim
        )
        if not sliding:
            frequencies = frequencies / self.tensors["rope_freqs.weight"]
        angles = (positions[:, None] * frequencies)[:, None, :]
        a, b = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate(
            [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
        )


def from_gguf(path) -> Reference:
    """The reference network of a GGUF file, read with gguf-py alone."""
    import gguf

    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    get = lambda key: reader.fields[f"{arch}.{key}"].contents()  # noqa: E731
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64).reshape(t.shape[::-1])
        for t in reader.tensors
    }
    n_layers = get("block_count")
    sliding = get("attention.sliding_window_pattern")
    return Reference(
        tensors,
        {
            "block_count": n_layers,
            "embedding_length": get("embedding_length"),
            "expert_used_count": get("expert_used_count"),
            "sliding": sliding,
            "window": get("attention.sliding_window"),
            "head_dim": [get("attention.key_length_swa" if s else "attention.key_length") for s in sliding],
            "eps": get("attention.layer_norm_rms_epsilon"),
            "softcap": get("final_logit_softcapping"),
            "rope_base": get("rope.freq_base"),
            "rope_base_swa": get("rope.freq_base_swa"),
        },
    )
