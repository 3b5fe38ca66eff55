"""Trained weights as files: a checkpoint of transformers, and the GGUF that dgguf makes of it."""

import json
from pathlib import Path

from safetensors.torch import save_file

from dgguf import convert
from tools.demo.network import Twin, checkpoint_config, checkpoint_tensors
from tools.demo.vocabulary import EOS, SPECIALS, write_tokenizer

# As DiffusionGemma's, but for two numbers. With its bound of 0.1 nats a canvas of this small model often
# comes to its last step before it settles; and where all but ten cells of a Sudoku are pinned, the mean
# entropy of these stays about its threshold of 0.005 for some steps (docs/demo.md).
GENERATION = {
    "max_denoising_steps": 48,
    "t_min": 0.4,
    "t_max": 0.8,
    "stability_threshold": 1,
    "confidence_threshold": 0.01,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.5},
}


def write_checkpoint(twin: Twin, folder: Path) -> None:
    """A folder as transformers writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [EOS, SPECIALS.index("<turn|>")]
    generation = GENERATION | {"eos_token_id": ids, "pad_token_id": 0, "bos_token_id": 2}
    for name, values in (
        ("config.json", checkpoint_config(twin.sizes)),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(values, indent=1))
    write_tokenizer(folder)
    save_file(checkpoint_tensors(twin), folder / "model.safetensors", {"format": "pt"})


def write_gguf(checkpoint: Path, out: Path, type_name: str) -> None:
    """Convert by the code behind `dgguf quantize`."""
    for _ in convert.run(convert.plan(checkpoint, type_name), out, force=True):
        pass
