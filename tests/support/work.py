"""Work is counted, for tests of what must not grow faster than its input on any machine."""

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np


def work(function: Callable[..., object], *arguments: object) -> int:
    """Elements of the arrays whose methods a function calls; and one for all else that is called."""
    count = 0

    def called(frame: FrameType, event: str, what: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            owner = getattr(what, "__self__", None)  # of a call in Python, `what` is None
            count += owner.size if isinstance(owner, np.ndarray) else 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return count
