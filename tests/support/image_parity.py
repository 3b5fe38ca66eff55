"""What is compared with transformers of prompts with images: cases, and what each side computes for them.

As `parity`, whose pieces it uses. Masks: "A" is Google's, of images on sliding layers; "B" is what `generate`
of transformers' DiffusionGemma has, on full layers, too. It is given A's masks for a comparison.
"""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from dgguf.backends.cpu import CpuBackend
from dgguf.diffusion.events import CanvasCommitted
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.ggufio.file import GgufFile
from dgguf.images import ImageInput
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.mmproj import VisionConfig, load_vision
from dgguf.model.spans import Span, calls, within
from dgguf.model.transformer import Transformer
from dgguf.model.vision import VisionTower
from dgguf.model.weights import load_weights
from tests.support import parity
from tests.support.seeing import GEOMETRY, write_seeing_model
from tests.support.synthetic.tower import TINY_TOWER
from tests.support.tower_names import checkpoint_name

WIDE = replace(TINY_TOWER, hidden_size=96, n_heads=2, ff_size=72, n_layers=3)


@dataclass(frozen=True)
class Case:
    """A random model and tower, and a prompt of texts (their lengths) with images (columns, rows) between.

    Attributes:
        rows_per_call: how dgguf is to encode it.
        masks: which.
    """

    name: str
    seed: int
    texts: tuple[int, ...]
    images: tuple[tuple[int, int], ...]
    masks: str = "A"
    window: int = 8
    rows_per_call: int = 64
    tower: VisionConfig = TINY_TOWER
    clipped: bool = False

    @property
    def geometry(self):
        return replace(GEOMETRY, sliding_window=self.window)


CASES = [
    Case("a square", 1, (5, 4), ((3, 3),)),
    Case("a square, B", 2, (5, 4), ((3, 3),), "B"),
    Case("wider than high", 3, (2, 7), ((5, 2),), rows_per_call=7),
    Case("higher than wide, B", 4, (9, 3), ((1, 6),), "B", rows_per_call=5),
    Case("two images", 5, (3, 4, 6), ((2, 3), (4, 1))),
    Case("two images, B", 6, (3, 4, 6), ((2, 3), (4, 1)), "B"),
    Case("adjacent images", 7, (4, 0, 5), ((2, 2), (3, 2)), rows_per_call=9),
    Case("adjacent images, B", 8, (4, 0, 5), ((2, 2), (3, 2)), "B"),
    Case("a window longer than the image", 9, (6, 6), ((3, 4),), window=40),
    Case("a window longer than the image, B", 10, (6, 6), ((3, 4),), "B", window=40),
    Case("clipped", 11, (3, 3), ((4, 2),), clipped=True),
    Case("clipped, not standardized", 12, (3, 3), ((2, 4),), clipped=True,
         tower=replace(TINY_TOWER, standardized=False)),
    Case("wide heads", 13, (3, 5), ((3, 2),), tower=WIDE),
    Case("wide heads, B", 14, (3, 5), ((3, 2),), "B", tower=WIDE, window=3),
    Case("one row of patches' squares", 15, (1, 2), ((7, 1),), window=4),
    Case("an image first", 16, (0, 8), ((2, 5),), window=4, rows_per_call=4),
]  # fmt: skip


def files(case, folder):
    """The model's file; its tower lies beside it."""
    options = {"videos": False, "clipped": case.clipped}  # frozen without a token for videos
    return write_seeing_model(Path(folder), case.geometry, case.tower, case.seed, **options)


def picture(case, number):
    columns, rows = case.images[number]
    rng = np.random.default_rng([case.seed, number])
    pixels = rng.integers(0, 256, (48 * rows, 48 * columns, 3), np.uint8)
    return ImageInput(f"{number}.png", (48 * columns, 48 * rows), pixels, 70)


def prompt_of(case, marks, vocab_size):
    """Ids, and where each image's rows begin."""
    rng = np.random.default_rng([case.seed, 99])
    text = lambda n: rng.integers(3, vocab_size - 3, n).tolist()  # noqa: E731
    ids, starts = text(case.texts[0]), []
    for (columns, rows), behind in zip(case.images, case.texts[1:], strict=True):
        starts.append(len(ids) + 1)
        ids += [marks[0], *[marks[1]] * (columns * rows), marks[2], *text(behind)]
    return np.array(ids), starts


MARKS = ("<|image>", "<|image|>", "<image|>")


def observe_dgguf(case, path):
    """The images' rows, a canvas's logits, and what is generated."""
    file, tower_file = GgufFile(path), GgufFile(path.with_name("mmproj.gguf"))
    config, vision = ModelConfig.from_file(file), VisionConfig.from_file(tower_file)
    backend = CpuBackend(threads=1, exact=True)
    tower = VisionTower(vision, load_vision(tower_file, vision, backend), backend)
    model = Transformer(config, load_weights(file, config, backend), backend)
    model.spans_on_full = case.masks == "B"
    tokens = list(file.metadata["tokenizer.ggml.tokens"])
    ids, starts = prompt_of(case, [tokens.index(mark) for mark in MARKS], config.vocab_size)
    rows = [tower.encode(picture(case, n)) for n in range(len(case.images))]
    spans = [
        Span(start, len(each), -1 - n, lambda each=each: each)
        for n, (start, each) in enumerate(zip(starts, rows, strict=True))
    ]
    seen = {f"image {n}": each for n, each in enumerate(rows)}
    length = config.canvas_length
    cache = KVCache(config, backend, 512, max(length, case.rows_per_call))
    for first, end in calls(len(ids), spans, 0, case.rows_per_call):
        model.encode(ids[first:end], cache, within(spans, first, end))
    canvas = SeededNoise(case.seed, config.vocab_size).tokens(1000, 1, length)
    seen["logits"] = backend.to_host(model.logits(Canvas(canvas), cache, None))
    events = generate(
        model,
        KVCache(config, backend, 512, max(length, case.rows_per_call)),
        ids,
        settings=parity.SETTINGS,
        noise=SeededNoise(case.seed, config.vocab_size),
        max_tokens=2 * length,
        stop_ids=frozenset(),
        spans=spans,
    )
    committed = [event for event in events if isinstance(event, CanvasCommitted)]
    seen["generated"] = np.concatenate([event.tokens for event in committed])
    seen["steps"] = np.array([event.steps for event in committed])
    return seen


def masks(case, n, starts):
    """(full, sliding) of a prompt, (n, n) bool: what each row sees."""
    image = np.full(n, -1)
    for number, (start, (columns, rows)) in enumerate(zip(starts, case.images, strict=True)):
        image[start : start + columns * rows] = number
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    causal, inside = j <= i, j > i - case.window
    same = (image[:, None] == image[None]) & (image >= 0)[:, None]
    if case.masks == "B":
        return causal | same, (causal & inside) | same
    return causal, (causal | same) & inside


def observe_transformers(case, path):
    """As `observe_dgguf`, by transformers."""
    import torch
    from transformers import DynamicCache

    model, ids, starts = _transformers(case, path)
    encoder, length = model.model.encoder, model.config.canvas_length
    patches, places = _inputs(case)
    features, seen = [], {}
    additive = {
        kind: torch.where(torch.tensor(mask), 0.0, torch.finfo(torch.float32).min)[None, None]
        for kind, mask in zip(
            ("full_attention", "sliding_attention"), masks(case, len(ids), starts), strict=True
        )
    }
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    canvas = SeededNoise(case.seed, model.config.text_config.vocab_size).tokens(1000, 1, length)
    with torch.no_grad():
        for n in range(len(case.images)):
            rows = encoder.get_image_features(patches[n : n + 1], places[n : n + 1]).pooler_output
            features.append(rows.reshape(-1, rows.shape[-1]))
            seen[f"image {n}"] = features[-1].numpy()
        encoder(
            input_ids=torch.tensor(ids)[None],
            pixel_values=patches,
            image_position_ids=places,
            attention_mask=additive,
            cache=cache,
        )
        out = model(
            decoder_input_ids=torch.tensor(canvas)[None],
            cache=cache,
            decoder_position_ids=torch.arange(len(ids), len(ids) + length)[None],
        )
        seen["logits"] = out.logits[0].numpy()
        with _given(model, additive, len(ids)) if case.masks == "A" else contextlib.nullcontext():
            seen |= parity.generate_transformers(
                case,
                path,
                model,
                ids,
                pixel_values=patches,
                image_position_ids=places,
                mm_token_type_ids=torch.tensor(ids == model.config.image_token_id).int()[None],
            )
    return seen


def _given(model, additive, n):
    """Let `generate` encode the prompt of n tokens with these masks."""
    encoder = type(model.model.encoder)
    made = encoder.create_masks_for_generate

    def create(**arguments):
        return additive if arguments["inputs_embeds"].shape[1] == n else made(**arguments)

    return mock.patch.object(encoder, "create_masks_for_generate", staticmethod(create))


def _inputs(case):
    """Patches and places of all images, padded to the longest."""
    import torch

    images = [picture(case, n) for n in range(len(case.images))]
    most = max(9 * image.n_tokens for image in images)
    patches = np.zeros((len(images), most, 768), np.float32)
    places = np.full((len(images), most, 2), -1)
    for n, image in enumerate(images):
        count = 9 * image.n_tokens
        patches[n, :count] = image.patches()
        x, y = np.meshgrid(np.arange(3 * image.columns), np.arange(3 * image.rows))
        places[n, :count] = np.stack((x, y), -1).reshape(-1, 2)
    return torch.tensor(patches), torch.tensor(places)


def _transformers(case, path):
    """The model with its tower, the prompt's ids, and where its images begin."""
    import gguf
    import torch

    tokens = list(GgufFile(path).metadata["tokenizer.ggml.tokens"])
    marks = [tokens.index(mark) for mark in MARKS]
    t = case.tower
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": t.hidden_size,
        "intermediate_size": t.ff_size,
        "num_hidden_layers": t.n_layers,
        "num_attention_heads": t.n_heads,
        "num_key_value_heads": t.n_heads,
        "head_dim": t.head_dim,
        "position_embedding_size": t.n_places,
        "standardize": t.standardized,
        "use_clipped_linears": case.clipped,
    }
    model = parity.transformers_model(
        path, vision, boi_token_id=marks[0], image_token_id=marks[1], eoi_token_id=marks[2]
    )
    state = model.model.encoder.state_dict()
    unset = {name for name in state if name.startswith(("vision_tower.", "embed_vision."))}
    with torch.no_grad():
        for tensor in gguf.GGUFReader(path.with_name("mmproj.gguf")).tensors:
            values = torch.tensor(tensor.data.astype(np.float32).reshape(tensor.shape[::-1]))
            if tensor.name == "v.patch_embd.weight":
                values = values.permute(0, 2, 3, 1).reshape(t.hidden_size, 768)
            name = checkpoint_name(tensor.name)
            state[name].copy_(values.reshape(state[name].shape))
            unset.discard(name)
    assert not unset, unset
    ids, starts = prompt_of(case, marks, len(tokens))
    return model, ids, starts
