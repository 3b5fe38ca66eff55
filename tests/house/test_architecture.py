"""The house rules: imports go only downward, and the command line starts without the heavy packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dgguf

PACKAGE = Path(dgguf.__file__).parent

# Level of every module or folder; an import may only go to a lower level or stay within its folder.
LEVELS = {
    "errors": 0,
    "machine": 0,
    "jit": 1,
    "llvm_ir": 1,
    "threads": 1.5,
    "hub": 0.5,
    "catalog": 1,
    "quants": 2,
    "ggufio": 2.5,
    "backends": 3,
    "model": 4,
    "text": 4,
    "diffusion": 5,
    "session": 6,
    "convert": 6,
    "evaluate": 7,
    "benchmark": 7,
    "view": 7,
    "cli": 8,
    "__main__": 9,
}


def imports(path):
    """Modules of dgguf that a file imports at its top level, type-checking blocks included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "dgguf":
                yield from (f"dgguf.{name.name}" for name in node.names if name.name in LEVELS)
            elif node.module and node.module.startswith("dgguf."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("dgguf."))


def test_every_module_has_a_level():
    found = {p.stem if p.suffix else p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert found - {"__init__", "__pycache__", "data"} == set(LEVELS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_downward(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(path):
        there = module.split(".")[1]
        assert there == here or LEVELS[there] < LEVELS[here], f"{path.name} imports {module}"


@pytest.mark.parametrize("module", ["dgguf", "dgguf.cli"])
def test_start_up_imports_nothing_heavy(module):
    heavy = "numba llvmlite numpy scipy gguf jinja2 sentencepiece rich torch"
    code = f"import sys, {module}; print([m for m in {heavy.split()} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_exist():
    for name in dgguf.__all__:
        assert getattr(dgguf, name).__doc__
