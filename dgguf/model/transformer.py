"""DiffusionGemma's two passes, in backend verbs.

Shape letters, used everywhere in dgguf:
    T  rows in a call            C  canvas length          P  committed positions
    D  hidden size               H  query heads            G  KV heads          Dh  head size
    F  feed-forward size         E  experts                A  experts used      V   vocabulary

Source of every formula: transformers, models/diffusion_gemma/modeling_diffusion_gemma.py.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dgguf.backends.base import Array, Backend, Prediction, Visible
from dgguf.errors import NumericsError
from dgguf.model.cache import KVCache, LayerCache
from dgguf.model.canvas import Branches, Call, Canvas
from dgguf.model.config import LayerConfig, ModelConfig
from dgguf.model.spans import Span, cached_ids
from dgguf.model.weights import LayerWeights, ModelWeights


class Transformer:
    """The network: one stack of layers, run by an encoder pass and a denoising pass.

    Each pass raises FileChangedError if the file that the weights are read from is not what it was.
    """

    def __init__(self, config: ModelConfig, weights: ModelWeights, backend: Backend) -> None:
        self.config = config
        self.weights = weights
        self.backend = backend
        self._embed_scale = math.sqrt(config.hidden_size)
        self.spans_on_full = False  # see `Call`; for comparisons
        self.layers_done = 0  # of the call that is running; for whoever watches from another thread

    def encode(self, tokens: np.ndarray, cache: KVCache, spans: Sequence[Span] = ()) -> None:
        """Commit tokens to the cache: causal, without logits, of the last layer only keys and values.

        Args:
            tokens: (T,) ids of the positions that follow the committed ones; at most the cache's
                rows_per_call, unless they are one span.
            spans: rows of images that stand in place of some tokens'. They are not scaled as tokens' are.
        """
        pictures = [(span.first, span.rows()) for span in spans]
        cache.reserve(len(tokens), whole=bool(spans))
        places = tuple((span.first, span.end) for span in spans)
        with self.weights.file.reading():
            x = self.backend.embed(self.weights.token_embd, tokens, self._embed_scale)  # (T, D)
            for first, rows in pictures:
                x = self.backend.put_rows(x, first, rows)
            self._stack(x, cache, Call.encode(len(tokens), places, spans_on_full=self.spans_on_full))
        cache.commit(cached_ids(tokens, spans))

    def denoise(
        self,
        canvas: Canvas,
        cache: KVCache,
        previous: Prediction | None,
        temperature: float,
        uniforms: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> Prediction:
        """Predict every position of a canvas; commits nothing.

        Args:
            canvas: of C positions, at most the cache's rows_per_call.
            previous: the last step's prediction, the self-conditioning; None on the first step.
            temperature: of the softmax.
            uniforms: (C,) in [0, 1), which token each position draws.
            rows: (n,) int64, rising: those to compute, at least one; None for all. The others keep their keys
                and values and what `previous` says of them.

        Raises:
            NumericsError: a logit is not finite; says in which layer that began, and which tensor did it.
        """
        be, w = self.backend, self.weights

        def compute() -> Prediction:
            x = self._canvas_rows(canvas.tokens, cache, previous, Call.denoise(canvas))
            return be.predict(x, w.output, self.config.logit_softcap, temperature, uniforms)

        try:
            with w.file.reading():
                if rows is not None:
                    assert previous is not None
                    return self._denoise_rows(canvas, cache, previous, temperature, uniforms[rows], rows)
                if previous is None:
                    return compute()  # there is one such step of a canvas
                cache.reserve(len(canvas))  # before `place` is asked for: arrays that were trimmed move
                place = (cache.place, Call.denoise(canvas).key)
                return be.replay_step(place, compute, canvas.tokens, temperature, uniforms)
        except NumericsError as error:
            from dgguf.model.not_finite import explain  # which computes with a Transformer

            raise explain(self, canvas, cache, conditioned=previous is not None) from error

    def _denoise_rows(
        self,
        canvas: Canvas,
        cache: KVCache,
        previous: Prediction,
        temperature: float,
        uniforms: np.ndarray,
        rows: np.ndarray,
    ) -> Prediction:
        """`denoise` of some rows; uniforms (n,) are theirs."""
        be = self.backend
        before = replace(previous, conditioning=be.some_rows(previous.conditioning, rows))
        x = self._canvas_rows(canvas.tokens[rows], cache, before, Call.denoise(canvas, rows))
        some = be.predict(x, self.weights.output, self.config.logit_softcap, temperature, uniforms)

        def merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            all_rows = old.copy()
            all_rows[rows] = new
            return all_rows

        return Prediction(
            merged(previous.argmax, some.argmax),
            merged(previous.sampled, some.sampled),
            merged(previous.entropy, some.entropy),
            be.merge_rows(previous.conditioning, rows, some.conditioning),
            None if previous.rows is None else merged(previous.rows, some.rows),
        )

    def encode_suffixes(self, branches: Branches, tokens: np.ndarray, cache: KVCache) -> None:
        """Encode the suffixes of branches behind what is committed; `read_labels` reads there.

        Args:
            branches: behind what is committed, of no more places than `cache.places_per_call` says.
            tokens: ids of the suffixes, one behind the other.
        """
        cache.reserve(branches.n_places)
        with self.weights.file.reading():
            x = self.backend.embed(self.weights.token_embd, tokens, self._embed_scale)
            self._stack(x, cache, Call.encode_suffixes(branches))

    def read_labels(
        self,
        branches: Branches,
        which: np.ndarray,
        canvases: np.ndarray,
        slots: np.ndarray,
        labels: np.ndarray,
        cache: KVCache,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One first step of the canvases of some branches, whose suffixes are encoded: of a few logits alone.

        Args:
            which: rising numbers of branches.
            canvases: (N, C) ids, of these branches.
            slots: (S,) int64 rows of the canvases, one behind the other, that are read.
            labels: (L,) int64 ids.

        Returns:
            as `Backend.label_logits`

        Raises:
            NumericsError: a logit is not finite.
        """
        with self.weights.file.reading():
            x = self._canvas_rows(canvases.ravel(), cache, None, Call.denoise_branches(branches, which))
            w, cap = self.weights.output, self.config.logit_softcap
            return self.backend.label_logits(x, slots, w, cap, labels)

    def top_tokens(self, prediction: Prediction, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest tokens of the last prediction and their probabilities; see `Backend.top_tokens`."""
        return self.backend.top_tokens(prediction.conditioning, min(count, self.config.vocab_size))

    def log_probabilities(
        self, prediction: Prediction, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the argmax of the last prediction, and of the likeliest; see `Backend.log_probabilities`."""
        w, cap = self.weights.output, self.config.logit_softcap
        with self.weights.file.reading():
            return self.backend.log_probabilities(
                prediction, w, cap, prediction.argmax, min(count, self.config.vocab_size)
            )

    def logits(self, canvas: Canvas, cache: KVCache, previous: Prediction | None) -> Array:
        """The (C, V) logits after the softcap that `denoise` reads; arguments as there."""
        x = self._canvas_rows(canvas.tokens, cache, previous, Call.denoise(canvas))
        return self.backend.head(x, self.weights.output, self.config.logit_softcap)

    def _canvas_rows(
        self, tokens: np.ndarray, cache: KVCache, previous: Prediction | None, call: Call
    ) -> Array:
        """The rows (C,) of canvases after all layers and the last norm: (C, D)."""
        be, w, eps = self.backend, self.weights, self.config.norm_eps
        cache.reserve(call.length)
        x = be.embed(w.token_embd, tokens, self._embed_scale)  # (C, D)
        if previous is not None:
            soft = be.soft_embed(previous.conditioning, w.token_embd, self._embed_scale)  # (C, D)
            n = be.rms_norm(soft, w.self_cond_pre_norm, eps)
            gated = be.gated(n, w.self_cond_gate, w.self_cond_up)  # (C, F)
            x = be.add(x, be.linear(gated, w.self_cond_down))
        x = self._stack(be.rms_norm(x, None, eps), cache, call)
        return be.rms_norm(x, w.output_norm, eps)

    def _stack(self, x: Array, cache: KVCache, call: Call) -> Array:
        """All layers, for rows (T, D); an encoder pass stops at the last one's keys and values."""
        angles: dict[LayerConfig, Array] = {}
        seen: dict[tuple[int, int | None], Visible] = {}
        self.layers_done = 0
        for layer, w, store in zip(self.config.layers, self.weights.layers, cache.layers, strict=True):
            if layer not in angles:
                factors = None if layer.sliding else self.weights.rope_freqs
                angles[layer] = self.backend.rope_angles(
                    cache.position + call.positions, layer.head_dim, layer.rope_base, factors
                )
            if call.causal and store is cache.layers[-1]:
                n = self.backend.rms_norm(x, w.attn_norm, self.config.norm_eps)
                self._store_rows(n, layer, w, store, angles[layer], call)
            else:
                kind = (store.length, store.window)
                if kind not in seen:
                    seen[kind] = call.visible(store)
                x = self.layer(x, layer, w, store, angles[layer], call, seen[kind])
            self.layers_done += 1
        return x

    def layer(
        self,
        x: Array,
        layer: LayerConfig,
        w: LayerWeights,
        store: LayerCache,
        angles: Array,
        call: Call,
        visible: Visible,
    ) -> Array:
        """One layer: attention, then the dense MLP beside the experts, then the layer's scale. (T, D)"""
        be, eps = self.backend, self.config.norm_eps
        # Verbs of the same rows stand together: a backend may do them at once.
        h = be.rms_norm(x, w.attn_norm, eps)
        q = be.linear(h, w.attn_q).reshape(x.shape[0], self.config.n_heads, layer.head_dim)
        q = be.norm_rope(q, w.attn_q_norm, eps, angles)  # (T, H, Dh)
        self._store_rows(h, layer, w, store, angles, call)
        attended = be.linear(be.attention(q, store, visible), w.attn_output)  # (T, D)
        x = be.residual(x, attended, w.post_attention_norm, eps, 1.0)

        n, expert_input = (be.rms_norm(x, weight, eps) for weight in (w.ffn_norm, w.pre_ffw_norm_2))
        gated = be.gated(n, w.ffn_gate, w.ffn_up)  # (T, F)
        dense = be.linear(gated, w.ffn_down)

        chosen, weights = be.route(  # the router reads the residual stream, not a normed copy
            x, w.ffn_gate_inp, w.ffn_gate_inp_scale, w.ffn_down_exps_scale, self.config.n_experts_used, eps
        )  # (T, A)
        moe = be.experts(expert_input, w.ffn_gate_exps, w.ffn_up_exps, w.ffn_down_exps, chosen, weights)

        scale = w.enc_layer_output_scale if call.causal else w.layer_output_scale
        return be.residual_of_sum(
            x, dense, w.post_ffw_norm_1, moe, w.post_ffw_norm_2, w.post_ffw_norm, eps, scale
        )

    def _store_rows(
        self, h: Array, layer: LayerConfig, w: LayerWeights, store: LayerCache, angles: Array, call: Call
    ) -> None:
        """Write the keys and values of a layer's normed rows (T, D) into its canvas store."""
        be, eps = self.backend, self.config.norm_eps
        shape = (h.shape[0], layer.n_kv_heads, layer.head_dim)
        k = be.linear(h, w.attn_k).reshape(*shape)  # (T, G, Dh)
        # Where there is no attn_v, the value is the raw key projection: before its norm and rope.
        v = k if w.attn_v is None else be.linear(h, w.attn_v).reshape(*shape)
        k = be.norm_rope(k, w.attn_k_norm, eps, angles)
        be.store_rows(k, be.rms_norm(v, None, eps), store, call.rows)
