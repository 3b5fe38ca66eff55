"""Small states of a training, to go on from elsewhere: weights and momentum in half of their digits."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def halved(value: Any) -> Any:
    """A state whose tensors are bfloat16."""
    if isinstance(value, Tensor):
        return (value.bfloat16() if value.numel() > 1 else value).cpu()
    if isinstance(value, dict):
        return {key: halved(item) for key, item in value.items()}
    return [halved(item) for item in value] if isinstance(value, list) else value


def write_packed(state: dict[str, Any], step: int, path: Path) -> None:
    """Keep a packed state, and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, step {step}", file=sys.stderr)
