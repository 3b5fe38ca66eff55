"""Where compiled kernels are kept: a folder for each version of what they are compiled from.

It is named after a digest of every source that compiled code depends on, wherever it lies, because numba
notices only edits of the file that a kernel stands in: an upgrade gets a new folder. To find it takes no
compiler, so that it is known early whether kernels are there.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path

import platformdirs

_IMPORT = re.compile(rb"\n(?:from|import) (\S+)(?: import (\([^)]*\)|.*))?")  # at a module's top level
# A module that can define a kernel or emit IR imports one of these.
_COMPILES = re.compile(r"(numba|llvmlite|dgguf\.([a-z_.]+\.)?jit|dgguf\.llvm_ir)\b")


def kernel_sources(package: Path) -> dict[str, bytes]:
    """The files that compiled code may depend on: contents by path relative to `package`, sorted.

    These are the modules that can define a kernel or emit IR, those of the package that they import,
    whose functions and constants become part of the code, and all .cu and .cuh files.
    """
    modules: dict[str, bytes] = {}
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(package):
        inside = folder[len(str(package)) + 1 :].replace(os.sep, "/")
        for name in names:
            if name.endswith((".py", ".cu", ".cuh")):
                with open(f"{folder}/{name}", "rb") as file:
                    (modules if name.endswith(".py") else found)[f"{inside}/{name}".lstrip("/")] = file.read()
    needed: dict[str, set[str]] = {}  # names of the modules that each module imports
    for path, text in modules.items():
        needed[path] = set()
        for origin, names_of in _IMPORT.findall(b"\n" + text):
            needed[path].add(origin.decode())
            if origin.startswith(b"dgguf"):
                needed[path] |= {
                    f"{origin.decode()}.{name.decode()}" for name in re.findall(rb"\w+", names_of)
                }
    waiting = [path for path in modules if any(_COMPILES.match(name) for name in needed[path])]
    while waiting:
        path = waiting.pop()
        if path in modules and path not in found:
            found[path] = modules[path]
            for name in needed[path]:
                place = name.removeprefix("dgguf.").replace(".", "/")
                waiting += [f"{place}.py", f"{place}/__init__.py"]
    return dict(sorted(found.items()))


def _digest(package: Path) -> str:
    """A short name for this version of the kernels, of Python and of numba."""
    versions = platform.python_version(), importlib.metadata.version("numba")
    h = hashlib.sha256(" ".join(versions).encode())
    for path, text in kernel_sources(package).items():
        h.update(f"{path} {len(text)} ".encode() + text)
    return h.hexdigest()[:16]


@functools.cache
def kernel_folder() -> str:
    """The folder of this version's compiled kernels; "" where none can be written."""
    base = os.environ.get("DGGUF_CACHE_DIR") or platformdirs.user_cache_dir("dgguf", appauthor=False)
    folder = Path(base) / "kernels" / _digest(Path(__file__).parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""


def is_empty() -> bool:
    """Whether there is a folder for kernels, and none in it yet."""
    folder = kernel_folder()
    return bool(folder) and not os.listdir(folder)
