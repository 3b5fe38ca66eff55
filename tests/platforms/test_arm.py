"""ARM's dot instructions are found on Linux, Windows and macOS, and kernels are compiled for them."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import numba
import pytest

from dgguf import jit, machine
from dgguf.backends.cpu import features
from tests.support.platforms.libraries import Kernel32, MacLibrary

BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid"


def cpuinfo(*cores):
    return "".join(
        f"processor\t: {i}\nBogoMIPS\t: 50.00\nFeatures\t: {found}\nCPU implementer\t: 0x41\n\n"
        for i, found in enumerate(cores)
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (cpuinfo(*[f"{BASE} asimdrdm lrcpc dcpop asimddp ssbs"] * 4), True),  # Neoverse N1
        (cpuinfo(f"{BASE} asimddp sha3 i8mm"), True),  # a virtual machine on Apple silicon, part 0x000
        (cpuinfo(*["fp asimd evtstrm crc32 cpuid"] * 4), False),  # Cortex-A72 of a Raspberry Pi 4
        (cpuinfo(BASE, f"{BASE} asimddp"), False),  # a thread may run on either core
        (cpuinfo(f"{BASE} asimddpx"), False),
        ("processor : 0\nmodel name : AMD EPYC\nflags : fpu avx2\n", False),
        ("", False),
    ],
)
def test_linux_tells_in_cpuinfo(monkeypatch, tmp_path, text, found):
    on(monkeypatch, "Linux", "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text)
    assert machine.has_dot_product(tmp_path) is found


def on(monkeypatch, system, processor):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)


@pytest.mark.parametrize(("present", "found"), [((43,), True), ((42, 44), False)])
def test_windows_tells_by_a_call(monkeypatch, present, found):
    on(monkeypatch, "Windows", "ARM64")
    library = Kernel32(processor_features=present)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: library, raising=False)
    assert machine.has_dot_product() is found


@pytest.mark.parametrize(("value", "found"), [(b"\1\0\0\0", True), (b"\0\0\0\0", False), (None, False)])
def test_macos_tells_by_sysctl(monkeypatch, value, found):
    on(monkeypatch, "Darwin", "arm64")
    library = MacLibrary(hw__optional__arm__FEAT_DotProd=value)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert machine.has_dot_product() is found


@pytest.mark.parametrize("system", ["Darwin", "Windows", "Linux"])
def test_other_processors_and_missing_libraries_have_none(monkeypatch, system):
    on(monkeypatch, system, "x86_64")
    assert not machine.has_dot_product()
    on(monkeypatch, system, "arm64")
    assert not machine.has_dot_product()  # this machine's libraries and /proc/cpuinfo tell nothing of ARM


@pytest.mark.parametrize(
    ("name", "given", "has_dot", "wanted"),
    [
        (None, None, True, "+neon,-sve,+dotprod"),
        (None, None, False, None),
        ("generic", "", True, ""),  # what NUMBA_CPU_NAME=generic makes of it
        (None, "+neon", True, "+neon"),
    ],
)
def test_numba_is_told(monkeypatch, name, given, has_dot, wanted):
    config = SimpleNamespace(CPU_NAME=name, CPU_FEATURES=given)
    monkeypatch.setattr(jit, "_CONFIG", config)
    monkeypatch.setattr(jit, "has_dot_product", lambda: has_dot)
    host = SimpleNamespace(flatten=lambda: "+neon,-sve")
    monkeypatch.setattr(jit, "llvm", SimpleNamespace(get_host_cpu_features=lambda: host))
    jit._complete_features()
    assert wanted == config.CPU_FEATURES


def test_the_path_follows_from_what_numba_compiles_for(monkeypatch):
    """Of an ARM server, as LLVM and /proc/cpuinfo describe it: the path is neon, not portable."""
    codegen = SimpleNamespace(magic_tuple=lambda: ("aarch64", "neoverse-n1", "+neon,-sve,+dotprod"))
    target = SimpleNamespace(target_context=SimpleNamespace(codegen=lambda: codegen))
    monkeypatch.setattr(jit, "cpu_target", target)
    monkeypatch.setattr(features, "compiled_features", jit.compiled_features.__wrapped__)
    assert features.possible_paths.__wrapped__() == ("neon", "portable")


def test_a_generic_cpu_takes_the_portable_path():
    """numba then compiles for no more than the architecture's oldest: the host's instructions would abort."""
    code = "from dgguf.backends.cpu.features import possible_paths; print(*possible_paths())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"NUMBA_CPU_NAME": "generic", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["portable"]


def test_features_are_those_of_the_host_by_default():
    if numba.config.CPU_FEATURES is None:
        host = {name for name, present in jit.llvm.get_host_cpu_features().items() if present}
        assert jit.compiled_features() == host
