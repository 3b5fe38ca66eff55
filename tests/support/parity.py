"""What is compared with transformers: cases, and what each side computes for them.

`observe_dgguf` and `observe_transformers` run one case and return the same named arrays. The second
needs torch; its results for `FROZEN` are kept in data/parity.npz by tools/accuracy/freeze_parity.py, so that
the comparison also runs without it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgguf.backends.cpu import CpuBackend
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.support.synthetic.writer import Geometry, write_model

TEMPERATURE = 0.7
N_CANVASES = 3


@dataclass(frozen=True)
class Case:
    """A random model, a random prompt, and how dgguf is to encode it.

    Attributes:
        chunks: lengths that the prompt is cut into, repeated.
    """

    name: str
    seed: int
    prompt: int
    chunks: tuple[int, ...]
    geometry: Geometry
    metadata: dict


def _case(name, seed, prompt, chunks, softcap=30.0, **geometry):
    small = {"block_count": 3, "canvas_length": 12, "sliding_window": 16, "context_length": 512}
    metadata = {"diffusion-gemma.final_logit_softcapping": np.float32(softcap)}
    return Case(name, seed, prompt, chunks, Geometry(**(small | geometry)), metadata)


FROZEN = [
    _case("shorter than the window", 1, 5, (5,)),
    _case("as long as the window", 2, 16, (7,)),
    _case("longer than the window", 3, 61, (61,)),
    _case("chunks that do not divide the window", 4, 61, (11,)),
    _case("uneven chunks", 5, 50, (1, 13, 3), sliding_window=9),
    _case("one layer", 6, 20, (8,), block_count=1),
    _case("two full layers", 7, 40, (9,), block_count=4, full_every=2, head_count_kv=2),
    _case("more heads, more experts", 8, 33, (32,), head_count=8, head_count_kv=2, head_count_kv_swa=4,
          expert_count=16, expert_used_count=4),
    _case("one expert of two", 9, 10, (4,), expert_count=2, expert_used_count=1),
    _case("the smallest window", 10, 8, (3,), sliding_window=2),
    _case("wide heads, tight softcap", 111, 30, (30,), key_length=64, key_length_swa=32, embedding_length=96,
          softcap=2.0),
]  # fmt: skip


def thinned(array):
    """What is frozen of an array: of a matrix, every seventh column."""
    return array if array.ndim < 2 else array[:, ::7]


class TracingTransformer(Transformer):
    """Keeps every layer's output of the last pass."""

    trace: list

    def layer(self, *args):
        x = super().layer(*args)
        self.trace.append(self.backend.to_host(x))
        return x


def model_file(case, folder):
    """The case's GGUF file, F32 weights."""
    path = Path(folder) / f"{case.seed}.gguf"
    write_model(path, case.geometry, "F32", case.seed, metadata=case.metadata)
    return path


def digest(path):
    """Of the weights alone: what else a file holds does not change what is computed.

    In half precision: how the C library rounds logarithms decides on the last bit of a weight in 100,000.
    """
    file = GgufFile(path)
    sha = hashlib.sha256()
    for name in sorted(file.tensors):
        with np.errstate(over="ignore"):  # factors of frequencies are beyond its range
            weights = file.data(name).view(np.float32).astype(np.float16)
        sha.update(name.encode() + weights.tobytes())
    return sha.hexdigest()


def random_ids(case, vocab_size, place, count):
    return SeededNoise(case.seed, vocab_size).tokens(1000, place, count)


def observe_dgguf(case, path):
    """Every layer's output and the logits of encoding a prompt and denoising three canvases, twice each."""
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(threads=2, exact=True)
    model = TracingTransformer(config, load_weights(file, config, backend), backend)
    length = config.canvas_length
    cache = KVCache(config, backend, case.prompt + (N_CANVASES + 1) * length, max(length, *case.chunks))
    seen = {}

    def encode(name, tokens):
        layers = [[] for _ in config.layers[:-1]]  # an encoder pass needs no output of the last
        start, turn = 0, 0
        while start < len(tokens):
            model.trace = []
            size = case.chunks[turn % len(case.chunks)]
            model.encode(tokens[start : start + size], cache)
            for layer, x in zip(layers, model.trace, strict=True):
                layer.append(x)
            start, turn = start + size, turn + 1
        for i, parts in enumerate(layers):
            seen[f"{name}/layer {i}"] = np.concatenate(parts)

    encode("prompt", random_ids(case, config.vocab_size, 0, case.prompt))
    for n in range(N_CANVASES):
        canvas = random_ids(case, config.vocab_size, 1 + n, length)
        previous = None
        for kind in ("first step", "self-conditioned step"):
            model.trace = []
            logits = model.logits(Canvas(canvas), cache, previous)
            for i, x in enumerate(model.trace):
                seen[f"canvas {n}/{kind}/layer {i}"] = x
            seen[f"canvas {n}/{kind}/logits"] = backend.to_host(logits)
            previous = model.denoise(Canvas(canvas), cache, previous, TEMPERATURE, np.full(length, 0.5))
        encode(f"commit {n}", canvas)
    return seen


SETTINGS = SamplerSettings(max_steps=10, entropy_bound=2.0, confidence_threshold=1.5)


def generate_dgguf(case, path, *, canvases=2, pins=None):
    """Canvases from a prompt: tokens, and the steps each took."""
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(threads=2, exact=True)
    model = Transformer(config, load_weights(file, config, backend), backend)
    prompt = random_ids(case, config.vocab_size, 0, case.prompt)
    cache = KVCache(config, backend, 512, max(config.canvas_length, *case.chunks))
    noise = SeededNoise(case.seed, config.vocab_size)
    events = generate(
        model,
        cache,
        prompt,
        settings=SETTINGS,
        noise=noise,
        max_tokens=canvases * config.canvas_length,
        stop_ids=frozenset(),
        pins=pins,
    )
    committed = [event for event in events if isinstance(event, CanvasCommitted)]
    return {
        "generated": np.concatenate([event.tokens for event in committed]),
        "steps": np.array([event.steps for event in committed]),
    }


def transformers_model(path, vision=None, **options):
    """The GGUF file's model in transformers, weights put in one by one under their own names.

    Args:
        vision: the configuration of a vision tower, whose weights are left as they come.
        options: of the configuration.
    """
    import gguf
    import torch
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    get = lambda key: reader.fields[f"{arch}.{key}"].contents()  # noqa: E731
    tensors = {t.name: torch.tensor(t.data.astype(np.float32).reshape(t.shape[::-1])) for t in reader.tensors}
    sliding = get("attention.sliding_window_pattern")
    kv_heads = get("attention.head_count_kv")
    text = {
        "vocab_size": len(tensors["token_embd.weight"]),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": next((n for n, s in zip(kv_heads, sliding, strict=True) if s), kv_heads[0]),
        "num_global_key_value_heads": kv_heads[-1],
        "head_dim": get("attention.key_length_swa"),
        "global_head_dim": get("attention.key_length"),
        "sliding_window": get("attention.sliding_window"),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in sliding],
        "num_experts": get("expert_count"),
        "top_k_experts": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "final_logit_softcapping": get("final_logit_softcapping"),
        "max_position_embeddings": get("context_length"),
        "use_bidirectional_attention": "vision",
    }
    vision = vision or {
        "model_type": "gemma4_vision",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
    }
    vision = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16} | vision
    length = reader.fields["diffusion.canvas_length"].contents()
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=length, **options)
    model = DiffusionGemmaForBlockDiffusion(config).eval()

    names = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
        "post_ffw_norm_1": "post_feedforward_layernorm_1", "post_ffw_norm_2": "post_feedforward_layernorm_2",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "ffn_gate_inp": "router.proj",
    }  # fmt: skip
    others = {
        "ffn_gate_inp.scale": "router.scale", "ffn_down_exps.scale": "router.per_expert_scale",
        "ffn_gate_up_exps.weight": "experts.gate_up_proj", "ffn_down_exps.weight": "experts.down_proj",
        "layer_output_scale.weight": "layer_scalar",
    }  # fmt: skip
    top = {
        "token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight",
        "self_cond_pre_norm.weight": "self_conditioning.pre_norm.weight",
        "self_cond_gate.weight": "self_conditioning.gate_proj.weight",
        "self_cond_up.weight": "self_conditioning.up_proj.weight",
        "self_cond_down.weight": "self_conditioning.down_proj.weight",
    }  # fmt: skip
    decoder = dict(model.model.decoder.named_parameters()) | dict(model.model.decoder.named_buffers())
    unset = set(dict(model.model.decoder.named_parameters())) | {
        n for n in decoder if n.endswith("layer_scalar")
    }
    with torch.no_grad():
        for name, value in tensors.items():
            if name == "rope_freqs.weight":
                continue
            if name.endswith(".enc_layer_output_scale.weight"):
                model.model.encoder.language_model.layers[int(name.split(".")[1])].layer_scalar.copy_(value)
                continue
            if name in top:
                target = top[name]
            else:
                _, layer, rest = name.split(".", 2)
                target = f"layers.{layer}." + (
                    others.get(rest) or names[rest.removesuffix(".weight")] + ".weight"
                )
            decoder[target].copy_(value)
            unset.discard(target)
    assert not unset, unset
    model.router_gap = 1.0

    def note_gap(router, _, output):
        """The closest choice of experts so far: how far apart the last chosen and the next are."""
        last, following = (
            torch.sort(output[0], descending=True).values[:, router.config.top_k_experts - 1 :].T[:2]
        )
        model.router_gap = min(model.router_gap, float(((last - following) / last).min()))

    for name, module in model.named_modules():
        if name.endswith("router"):
            module.register_forward_hook(note_gap)
    return model


def observe_transformers(case, path, model=None):
    """As `observe_dgguf`, by transformers, the prompt in one piece; by `model` if given, not the file's."""
    import torch
    from transformers import DynamicCache

    model = model or transformers_model(path)
    vocab_size, length = model.config.text_config.vocab_size, model.config.canvas_length
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    seen, trace = {}, []
    hook = lambda module, inputs, output: trace.append(output[0].numpy().copy())  # noqa: E731
    for layer in [*model.model.encoder.language_model.layers[:-1], *model.model.decoder.layers]:
        layer.register_forward_hook(hook)

    def encode(name, tokens, start):
        trace.clear()
        positions = torch.arange(start, start + len(tokens))[None]
        model.model.encoder(
            input_ids=torch.tensor(tokens)[None], past_key_values=cache, position_ids=positions
        )
        for i, x in enumerate(trace):
            seen[f"{name}/layer {i}"] = x

    with torch.no_grad():
        encode("prompt", random_ids(case, vocab_size, 0, case.prompt), 0)
        for n in range(N_CANVASES):
            start = case.prompt + n * length
            canvas = random_ids(case, vocab_size, 1 + n, length)
            scaled = None
            for kind in ("first step", "self-conditioned step"):
                trace.clear()
                out = model(
                    decoder_input_ids=torch.tensor(canvas)[None],
                    past_key_values=cache,
                    self_conditioning_logits=scaled,
                    decoder_position_ids=torch.arange(start, start + length)[None],
                )
                for i, x in enumerate(trace):
                    seen[f"canvas {n}/{kind}/layer {i}"] = x
                seen[f"canvas {n}/{kind}/logits"] = out.logits[0].numpy()
                scaled = out.logits / TEMPERATURE
            encode(f"commit {n}", canvas, start)
    return seen


class _PinHook:
    """Holds pins in transformers' `generate`: a logits processor of pins, and what follows from it.

    The self-conditioning stays the network's own, and the stopping rule looks at free positions alone.

    Args:
        model: of transformers; its `forward` and its stopping rule are replaced.
        pins: ids by position of the answer.
        n_prompt: tokens of the prompt.
    """

    def __init__(self, model, pins, n_prompt, settings):
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

        self._pins, self._n_prompt, self._length = pins, n_prompt, model.config.canvas_length
        self._temperature = generation.LinearTemperatureScheduleLogitsProcessor(
            settings.t_min, settings.t_max, settings.max_denoising_steps
        )
        self._own = None  # logits of the last step, before pins
        forward, hook = model.forward, self

        def conditioned(*, self_conditioning_logits, **arguments):
            if self_conditioning_logits is not None:
                places, _ = hook.of_block(hook._block)
                self_conditioning_logits[0, places] = hook._own[0, places]
            return forward(self_conditioning_logits=self_conditioning_logits, **arguments)

        class OfFree(generation.StableAndConfidentStoppingCriteria):
            def __call__(self, argmax_canvas, logits, **arguments):
                free = [p for p in range(hook._length) if p not in hook.of_block(hook._block)[0]]
                return super().__call__(argmax_canvas, logits[:, free], **arguments)

        model.forward = conditioned
        model._prepare_diffusion_stopping_criteria = lambda config: OfFree(
            config.stability_threshold, config.confidence_threshold
        )

    def of_block(self, block):
        """The places and ids of a canvas's pins."""
        mine = {p - block * self._length: token for p, token in self._pins.items()}
        mine = {place: token for place, token in mine.items() if 0 <= place < self._length}
        return list(mine), list(mine.values())

    def __call__(self, input_ids, scores, cur_step):
        self._block = (input_ids.shape[1] - self._n_prompt) // self._length
        self._own = self._temperature(input_ids, scores, cur_step)
        places, ids = self.of_block(self._block)
        held = scores.clone()
        held[0, places] = -np.inf
        held[0, places, ids] = 0.0
        return held


def generate_transformers(case, path, model=None, prompt=None, *, canvases=2, pins=None, **inputs):
    """As `generate_dgguf`, by transformers' own `generate`, fed the same random numbers.

    Cases must not hang on a router's near tie, where rounding would send the two on different ways.
    """
    from unittest import mock

    import torch
    from transformers import LogitsProcessorList
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        DiffusionGemmaGenerationConfig,
        EntropyBoundSamplerConfig,
    )

    model = model or transformers_model(path)
    vocab_size, length = model.config.text_config.vocab_size, model.config.canvas_length
    noise = SeededNoise(case.seed, vocab_size)
    steps = []  # of each block; a draw begins a step, a canvas without a draw before it begins a block
    drawn = False

    def multinomial(probabilities, num_samples):
        nonlocal drawn
        drawn = True
        steps[-1] += 1
        uniforms = noise.uniforms(len(steps) - 1, steps[-1], length)
        cumulative = np.cumsum(probabilities.numpy().astype(np.float64), axis=1)
        found = [
            np.searchsorted(row, u * row[-1], side="right")
            for row, u in zip(cumulative, uniforms, strict=True)
        ]
        return torch.tensor(np.array(found))[:, None]

    def randint(low, high, size, device):
        nonlocal drawn
        if not drawn:
            steps.append(0)
        drawn = False
        fresh = noise.tokens(len(steps) - 1, steps[-1], length)
        if hook:
            places, ids = hook.of_block(len(steps) - 1)
            fresh[places] = ids
        return torch.tensor(fresh)[None]

    settings = DiffusionGemmaGenerationConfig(
        max_new_tokens=canvases * length,
        max_denoising_steps=SETTINGS.max_steps,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=SETTINGS.entropy_bound),
        t_min=SETTINGS.t_min,
        t_max=SETTINGS.t_max,
        stability_threshold=SETTINGS.stability_threshold,
        confidence_threshold=SETTINGS.confidence_threshold,
        disable_compile=True,
    )
    prompt = random_ids(case, vocab_size, 0, case.prompt) if prompt is None else prompt
    hook = pins and _PinHook(model, pins, len(prompt), settings)
    if hook:
        inputs["logits_processor"] = LogitsProcessorList([hook])
    with mock.patch("torch.multinomial", multinomial), mock.patch("torch.randint", randint):
        out = model.generate(torch.tensor(prompt)[None], generation_config=settings, **inputs)
    assert model.router_gap > 1e-5, "rounding decides between two experts: choose another seed for this case"
    return {"generated": out.sequences[0, len(prompt) :].numpy(), "steps": np.array(steps)}
