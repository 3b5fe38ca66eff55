"""What of the CUDA backend can be tested without a GPU: planner, errors, doctor, cubins, simulated runs."""

import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dgguf.backends.cuda import device as device_module
from dgguf.backends.cuda.diagnose import attention_kernels, check_driver, check_wheels, examine, needs
from dgguf.backends.cuda.layout import layout
from dgguf.backends.cuda.plan import RESERVE, PlacementPlan, Sizes, make_plan, spread
from dgguf.cli import cli
from dgguf.errors import BackendError
from dgguf.ggufio.file import GgufFile
from dgguf.loading import gpu_tower_backend
from dgguf.model.memory import gpu_tower_bytes
from dgguf.model.mmproj import VisionConfig, tower_shapes
from dgguf.quants.block import FORMATS, FORMATS_BY_NAME
from tests.cuda.sass import is_the_compiler_of_budgets
from tests.cuda.test_attention import SHARED_KB
from tests.images.test_images import random_picture
from tests.support.seeing import write_seeing_model
from tests.support.synthetic.tower import FULL_TOWER, write_tower
from tests.support.synthetic.writer import TINY, write_model

HERE = Path(__file__).parent
KERNEL_TESTS = [HERE / name for name in ("kernels.py", "tower_kernels.py", "turbo_kernels.py")]
GB = 10**9
# As Q4_K_M of the 26B model: 30 layers of experts, half a gigabyte each.
LARGE = Sizes(dense=1_700_000_000, experts=(540_000_000,) * 30, kv_cache=600_000_000, scratch=500_000_000)


def has_package(name="numba_cuda"):
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0


HAS_CUDA = has_package()
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="numba-cuda is not installed: pip install '.[cuda13]'")


# The planner


def test_everything_fits_a_large_gpu():
    plan = make_plan(LARGE, 24 * GB, None)
    assert not plan.streamed_layers
    assert plan.gpu_bytes == LARGE.fixed + 30 * 540_000_000
    assert "all 30 layers" in plan.describe()


@pytest.mark.parametrize(("free", "resident"), [(19.9, 30), (19.7, 27), (16, 20), (12, 13), (8, 6), (4.7, 0)])
def test_as_many_layers_as_fit(free, resident):
    plan = make_plan(LARGE, int(free * GB), None)
    assert 30 - len(plan.streamed_layers) == resident
    assert plan.gpu_bytes + RESERVE <= free * GB
    if plan.streamed_layers:  # one more would not fit
        fewer = PlacementPlan(LARGE, spread(30, len(plan.streamed_layers) - 1))
        assert fewer.gpu_bytes + RESERVE > free * GB
        assert "copied in every step" in plan.describe()
        assert plan.streamed_bytes == 540_000_000 * len(plan.streamed_layers)


def test_two_slots_are_counted():
    plan = PlacementPlan(LARGE, spread(30, 10))
    assert plan.gpu_bytes == LARGE.fixed + 22 * 540_000_000


@pytest.mark.parametrize("missing", range(1, 31))
def test_missing_layers_are_spread_evenly(missing):
    layers = sorted(spread(30, missing))
    assert len(layers) == missing
    gaps = np.diff([*layers, layers[0] + 30])
    assert gaps.max() - gaps.min() <= 1


def test_what_is_asked_for_is_what_is_planned():
    assert len(make_plan(LARGE, 24 * GB, 5).streamed_layers) == 25
    assert len(make_plan(LARGE, 24 * GB, 0).streamed_layers) == 30
    assert not make_plan(LARGE, 24 * GB, 30).streamed_layers


def test_too_many_layers_are_refused_with_what_fits():
    with pytest.raises(BackendError, match=r"30 layers need 19\.8 GB .*16\.0 GB are free: at most 20 fit"):
        make_plan(LARGE, 16 * GB, 30)
    with pytest.raises(BackendError, match="from 0 to 30, not 31"):
        make_plan(LARGE, 99 * GB, 31)


def test_a_gpu_that_is_too_small_is_refused():
    with pytest.raises(BackendError, match=r"the GPU has 4\.0 GB of free memory; the model needs 4\.7 GB"):
        make_plan(LARGE, 4 * GB, None)


def test_the_tower_gets_what_is_left():
    """Experts come first."""
    for free, resident in ((24, None), (24, 5), (16, None)):
        plan = make_plan(LARGE, free * GB, resident)
        assert plan.spare == free * GB - RESERVE - plan.gpu_bytes
    assert plan.spare < 540_000_000
    assert make_plan(LARGE, 24 * GB, None).spare > 2 * GB


def test_who_reads_images(tmp_path, caplog):
    file = GgufFile(write_tower(tmp_path / "mmproj.gguf"))
    config, needed = VisionConfig.from_file(file), []

    class Backend:
        def has_room(self, n_bytes):
            needed.append(n_bytes)
            return self.room

    backend = Backend()
    for backend.room, vision, said in (
        (True, config, ""),
        (False, config, "note: the GPU has no 30.29 MB left for the vision tower, so the CPU reads images"),
        (True, replace(config, n_heads=1, hidden_size=180), "heads of 180 are beyond the GPU's 176"),
    ):
        caplog.clear()
        found = gpu_tower_backend(backend, file, vision, 1)
        assert (found is backend) == (not said)
        assert said in caplog.text
        assert len(caplog.records) == bool(said)
    assert needed == [gpu_tower_bytes(file, config)] * 2


def test_a_full_size_tower_and_its_largest_image_take_two_gb(tmp_path):
    tensors = dict(tower_shapes(FULL_TOWER))
    info = {
        name: types.SimpleNamespace(
            shape=shape,
            n_weights=int(np.prod(shape)),
            format=FORMATS_BY_NAME["F32" if len(shape) != 2 else "BF16"],
        )
        for name, shape in tensors.items()
    }
    needed = gpu_tower_bytes(types.SimpleNamespace(tensors=info), FULL_TOWER)
    assert 1.9e9 < needed < 2.1e9
    audio = {name: next(iter(info.values())) for name in ("a.blk.0.attn_q.weight", "mm.a.fc.weight")}
    assert gpu_tower_bytes(types.SimpleNamespace(tensors=info | audio), FULL_TOWER) == needed  # is not read


def test_a_model_without_experts_needs_no_slots():
    assert make_plan(Sizes(GB, (), 0, 0), 3 * GB, None).gpu_bytes == GB


# Errors


@pytest.fixture
def tiny(tmp_path):
    write_model(tmp_path / "m.gguf", TINY, "Q8_0")
    return str(tmp_path / "m.gguf")


def run(*arguments):
    return CliRunner().invoke(cli, arguments)


def test_a_missing_package_is_named(monkeypatch, tiny):
    def missing(name):
        raise device_module.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(device_module.importlib.metadata, "version", missing)
    for command in (("run", tiny, "-p", "x", "--cuda"), ("bench", tiny, "--cuda")):
        result = run(*command)
        assert isinstance(result.exception, BackendError)
        assert "numba-cuda" in str(result.exception)
        assert "pip install 'dgguf[cuda13]'" in str(result.exception)


@needs_cuda
def test_a_missing_driver_is_named(tiny):
    code = f"import dgguf; dgguf.load({tiny!r}, gpu=dgguf.Gpu())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if found.returncode == 0:
        pytest.skip("there is a GPU")
    assert "BackendError: --cuda needs an NVIDIA driver" in found.stderr


@needs_cuda
def test_a_numpy_that_is_too_new_is_named(monkeypatch):
    device_module.check_package()
    monkeypatch.setattr(np, "__version__", "2.5.1")
    with pytest.raises(BackendError, match=r"not load with NumPy 2\.5\.1: pip install 'numpy<2\.5'"):
        device_module.check_package()


class FakeCuda(types.ModuleType):
    """What `Device` asks of numba.cuda."""

    def __init__(self, *, n=1, capability=(8, 9)):
        super().__init__("numba.cuda")
        self.gpus = [None] * n
        self.capability = capability

    def select_device(self, number):
        self.number = number

    def get_current_device(self):
        return types.SimpleNamespace(
            name=b"Fake",
            compute_capability=self.capability,
            MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=99 << 10,
            MULTIPROCESSOR_COUNT=46,
        )

    def stream(self):
        return 1


@pytest.fixture
def fake_cuda(monkeypatch):
    def install(**facts):
        import numba

        fake = FakeCuda(**facts)
        monkeypatch.setattr(device_module, "check_package", lambda: None)
        monkeypatch.setitem(sys.modules, "numba.cuda", fake)
        monkeypatch.setattr(numba, "cuda", fake, raising=False)
        return fake

    return install


def test_a_device_describes_itself(fake_cuda):
    fake_cuda(capability=(12, 0))
    device = device_module.Device(0)
    assert device.describe() == "GPU 0 (Fake, sm_120)"
    assert device.shared_bytes == 99 << 10
    assert device.multiprocessors == 46


def test_a_device_is_chosen_in_each_thread(fake_cuda):
    fake = fake_cuda(n=2)
    device = device_module.Device(1)
    fake.number = 0
    device.select()
    assert fake.number == 1


@pytest.mark.parametrize(
    ("facts", "number", "message"),
    [
        ({"n": 0}, 0, "the driver finds none"),
        ({"n": 2}, 2, "--device must be from 0 to 1"),
        ({"capability": (7, 0)}, 0, r"capability 7\.0; --cuda needs 7\.5"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why(fake_cuda, facts, number, message):
    fake_cuda(**facts)
    with pytest.raises(BackendError, match=message):
        device_module.Device(number)


@pytest.mark.parametrize(("option", "value"), [("--gpu-layers", "3"), ("-ngl", "all"), ("--device", "0")])
def test_gpu_options_without_cuda_are_refused(tiny, option, value):
    for command in (("run", tiny, "-p", "x"), ("bench", tiny), ("chat", tiny)):
        result = run(*command, option, value)
        assert result.exit_code == 2
        assert "goes with --cuda" in result.stderr


def test_exact_and_a_wrong_number_of_layers_are_refused(tiny):
    assert "--cuda does not go with --exact" in run("run", tiny, "-p", "x", "--cuda", "--exact").stderr
    assert (
        "neither a number of layers nor all" in run("run", tiny, "-p", "x", "--cuda", "-ngl", "some").stderr
    )


def test_without_cuda_nothing_of_it_is_imported(tiny):
    code = (
        f"import sys, dgguf; dgguf.load({tiny!r}); "
        "print([m for m in sys.modules if m.startswith(('numba_cuda', 'cuda.', 'dgguf.backends.cuda'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# doctor

GOOD = {
    "numba-cuda": "0.30.4",
    "cuda-core": "1.2.2",
    "cuda-bindings": "13.5.0",
    "nvidia-cuda-nvrtc": "13.5.37",
    "nvidia-nvvm": "13.5.37",
    "nvidia-nvjitlink": "13.5.37",
}


@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        ({}, "nvrtc 13.5.37", ""),
        ({"nvidia-nvvm": None}, "nvvm missing", "pip install 'dgguf[cuda13]'"),
        ({"nvidia-cuda-nvrtc-cu12": "12.9.86"}, "side by side", "pip uninstall nvidia-cuda-nvrtc-cu12"),
        ({"nvidia-nvjitlink": "13.0.1"}, "older than nvvm", "--force-reinstall 'dgguf[cuda13]'"),
        ({"cuda-bindings": "12.9.1"}, "different CUDA versions", "--force-reinstall 'dgguf[cuda13]'"),
    ],
)
def test_wheels_are_judged(change, found, remedy):
    check = check_wheels({name: v for name, v in (GOOD | change).items() if v is not None})
    assert check.ok == (not remedy)
    assert found in check.found
    assert remedy in check.remedy
    assert bool(check.remedy) == bool(remedy)


@pytest.mark.parametrize(
    ("driver", "toolkit", "remedy"),
    [
        ((13, 0), 13, None),
        ((13, 0), 12, None),
        ((12, 4), 13, "dgguf[cuda12]"),
        ((11, 8), 12, "newer NVIDIA driver"),
        (None, 13, "install an NVIDIA driver"),
    ],
)
def test_drivers_are_judged(driver, toolkit, remedy):
    check = check_driver(driver, toolkit, "the driver")
    assert check.ok == (remedy is None)
    assert (remedy or "") in check.remedy


def test_doctor_reports_the_cpu(tiny):
    result = run("doctor", tiny)
    assert result.exit_code == 0
    for name in ("processor", "kernels", "threads", "cache", "memory", "model"):
        assert re.search(rf"^  ok +{name} ", result.stdout, re.MULTILINE), name


def test_doctor_fails_where_the_cpu_path_cannot_be_had(monkeypatch):
    monkeypatch.setenv("DGGUF_CPU_PATH", "none-such")
    result = run("doctor")
    assert result.exit_code == 1
    assert "→ unset DGGUF_CPU_PATH" in result.stdout


def test_a_missing_gpu_is_a_failure_only_if_asked_for(monkeypatch):
    def missing(name):
        raise device_module.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(device_module.importlib.metadata, "version", missing)
    assert run("doctor").exit_code == 0
    result = run("doctor", "--cuda", "--json")
    assert result.exit_code == 1
    (check,) = json.loads(result.stdout)["gpu"]
    assert not check["ok"]
    assert "pip install" in check["remedy"]


def test_doctor_says_what_a_model_needs(tiny):
    assert "19.8 GB of free GPU memory for all layers, 4.7 GB with all experts streamed" in needs(LARGE)
    found = run("doctor", tiny).stdout
    assert re.search(r"model needs +0\.8 GB of free GPU memory", found)
    assert re.search(r"attention +on tensor cores for heads of 16, 32$", found, re.MULTILINE)


def test_doctor_names_the_slow_attention():
    assert attention_kernels([256, 512]) == "on tensor cores for heads of 256, 512"
    assert attention_kernels([64, 72]) == (
        "on tensor cores for heads of 64; by a plain, slow kernel for heads of 72 "
        "(the fast one takes multiples of 16 up to 512)"
    )


@needs_cuda
def test_doctor_compiles_without_a_gpu():
    checks = {check.name: check for check in examine(0, None)}
    assert checks["toolkit"].ok
    assert checks["compiler"].ok


# Compiling for GPUs that are not here

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120")
KINDS = sorted({layout(form).kind for form in FORMATS.values()})


def report(source, macros, arch):
    """The compiler's, on registers, shared memory and spills."""
    from dgguf.backends.cuda.kernels import compile_cubin

    log = io.StringIO()
    assert compile_cubin(source, macros, arch, log)[:4] == b"\x7fELF"
    return log.getvalue()


def compiled(source, macros, arch):
    """Registers and spilled bytes of each kernel."""
    log = report(source, macros, arch)
    names = re.findall(r"Compiling entry function '(\w+)'", log)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", log)]
    assert len(names) == len(registers) == len(spilled) > 0
    return {name: (r, s) for name, r, s in zip(names, registers, spilled, strict=True)}


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_products_compile_without_spills(arch):
    """At most 80 registers of the kernel for few tokens: six blocks of 128 threads on a multiprocessor.

    Units of plain floats have more words: 96, five blocks. Before compute capability 8.0 copies wait in
    registers: 128, four blocks. Of the wide kernel for few tokens there are four blocks, three where shared
    memory has 100 KB, and before 8.0 two.
    """
    for kind, gated in itertools.product(KINDS, (0, 1)):
        names = ("HIGH_BITS", "GROUP", "MINIMUM", "TABLE", "HALVES", "GATED")
        macros = tuple((name, int(value)) for name, value in zip(names, (*kind, gated), strict=True))
        found = compiled("qgemm", macros, arch)
        halves = kind[-1]
        wide = set() if halves else {"qgemm_32_wide", "qgemm_64_wide"}
        assert found.keys() == {"qgemm_32", "qgemm_64"} | wide
        old = arch == "sm_75"
        of_wide = 255 if old else 128 if arch in ("sm_80", "sm_90") else 168
        most = {"qgemm_32": 128 if old else 96 if halves else 80, "qgemm_32_wide": of_wide}
        for name, (registers, spilled) in found.items():
            assert registers <= most.get(name, 255), (kind, gated, name, registers)
            assert spilled == 0, (kind, gated, name, spilled)


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q5_0", "Q6_K"])
def test_shared_memory_holds_the_blocks_that_registers_hold(name):
    """Of the four hot formats, on compute capability 9.0: 1 KB a block is the system's."""
    from dgguf.backends.cuda.matmul import kind_macros

    log = report("qgemm", kind_macros(layout(FORMATS_BY_NAME[name])), "sm_90")
    names = re.findall(r"Compiling entry function '(\w+)'", log)
    used = dict(zip(names, map(int, re.findall(r"(\d+) bytes smem", log)), strict=True))
    resident = {"qgemm_32": 6, "qgemm_64": 4, "qgemm_32_wide": 4, "qgemm_64_wide": 2}
    assert used.keys() == resident.keys()
    for kernel, blocks in resident.items():
        assert blocks * (used[kernel] + 1024) <= 228 << 10, (kernel, used[kernel])


@needs_cuda
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_attention_compiles_without_spills(arch):
    """And eight warps have the registers and the shared memory of a multiprocessor: two blocks, or one."""
    from dgguf.backends.cuda.attention import shape

    capability = int(arch[3:]) // 10, int(arch[3:]) % 10
    shared = SHARED_KB[capability] << 10
    for dim in (256, 512):
        made = shape(dim, capability, shared)
        log, blocks = report("attention", made.macros, arch), 256 // made.threads
        assert int(re.search(r"Used (\d+) registers", log)[1]) <= 255
        assert int(re.search(r"(\d+) bytes spill stores", log)[1]) == 0
        fixed = int(re.search(r"(\d+) bytes smem", log)[1])
        assert fixed <= made.fixed_bytes
        assert blocks * (made.shared_bytes + fixed + 1024) <= shared + 1024


# What the small kernels are compiled for, with the full-size model.
SOFT_Q6_K = (("HIGH_BITS", 2), ("GROUP", 16), ("MINIMUM", 0), ("TABLE", 0), ("HALVES", 0))
# Blocks of 256 threads are a canvas's rows, two or three for each multiprocessor: 72 registers let in three.
ROWS = {"norm_row": 48, "residual": 64, "residual_of_sum": 72, "to_half": 40, "geglu": 64}
SMALL_KERNELS = {
    ("router", (("N_EXPERTS", 128),)): {"router_scores": 128, "choose_experts": 56},
    ("rows", (("COLUMNS", 2816),)): ROWS,
    ("rows", (("COLUMNS", 704),)): ROWS,
    ("heads", (("HEAD_DIM", 256),)): {"norm_rope_store": 40},
    ("heads", (("HEAD_DIM", 512),)): {"norm_rope_store": 48},
    ("soft_embed", SOFT_Q6_K): {"soft_embed": 64},
    ("tower", (("HEAD_DIM", 72),)): {"attend_all": 104},
    ("sampling", (("GROUPS", 4),)): {"slice_statistics": 64, "count_bins": 64, "keep_likeliest": 112},
}


@needs_cuda
@pytest.mark.slow(20)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_small_kernels_compile_without_spills(arch):
    """With at most so many registers: a multiprocessor then holds enough of their threads."""
    for (source, macros), most in SMALL_KERNELS.items():
        found = compiled(source, macros, arch)
        assert found.keys() == most.keys()
        for name, (registers, spilled) in found.items():
            assert registers <= most[name] or not is_the_compiler_of_budgets(), (source, name, registers)
            assert spilled == 0, (source, name, spilled)


COMPILE_NUMBA = """
import types
import numba.cuda.dispatcher
from numba import cuda
from numba.core import types as t
from dgguf.backends.cuda import attention, elementwise, experts, matmul, vision
from dgguf.backends.cuda import logits

# Device functions ask for the device's capability; there is none here.
numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability={cc})
f1, f2, f3 = (t.Array(t.float32, n, "C") for n in (1, 2, 3))
h1, h2, h3 = (t.Array(t.float16, n, "C") for n in (1, 2, 3))
i1, i2, i3 = (t.Array(t.int32, n, "C") for n in (1, 2, 3))
u1, u3 = t.Array(t.uint32, 1, "C"), t.Array(t.uint64, 3, "C")
d1, d2, d3 = (t.Array(t.float64, n, "C") for n in (1, 2, 3))
i, f = t.int64, t.float64
w = (u1, u1, h1, h1, f1, i, i, i, i)
signatures = {{
    elementwise.rms_norm: (f2, f1, i, f, f2), elementwise.residual: (f2, f2, f1, f, f, f2),
    elementwise.add: (f2, f2, f2), elementwise.geglu: (f2, f2, f2), elementwise.rope: (f3, f2, f2, f3),
    elementwise.take_rows: (f2, i1, f2), elementwise.take_columns: (f2, i1, f2),
    elementwise.put_rows: (d2, i1, d2),
    elementwise.from_half: (h2, f1, f2), elementwise.router_scores: (f2, f2, f2),
    elementwise.choose_experts: (f2, f, f1, i2, f2), matmul.embed: (*w, i1, f, f2),
    matmul.reference_product: (*w, f2, i1, i1, i, f, f, f2), attention.store_rows: (f3, f3, h3, h3, i, i1),
    attention.copy_rows: (h3, i, h3, i, i), attention.reference_attention: (f3, h3, h3, f2, i3, f3),
    experts.group_rows: (i2, i1, i1, i1, i2, i), experts.combine: (f2, i1, f2, f2),
    logits.slice_statistics: (f2, f1, d3), logits.row_statistics: (d3, d1, i1, f1, d2),
    logits.draw: (f2, f1, d2, i1), logits.soft_embed: (*w, i2, f2, i1, f, f2),
    logits.count_bins: (f2, f1, d2, i3, u3), logits.choose_edge: (i3, u3, d2, i1, i3, i1),
    logits.keep_likeliest: (f2, f1, d2, i1, i3, i1, i2, f2),
    logits.top_tokens: (f2, f1, d2, i2, f2),
    vision.in_two: (f2, h2, f1), vision.rope_2d: (f3, f2, f2, f2, f2, f3), vision.clamp: (f2, f, f, f2),
    vision.pool: (f2, i, i, f, f2), vision.standardize: (f2, f1, f1, f2),
}}
modules = (attention, elementwise, experts, matmul, logits, vision)
found = [x for m in modules for x in vars(m).values() if hasattr(x, "py_func")]
kernels = [x for x in found if not x.targetoptions.get("device")]
assert set(kernels) == set(signatures), set(kernels) ^ set(signatures)
for kernel, signature in signatures.items():
    options = dict(cc={cc}, device=False, abi="numba", output="ltoir")
    code, _ = cuda.compile(kernel.py_func, t.void(*signature), **options)
    assert len(code) > 100
"""


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("cc", [(7, 5), (9, 0), (12, 0)])
def test_numba_kernels_compile(cc):
    """Every kernel, with the types it is launched with."""
    found = subprocess.run(
        [sys.executable, "-c", COMPILE_NUMBA.format(cc=cc)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-2000:]


@needs_cuda
def test_memory_that_runs_out_is_an_error_with_a_remedy(monkeypatch):
    from dgguf.backends.cuda import memory

    def full(n_bytes, dtype):
        raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(memory.cuda, "device_array", full)
    with pytest.raises(BackendError, match=r"no 5 MB left: .*--gpu-layers"):
        memory.allocate(5_000_000)


@needs_cuda
@pytest.mark.slow
def test_everything_under_the_simulator():
    command = [sys.executable, "-m", "pytest", "-x", *map(str, KERNEL_TESTS)]
    found = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-4000:]


# Through numba-cuda and cuda-core, on a driver that computes nothing

FAKE_RUN = """
import ctypes, sys
import numpy as np
import dgguf

path, layers = sys.argv[1], int(sys.argv[2])
session = dgguf.load(path, context=256, gpu=dgguf.Gpu(layers=layers))
print(session.backend.describe())
settings = session.settings(stability_threshold=5)
events = list(session.stream(np.arange(40), seed=1, max_tokens=64, settings=settings))
assert isinstance(events[-1], dgguf.Finished)
counts = (ctypes.c_int * 3)()
ctypes.CDLL("libcuda.so.1").fake_driver_counts(counts)
print(*counts, sum(isinstance(event, dgguf.DenoisingStep) for event in events))
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    """The environment with a driver that succeeds at everything and computes nothing."""
    compiler = shutil.which("gcc")
    if not HAS_CUDA or compiler is None:
        pytest.skip("needs numba-cuda and gcc")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-w", str(HERE / "fake_driver.c"), "-ldl", "-o"]
    subprocess.run([*command, str(folder / "libcuda.so.1")], check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder)}


@pytest.mark.parametrize(("layers", "streamed"), [(6, False), (4, True)])
def test_a_generation_on_the_fake_driver(fake_driver, tiny, layers, streamed):
    """Every call to the driver, every argument of a kernel, the recording; numbers are all zero here."""
    command = [sys.executable, "-W", "error", "-c", FAKE_RUN, tiny, str(layers)]
    found = subprocess.run(command, env=fake_driver, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    described, counts = found.stdout.splitlines()
    assert "GPU 0 (Fake GPU, sm_90)" in described
    assert ("copied in every step" in described) == streamed
    launched, recorded, repeated, steps = map(int, counts.split())
    assert steps == 12  # two canvases of six, as all argmaxes are equal
    assert repeated == (0 if streamed else 9)  # all but the first of a canvas, and the second of the first
    assert recorded == (0 if streamed else 100)  # 14 a layer, and 16
    assert launched > 500


FAKE_TURBO = """
import sys
import numpy as np
import dgguf
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas

session = dgguf.load(sys.argv[1], context=256, gpu=dgguf.Gpu(layers=6))
model, backend = session.model, session.backend
n, rng = session.config.canvas_length, np.random.default_rng(0)
cache = KVCache(session.config, backend, 256, 64)
queue, made, read, repeated = backend._queue, [], [], []
repeat, placed = queue.repeat, backend._placed
queue.repeat = lambda: (repeated.append(1), repeat())

def noted(key, make):
    found = placed(key, lambda: (made.append(key), make())[1])
    if queue.recording:
        read.append(found)
    return found

backend._placed = noted

def step(previous, rows=None):
    canvas = Canvas(rng.integers(0, 50, n))
    return model.denoise(canvas, cache, previous, 0.8, np.linspace(0.1, 0.9, n), rows)

for n_some in range(8):  # steps of some rows, between the first of a canvas and the first that is repeated
    model.encode(rng.integers(0, 50, 17), cache)
    prediction = step(None)
    for first in range(n_some):
        prediction = step(prediction, np.arange(first, n - 2))
    made.clear(), read.clear(), repeated.clear()
    prediction = step(prediction)
    if n_some > 0:  # before, nothing was recorded
        assert len(repeated) == 1, (n_some, backend._why_not)
        assert not made
        assert len(read) == 20  # 3 a layer, and 2
        assert {id(found) for found in read} == {id(found) for found in backend._recorded_positions}
    else:
        prediction = step(prediction)
for first in range(n - 4):  # more than are kept
    prediction = step(prediction, np.arange(first, n - 2))
assert len(backend._of_positions) == 64
model.encode(rng.integers(0, 50, 17), cache)
prediction = step(prediction)  # behind more tokens, of a prediction that is not this canvas's
assert made
assert backend._records
assert backend._recorded is None
repeated.clear()
for _ in range(2):
    prediction = step(prediction)
assert len(repeated) == 2
assert sorted(queue._pinned) == [("temperature", 1), ("tokens", n), ("uniforms", n)]
"""


def test_steps_are_recorded_between_steps_of_some_rows(fake_driver, tiny):
    """What a recording reads has been placed before, or is placed by a step that is not recorded."""
    command = [sys.executable, "-W", "error", "-c", FAKE_TURBO, tiny]
    found = subprocess.run(command, env=fake_driver, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]


def test_the_commands_on_the_fake_driver(fake_driver, tiny):
    def command(*arguments):
        whole = [sys.executable, "-m", "dgguf", *arguments]
        return subprocess.run(whole, env=fake_driver, capture_output=True, text=True)

    found = command("run", tiny, "-p", "x", "-n", "32", "--cuda", "-ngl", "all")
    assert found.returncode == 0, found.stderr
    assert "all 6 layers in GPU memory" in found.stderr
    found = command("bench", tiny, "--cuda", "--steps", "1", "--json")
    assert found.returncode == 0, found.stderr
    assert "tensor cores; steps recorded as one graph; " in json.loads(found.stdout)["backend"]
    found = command("bench", tiny, "--cuda", "--steps", "1", "-ngl", "4")
    assert found.returncode == 0, found.stderr
    assert "steps started kernel by kernel (the copies of experts cannot be recorded)" in " ".join(
        found.stdout.split()
    )
    found = command("run", tiny, "-p", "x", "--cuda", "-ngl", "7")
    assert found.returncode == 1
    assert "--gpu-layers must be from 0 to 6, not 7" in found.stderr
    found = command("doctor", tiny, "--cuda")
    assert found.returncode == 1  # it computes nothing, and doctor notices
    for line in (
        r"ok +GPUs .*Fake GPU, compute capability 9\.0",
        r"FAIL plain kernels",
        r"ok +model fits .*all 6 layers",
    ):
        assert re.search(line, found.stdout), (line, found.stdout)


@pytest.mark.slow(40)
def test_a_gpu_reads_images_on_the_fake_driver(fake_driver, tmp_path):
    model = write_seeing_model(tmp_path)
    random_picture(1, 300, 200).save(tmp_path / "a.png")
    command = [sys.executable, "-W", "error", "-m", "dgguf", "run", str(model), "-p", "look", "--cuda", "-v"]
    command += ["--image", str(tmp_path / "a.png"), "-n", "8", "--image-tokens", "70"]
    found = subprocess.run(command, env=fake_driver, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "a.png: 60 rows in" in found.stderr
    assert "the CPU reads images" not in found.stderr
    command = [sys.executable, "-m", "dgguf", "doctor", str(model), "--cuda"]
    found = subprocess.run(command, env=fake_driver, capture_output=True, text=True)
    assert re.search(r"ok +tower needs +\d+\.\d+ MB more for the vision tower; without", found.stdout)
    assert re.search(r"ok +tower fits +the GPU reads images: 22\.2 GB are left", found.stdout)


# With a GPU


def has_gpu():
    if not HAS_CUDA:
        return False
    code = "import sys; from numba import cuda; sys.exit(not cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.gpu
def test_everything_on_a_gpu():
    if not has_gpu():
        pytest.skip("there is no GPU here")
    command = [sys.executable, "-m", "pytest", "-x", *map(str, KERNEL_TESTS)]
    found = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-4000:]


@pytest.mark.gpu
@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_K_M", "F16"])
@pytest.mark.parametrize("layers", [None, 1])
def test_generation_on_a_gpu_is_the_cpus(type_name, layers, tmp_path):
    """The same seeds accept nearly the same positions, with the experts resident and streamed."""
    if not has_gpu():
        pytest.skip("there is no GPU here")
    import dgguf

    write_model(tmp_path / "m.gguf", TINY, type_name)
    steps = []
    for options in ({"exact": True}, {"gpu": dgguf.Gpu(layers=layers)}):
        with dgguf.load(tmp_path / "m.gguf", context=256, **options) as session:
            events = session.stream(np.arange(50), seed=3, max_tokens=32)
            steps.append([e for e in events if isinstance(e, dgguf.DenoisingStep)])
    first = [step[0] for step in steps]
    assert (first[0].accepted == first[1].accepted).mean() > 0.95
    # Single positions may differ more: where two experts are nearly equal, rounding chooses.
    assert np.median(abs(first[0].entropy - first[1].entropy)) < 0.01
