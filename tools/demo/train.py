"""Train the model that dgguf ships: a DiffusionGemma small enough to be trained on two CPU cores.

    python tools/demo/train.py --folder demo_run --steps 6000
    python tools/demo/train.py --folder demo_run --steps 8000     # goes on, with the end moved
    python tools/demo/train.py --folder demo_run --export dgguf/data/demo.gguf
    python tools/demo/train.py --folder more --start dgguf/data/demo.gguf    # anew from its weights

Needs torch (extra `oracle`) and a C++ compiler, or --eager. All data are generated; a step's data depend
on the seed and the step alone, so a run that was interrupted goes on as if it had not been. The folder
keeps state.pt, history.jsonl, curve.svg, and the last checkpoint in the form of transformers.

The file that ships had 19,300 steps (3.7 hours), seed 0, on two shared CPU cores, in pieces whose ends were
17,900, 17,300 and 19,300 after the first 4,900 (tools/pictures/demo_curve.svg); `batches` and
`tasks` had other shares in each, towards what lagged: their history has them. A run from the start with
the shares as they stand now was not made.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from dgguf import convert  # noqa: E402
from dgguf.convert.config import read_config  # noqa: E402
from dgguf.convert.names import needed_tensors  # noqa: E402
from tools.demo.batches import CANVAS, KINDS, Batch, Examples  # noqa: E402
from tools.demo.curve import draw_curve  # noqa: E402
from tools.demo.network import Sizes, Twin, checkpoint_config, checkpoint_tensors  # noqa: E402
from tools.demo.optimizer import make_optimizers  # noqa: E402
from tools.demo.vocabulary import EOS, make_vocabulary, write_tokenizer  # noqa: E402

WARM_UP, DECAY_SHARE = 100, 0.35
MUON_RATE, ADAM_RATE = 0.02, 3e-3
BALANCE = 0.01
SAVE_EVERY, REPORT_EVERY = 100, 20
GENERATION = {
    "max_denoising_steps": 48,
    "t_min": 0.4,
    "t_max": 0.8,
    "stability_threshold": 1,
    "confidence_threshold": 0.005,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
}


def rate(step: int, n_steps: int) -> float:
    """The learning rate's share of its peak: up, level, down to 0 at the last step."""
    left = (n_steps - step) / (n_steps * DECAY_SHARE)
    return max(0.0, min(1.0, (step + 1) / WARM_UP, left))


class Trainer:
    """The state of a run in its folder."""

    def __init__(self, folder: Path, seed: int, device: str, *, compiled: bool) -> None:
        self.folder, self.seed, self.device = folder, seed, device
        self.examples = Examples()
        sizes = Sizes(vocab_size=len(make_vocabulary().tokens), canvas=CANVAS)
        self.twin = Twin(sizes, seed, fused=compiled).to(device)
        self.optimizers = make_optimizers(self.twin.named())
        self.step, self.seconds = 0, 0.0
        if self.state_path.exists():
            state = torch.load(self.state_path, map_location=device)
            self.twin.load_state_dict(state["twin"])
            for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            self.step, self.seconds = state["step"], state["seconds"]

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Write the state under another name first, so that an interruption leaves the last one."""
        partial = self.state_path.with_suffix(".partial")
        state = {
            "twin": self.twin.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        os.replace(partial, self.state_path)

    def _backward(self, batch: Batch, losses: dict[str, list[float]]) -> float:
        """The gradient of a batch's loss, which is returned."""
        prompt, targets, canvas, weights = (
            torch.from_numpy(array).to(self.device)
            for array in (batch.prompt, batch.targets, batch.canvas, batch.weights)
        )
        half = len(prompt) // 2
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        temperature = (torch.rand(half, 1, 1, generator=generator) * 0.4 + 0.4).to(self.device)
        with torch.no_grad():
            logits = self.twin.logits(prompt[:half], canvas[:half])
        signal = self.twin.signal(logits, temperature)
        signal = torch.cat((signal, signal.new_zeros(len(prompt) - half, *signal.shape[1:])))
        each, balance = self.twin.loss(prompt, canvas, signal, targets)
        loss = (each * weights).sum() / weights.sum()
        (loss + BALANCE * balance).backward()
        noisy = each.detach().cpu().numpy()
        for i, skill in enumerate(batch.skills):
            seen = batch.corrupted[i] & (batch.targets[i] != batch.targets[i, -1])
            if seen.any():
                losses[skill].append(float(noisy[i][seen].mean()))
        return float(loss.detach())

    def train_step(self, n_steps: int, losses: dict[str, list[float]]) -> float:
        """One step of both optimizers; returns the loss."""
        kind = KINDS[self.step % len(KINDS)]
        loss = self._backward(self.examples.batch(kind, self.seed, self.step), losses)
        share = rate(self.step, n_steps)
        muon, adam = self.optimizers
        parameters: list[Tensor] = adam.param_groups[0]["params"]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, peak in ((muon, MUON_RATE), (adam, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss


def write_checkpoint(twin: Twin, folder: Path) -> None:
    """A folder as transformers writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [EOS, make_vocabulary().tokens.index("<turn|>")]
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


def read_gguf(twin: Twin, path: Path) -> None:
    """Take the parameters from a GGUF that a training has written, of any type."""
    import gguf

    config = read_config(path, checkpoint_config(twin.sizes))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    ours = {"encoder.language_model.": ".encoder_scalar", "decoder.": ".layer_scalar"}
    with torch.no_grad():
        for needed in needed_tensors(config):
            ((name, shape),) = needed.spellings[0]
            prefix = next(prefix for prefix in ours if name.startswith(prefix))
            parameter = twin[name.removeprefix(prefix).replace(".layer_scalar", ours[prefix])]
            tensor = stored[needed.name]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
            parameter.copy_(torch.from_numpy(values.copy()))


def keep_memory() -> None:
    """Tell glibc to keep freed memory: returning and fetching it costs a tenth of a step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for option, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 200 << 20)):
        libc.mallopt(option, value)


def _evaluate(trainer: Trainer) -> dict[str, Any]:
    """Solve rates of the model as it is, through dgguf, on a few held-out prompts of each skill."""
    from tools.demo.evaluate import quick_figures

    checkpoint = trainer.folder / "demo"
    write_checkpoint(trainer.twin, checkpoint)
    path = trainer.folder / "demo.gguf"
    write_gguf(checkpoint, path, "Q8_0")
    return quick_figures(path)


def train(trainer: Trainer, n_steps: int, evaluate_every: int) -> None:
    """Train up to step `n_steps`, saving often, printing progress to stderr."""
    losses: dict[str, list[float]] = defaultdict(list)
    began, first_step = time.perf_counter(), trainer.step
    history = trainer.folder / "history.jsonl"
    while trainer.step < n_steps:
        started = time.perf_counter()
        loss = trainer.train_step(n_steps, losses)
        trainer.seconds += time.perf_counter() - started
        done = trainer.step == n_steps
        entry: dict[str, Any] = {}
        if trainer.step % REPORT_EVERY == 0 or done:
            each = (time.perf_counter() - began) / (trainer.step - first_step)
            means = {skill: round(sum(v) / len(v), 4) for skill, v in sorted(losses.items())}
            losses.clear()
            entry = {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2), "losses": means}
            minutes = each * (n_steps - trainer.step) / 60
            text = " ".join(f"{skill} {value:.2f}" for skill, value in means.items())
            print(f"{trainer.step}/{n_steps}  {each:.2f} s/step, {minutes:.0f} min left  "
                  f"loss {loss:.3f}  {text}", file=sys.stderr, flush=True)  # fmt: skip
        if trainer.step % SAVE_EVERY == 0 or done:
            trainer.save()
        if trainer.step % evaluate_every == 0 or done:
            entry = entry or {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2)}
            entry["solved"] = _evaluate(trainer)
            print(f"{trainer.step}/{n_steps}  {entry['solved']}", file=sys.stderr, flush=True)
        if entry:
            with history.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            draw_curve(history, trainer.folder / "curve.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--folder", type=Path, required=True, help="where the run is kept")
    parser.add_argument("--start", type=Path, metavar="MODEL.gguf", help="a new run begins with its weights")
    parser.add_argument("--steps", type=int, default=6000, help="train up to this step (default: 6000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: all cores)")
    parser.add_argument("--eager", action="store_true", help="do not compile: slower, needs no C++ compiler")
    parser.add_argument("--evaluate-every", type=int, default=500, metavar="N", help="steps (default: 500)")
    parser.add_argument("--export", type=Path, metavar="OUT.gguf", help="write the trained model and stop")
    parser.add_argument("--type", default="Q8_0", help="recipe of --export (default: Q8_0)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    keep_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64
    trainer = Trainer(options.folder, options.seed, options.device, compiled=not options.eager)
    if options.start is not None and trainer.step == 0:
        read_gguf(trainer.twin, options.start)
    if options.export is None:
        train(trainer, options.steps, options.evaluate_every)
    else:
        write_checkpoint(trainer.twin, options.folder / "demo")
        write_gguf(options.folder / "demo", options.export, options.type)


if __name__ == "__main__":
    main()
