"""Whether an ARM processor has dot instructions (FEAT_DotProd), which LLVM does not ask the system."""

import platform
import re
from pathlib import Path

from dgguf.systems import macos, windows

_DOT_PRODUCT = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE


def has_dot_product() -> bool:
    """Whether every core of this machine has SDOT and UDOT; False on other processors."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return False
    system = platform.system()
    if system == "Darwin":
        return macos.number("hw.optional.arm.FEAT_DotProd") == 1
    if system == "Windows":
        return windows.has_processor_feature(_DOT_PRODUCT)
    try:
        return has_dot_product_by_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def has_dot_product_by_cpuinfo(text: str) -> bool:
    """What Linux's /proc/cpuinfo says: "asimddp" among the features of every core."""
    cores = re.findall(r"^Features\s*:(.*)$", text, re.MULTILINE)
    return bool(cores) and all("asimddp" in features.split() for features in cores)
