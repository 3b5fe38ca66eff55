"""Quantize a model and see how far its predictions move. Writes small.gguf.

`dgguf compare` measures it properly, over texts and levels of noise.
"""

from pathlib import Path

import dgguf
from dgguf import convert
from dgguf.catalog import find_model

plan = convert.plan(find_model("demo"), "Q8_0")
print(f"{len(plan.tensors)} tensors, {8 * plan.n_bytes / plan.n_weights:.2f} bits per weight")
for event in convert.run(plan, Path("small.gguf"), force=True):
    if isinstance(event, convert.ConversionFinished):
        print(f"{event.path}: {event.n_bytes:,} bytes in {event.seconds:.1f} s")


def first_draft(model):
    """The likeliest token at every position after one step; the same seed is the same canvas."""
    with dgguf.load(model) as session:
        events = session.stream("Tell me a story.", seed=7)
        return next(event.tokens for event in events if isinstance(event, dgguf.DenoisingStep))


same = first_draft("demo") == first_draft("small.gguf")
print(f"the same likeliest token at {same.mean():.1%} of the positions")
