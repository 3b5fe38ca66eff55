"""How fast the page of `dgguf serve` scrubs, and what memory its tab takes, in headless Chromium.

    python tools/bench/page.py [--answers 50] [--rounds 5]

Answers are made up, of the real model's size: four canvases of 256 tokens with 48 steps each. Prints the time
from one picture to the next while every frame is scrubbed through, of each round, and the tab's memory behind
so many answers. On a busy machine the processor's time of a frame counts: 60 a second need 16 ms.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from tests.server.conftest import serving
from tests.support.chromium import Chromium, Page

MAKE = """(async () => {
  const {AnswerView} = await import('/page/answer-view.js'), {keep} = await import('/page/kept.js');
  const views = [], told = ({answer: {text, blocks}, packed}, id) => // as chat.js keeps them
    ({id, text, blocks: blocks.map(({pieces}) => pieces), packed});
  const exchange = version => ({text: '', lost: [], current: 0, versions: [version]});
  const save = () => keep('', views.map(told).map(exchange));
  const about = await (await fetch('/page/about')).json();
  const length = 256, blocks = 4, steps = 48, size = 3000;
  const texts = [...Array(size).keys()].map(id => ' w' + (id * 7919 % 99991).toString(36));
  let state = 1;
  const random = below => (state = (state * 1103515245 + 12345) % 2147483648) % below;
  const noise = () => [...Array(length)].map(() => 1 + random(size - 1));
  window.make = seed => {
    const options = {levels: about.levels, pace: () => 0, name: () => 'x', stop() {}, packed: save};
    const view = new AnswerView(options);
    views.push(view);
    document.getElementById('exchanges').append(view.root);
    const take = line => view.take(line, JSON.stringify(line));
    take({type: 'started', version: 2, seed, settings: {max_steps: steps}, prompt: [1],
      stop_ids: [0], canvas_length: length, vocab_size: size, channel: [null, null], texts: {...texts}});
    for (let block = 0; block < blocks; block++) {
      take({type: 'canvas', block, committed: 0, canvas: noise()});
      const last = noise();
      for (let step = 1; step <= steps; step++) {
        take({type: 'step', block, step, temperature: .5, settled: step === steps, seconds: 4,
          tokens: last.map(token => random(steps) < step ? token : 1 + random(size - 1)),
          entropy: last.map(() => random(Math.max(1, 40000 - step * 830))),
          accepted: 'f0'.repeat(length / 8)});
      }
      take({type: 'committed', block, answer_length: length, stopped: false, steps, seconds: 200});
      take({type: 'text', pieces: [['answer', last.map(token => texts[token]).join(''), false]]});
    }
    take({type: 'finished', reason: 'length', answer_tokens: length * blocks, seconds: 800});
    view.end();
    window.view = view;
  };
})()"""
SCRUB = """(async () => {
  const {slider} = window.view, between = [];
  let before = await new Promise(requestAnimationFrame);
  for (let at = 0; at <= +slider.max; at++) {
    slider.value = at;
    slider.dispatchEvent(new Event('input'));
    const now = await new Promise(requestAnimationFrame);
    between.push(now - before);
    before = now;
  }
  return between;
})()"""


def scrub(page: Page) -> str:
    """Every frame of the last answer, as fast as pictures are shown."""
    before = processor_seconds(page)
    between = sorted(page.do(SCRUB))
    n = len(between)
    spent = (processor_seconds(page) - before) / n
    return (
        f"{n} frames, from picture to picture median {between[n // 2]:.1f} ms, 95 % within "
        f"{between[int(0.95 * n)]:.1f} ms; {1000 * spent:.1f} ms a frame of the page's thread"
    )


def processor_seconds(page: Page) -> float:
    """What the thread of the page has computed so far: script, style, layout and painting."""
    found = {each["name"]: each["value"] for each in page.call("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def memory(browser: Chromium, page: Page) -> str:
    """The tab's memory, without what could be given back."""
    page.call("HeapProfiler.collectGarbage")
    page.call("Memory.simulatePressureNotification", level="critical")
    page.do("new Promise(done => setTimeout(done, 3000))")
    heap = page.do("performance.memory.usedJSHeapSize") / 1e6
    found = f"JavaScript {heap:.0f} MB"
    tabs = [
        process["id"]
        for process in browser.call("SystemInfo.getProcessInfo")["processInfo"]
        if process["type"] == "renderer"
    ]
    resident = []
    for number in tabs:
        path = Path(f"/proc/{number}/status")
        if path.exists():
            [line] = [line for line in path.read_text().splitlines() if line.startswith("RssAnon")]
            resident.append(int(line.split()[1]) / 1000)
    return f"{found}, the process {max(resident):.0f} MB of its own" if resident else found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the page.")
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with (
        serving("demo") as served,
        tempfile.TemporaryDirectory() as folder,
        Chromium(folder) as browser,
        browser.page(served.url + "/") as page,
    ):
        page.until("document.getElementById('model').textContent")
        page.call("Performance.enable", timeDomain="threadTicks")  # the processor's time, not the clock's
        page.do(MAKE)
        for number in range(options.answers):
            page.do(f"make({number})")
            page.until("window.view.packed")
        for _ in range(options.rounds):
            print(scrub(page), flush=True)
        print(f"after {options.answers} answers: {memory(browser, page)}")


if __name__ == "__main__":
    from measuring import measuring

    with measuring():
        main()
