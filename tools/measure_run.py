"""Measure a run on a model file: opening, loading, encoding, each denoising step, peak private memory.

    python tools/measure_run.py MODEL.gguf [--steps 2] [--prompt-tokens 32] [--threads N]

Private memory is RssAnon of Linux: what the process holds itself, without the mapped file.
"""

import argparse
import platform
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("this needs Linux's /proc/self/status")


class PeakMemory(threading.Thread):
    """Looks at the process's private memory 20 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.megabytes = 0.0

    def run(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, anonymous_megabytes())
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a run on a model file.")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    peak = PeakMemory()
    peak.start()

    began = time.perf_counter()
    from dgguf.gguf_file import GgufFile

    imported = time.perf_counter()
    GgufFile(options.model).close()
    print(f"header          {time.perf_counter() - imported:8.2f} s", flush=True)

    import dgguf

    session = dgguf.load(options.model, threads=options.threads)
    print(f"start to loaded {time.perf_counter() - began:8.2f} s   {anonymous_megabytes():6.0f} MB private")
    print(
        f"machine         {platform.processor() or platform.machine()}, {session.backend.describe()}",
        flush=True,
    )
    tokenizer = session.tokenizer
    ids = tokenizer.encode("the quick brown fox jumps over the lazy dog " * options.prompt_tokens)
    prompt = tokenizer.decode(ids[: options.prompt_tokens])
    settings = session.settings(max_steps=options.steps, stability_threshold=options.steps)
    for event in session.stream(prompt, settings=settings, max_tokens=1, seed=1, raw=True):
        match event:
            case dgguf.PromptEncoded():
                what, more = "prompt", f"{event.done} tokens, {event.done / event.seconds:.1f} tokens/s"
            case dgguf.DenoisingStep():
                what, more = f"step {event.step}", f"{anonymous_megabytes():6.0f} MB private"
            case _:
                continue
        print(f"{what:<15} {event.seconds:8.2f} s   {more}", flush=True)
    print(f"peak            {peak.megabytes:8.0f} MB private")


if __name__ == "__main__":
    main()
