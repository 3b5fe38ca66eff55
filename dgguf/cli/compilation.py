"""Says that kernels are compiled, which takes a while on a machine's first run: by a bar, or in a line."""

import contextlib
from collections.abc import Callable, Iterator

from dgguf.cli.output import say
from dgguf.cli.progress import Bar, bar, can_draw
from dgguf.compiling.crew import Progress, announcement, watched


@contextlib.contextmanager
def announce_compilation() -> Iterator[None]:
    """Say it, once, when kernels have to be compiled."""
    said = False
    now = Progress(0, 0, 0.0)
    shown: Bar | None = None
    with contextlib.ExitStack() as stack:

        def watch(progress: Progress) -> None:
            nonlocal said, now, shown
            now, said = progress, True
            if not progress.done and can_draw():
                # A long label would be cut where it is narrow.
                made = bar("compiling", progress.total, words=lambda: f"kernels {now.words()}")
                shown = stack.enter_context(made)
            elif not progress.done:
                say(announcement(progress))
            if shown:
                shown.advance(progress.done - shown.done)
            if progress.done == progress.total:
                stack.close()
                shown = None

        def notice() -> None:
            nonlocal said
            if not said:
                said = True
                say("compiling kernels, once, for this CPU and this model's types")

        with followed(watch, notice):
            yield


@contextlib.contextmanager
def followed(watch: Callable[[Progress], None], notice: Callable[[], None]) -> Iterator[None]:
    """Within the context, `watch` is told of kernels that are compiled ahead, `notice` of each other one."""
    from dgguf.jit import on_compile

    is_ahead = False

    def watch_ahead(progress: Progress) -> None:
        nonlocal is_ahead
        is_ahead = progress.done < progress.total
        watch(progress)

    def notice_other() -> None:
        if not is_ahead:
            notice()

    with watched(watch_ahead), on_compile(notice_other):
        yield
