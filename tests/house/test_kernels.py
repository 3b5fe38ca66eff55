"""What kernels of a first run may not use: numba compiles much for it, each time (docs/kernels.md)."""

import ast
from pathlib import Path

import pytest

import dgguf.backends.cpu

FOLDER = Path(dgguf.backends.cpu.__file__).parent
DEAR = {"empty", "zeros", "ones", "full", "view", "reshape", "min", "max", "sum", "mean", "copy", "astype"}
# Kernels that no first run needs, and which are clearer so.
NOT_OF_A_FIRST_RUN = {"vision.py", "attention.py:masked_softmax"}


def kernels():
    for path in sorted(FOLDER.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and {"kernel", "part"} & {
                getattr(mark, "id", "") for mark in node.decorator_list
            }:
                yield pytest.param(node, id=f"{path.name}:{node.name}")


def dear(function):
    """What a function calls or assigns to that is dear to compile, in words."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in DEAR:
            yield ast.unparse(node)
        for target in getattr(node, "targets", ()):
            for part in getattr(target, "elts", [target]):
                if isinstance(part, ast.Subscript) and any(
                    isinstance(inner, ast.Slice) for inner in ast.walk(part.slice)
                ):
                    yield ast.unparse(node)


@pytest.mark.parametrize("function", list(kernels()))
def test_kernels_of_a_first_run_use_nothing_dear(function, request):
    place = request.node.callspec.id
    if {place, place.split(":")[0]} & NOT_OF_A_FIRST_RUN:
        return
    assert not list(dear(function)), "kernel_arrays has it in a few instructions"
