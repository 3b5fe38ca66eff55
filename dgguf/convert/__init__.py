"""Making GGUF files: `plan(source, type)` decides, `run(plan, out)` yields events.

A conversion of another kind of source starts in a new reader that returns a `source.Source`; another
type starts in `recipes.RECIPES` and in the encoders of `dgguf.quants`.
"""

# Bound at once, not on demand: importing the submodules `plan` and `run` later would put the
# modules in the place of their functions.
from dgguf.convert.encode_tensor import TensorError
from dgguf.convert.imatrix import Imatrix, read_imatrix
from dgguf.convert.output import check_outputs
from dgguf.convert.plan import ConversionPlan, FilePlan, TensorPlan, plan
from dgguf.convert.recipes import RECIPES
from dgguf.convert.run import ConversionEvent, ConversionFinished, RowsWritten, TensorWritten, run
from dgguf.convert.vision import plan_vision

__all__ = [
    "RECIPES",
    "ConversionEvent",
    "ConversionFinished",
    "ConversionPlan",
    "FilePlan",
    "Imatrix",
    "RowsWritten",
    "TensorError",
    "TensorPlan",
    "TensorWritten",
    "check_outputs",
    "plan",
    "plan_vision",
    "read_imatrix",
    "run",
]
