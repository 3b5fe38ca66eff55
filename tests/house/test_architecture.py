"""The house rules: imports go only downward, modules and functions are short, start-up is light."""

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
    "interrupts": 0,
    "machine": 0,
    "kernel_cache": 0,
    "kernel_folder": 0,
    "whole_file": 0,
    "units": 0,
    "images": 1,
    "videos": 2,
    "thumbnails": 3,
    "jit": 1,
    "llvm_ir": 1,
    "kernel_arrays": 2,
    "mapping": 2,
    "threads": 2,
    "quants": 3,
    "ggufio": 4,
    "hub": 5,
    "catalog": 6,
    "backends": 7,
    "compiling": 8.5,
    "constraints": 8,
    "model": 8,
    "text": 8,
    "loading": 9,
    "seeing": 9,
    "diffusion": 9,
    "answer": 10,
    "conversation": 10,
    "functions": 10,
    "prompts": 10,
    "request": 10,
    "resume": 10,
    "template": 10,
    "fill": 11,
    "edit": 11,
    "decisions": 11,
    "options": 11,
    "view": 11,
    "convert": 11,
    "chat": 11.5,
    "session": 12,
    "benchmark": 13,
    "evaluate": 13,
    "server": 13,
    "batch": 14,
    "checks": 14,
    "verify": 14,
    "cli": 15,
    "__main__": 16,
}

MOST_LINES = {"module": 400, "function": 60}
# What is longer nevertheless, and why. A function's decorators do not count, its docstring does.
LONGER = {
    "backends/cpu/attention.py:attend": "a third is the description of its arguments",
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


def lengths():
    """Lines of every module and function, by its place: ("function", 12) for "session.py:Session.close"."""
    found = {}

    def visit(node, place):
        for child in ast.iter_child_nodes(node):
            here = place
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                here = f"{place}{'.' if ':' in place else ':'}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    found[here] = "function", child.end_lineno - child.lineno + 1
            visit(child, here)

    for path in PACKAGE.rglob("*.py"):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        found[place] = "module", len(text.splitlines())
        visit(ast.parse(text), place)
    return found


def test_modules_and_functions_are_short():
    longer = {place: lines for place, (kind, lines) in lengths().items() if lines > MOST_LINES[kind]}
    assert not {place: lines for place, lines in longer.items() if place not in LONGER}
    assert not LONGER.keys() - longer.keys(), "short now, or gone: take it off LONGER"


@pytest.mark.parametrize("module", ["dgguf", "dgguf.cli"])
def test_start_up_imports_nothing_heavy(module):
    heavy = "numba llvmlite numpy scipy gguf jinja2 rich torch"
    code = f"import sys, {module}; print([m for m in {heavy.split()} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_version_stands_in_the_changelog():
    changelog = (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{dgguf.__version__}]" in changelog


def test_public_names_exist():
    for name in dgguf.__all__:
        assert getattr(dgguf, name).__doc__


def test_type_checkers_know_every_public_name():
    """They read the imports that are for them, and not where a name is looked up."""
    source = Path(dgguf.__file__).read_text(encoding="utf-8")
    known = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert set(dgguf.__all__) <= known | defined
