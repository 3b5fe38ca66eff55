"""Run Google's DiffusionGemma from a GGUF file, and watch it think.

import dgguf

session = dgguf.load("demo")
print(session.generate("Why is the sky blue?").text)
"""

TYPE_CHECKING = False  # not imported: typing takes a while, in which the entry point could not answer Ctrl-C

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from dgguf.answer import Answer
    from dgguf.chat import Chat
    from dgguf.conversation import Conversation
    from dgguf.diffusion.events import (
        CanvasCommitted,
        CanvasStarted,
        DenoisingStep,
        Finished,
        PromptEncoded,
        Started,
    )
    from dgguf.diffusion.settings import SamplerSettings
    from dgguf.errors import DggufError
    from dgguf.loading import Gpu
    from dgguf.session import Session

__version__ = "0.1.0"

# Where each public name lives. Nothing is imported before it is asked for: numba takes half a second.
_HOMES = {
    "Answer": "dgguf.answer",
    "Chat": "dgguf.chat",
    "CanvasCommitted": "dgguf.diffusion.events",
    "CanvasStarted": "dgguf.diffusion.events",
    "Conversation": "dgguf.conversation",
    "DenoisingStep": "dgguf.diffusion.events",
    "DggufError": "dgguf.errors",
    "Finished": "dgguf.diffusion.events",
    "Gpu": "dgguf.loading",
    "PromptEncoded": "dgguf.diffusion.events",
    "SamplerSettings": "dgguf.diffusion.settings",
    "Session": "dgguf.session",
    "Started": "dgguf.diffusion.events",
}

__all__ = [
    "Answer",
    "CanvasCommitted",
    "CanvasStarted",
    "Chat",
    "Conversation",
    "DenoisingStep",
    "DggufError",
    "Finished",
    "Gpu",
    "PromptEncoded",
    "SamplerSettings",
    "Session",
    "Started",
    "load",
]


def load(
    model: "str | Path",
    *,
    threads: int | None = None,
    context: int | None = None,
    exact: bool = False,
    keep_weights: bool = False,
    gpu: "Gpu | None" = None,
    kv_budget: int | None = None,
    mmproj: "str | Path | None" = None,
) -> "Session":
    """Open a model: a GGUF file's path, or a name from models.txt such as "demo".

    Args:
        model: path or name.
        threads: None for one on each usable core.
        context: positions, prompt and answer together; None for 8192 or what the model can.
        exact: compute in float32 what the reference does: several times slower.
        keep_weights: take weights in F32, F16 and BF16 as they are stored, not in 8 bits; exact implies it.
        gpu: run on this GPU, such as dgguf.Gpu(); None for the CPU.
        kv_budget: bytes for the KV caches of all conversations; None for four full ones, on a GPU one.
        mmproj: the vision tower's file, for images; None for the one beside the model, "none" for none.

    Raises:
        DggufError: the file or the GPU cannot be used; the message says why.
    """
    from dgguf.session import Session

    return Session(
        model,
        threads=threads,
        context=context,
        exact=exact,
        keep_weights=keep_weights,
        gpu=gpu,
        kv_budget=kv_budget,
        mmproj=mmproj,
    )


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> "Any":
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dgguf' has no attribute {name!r}")
