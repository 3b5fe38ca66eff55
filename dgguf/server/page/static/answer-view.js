// One answer on the page: its canvas, the strip to scrub through its steps, its facts, and what can be done with it.

import {drawCurve, drawSpans, element, moveCurve, tipText} from "./canvas.js";
import {blob} from "./api.js";
import {Answer, safe} from "./recording.js";

const LONGEST_LAG = 4000; // ms that what is shown may stay behind what has come
const OPEN = 6; // answers whose steps are kept ready; of others the recording is kept, compressed
const KEPT = 60; // recordings that are kept at all

const opened = [], kept = [];

/** A button with a text, and what it does. */
export function button(text, act, attributes = {}) {
  const made = element("button", {type: "button", ...attributes}, text);
  made.addEventListener("click", act);
  return made;
}

export class AnswerView {
  /**
   * @param options levels: of /page/about; pace: ms for which a step is seen at least; name: for files;
   *   again: asks the same, with a seed, null for another one, undefined for the settings'; link: gives a link
   *   that repeats it; branch: goes on from a step, or undefined;
   *   scrolls: the page stays at its end while the answer comes;
   *   mark: changes the spans of a frame before they are drawn;
   *   draw: draws a frame into the canvas, instead of as text; stop: gives the answer up;
   *   packed: is told when the recording is compressed, as this.packed.
   */
  constructor(options) {
    this.options = options;
    this.answer = new Answer(options.levels);
    this.now = -1;
    this.following = true;
    this.over = false;
    this.attempt = 0;
    this.#build();
  }

  #build() {
    this.canvas = element("div", {class: "canvas live", "aria-hidden": "true"});
    this.committed = element("div", {class: "unseen", "aria-live": "polite"});
    this.wait = element("p", {class: "wait"}, "waiting for the model …");
    this.svg = element("svg", {viewBox: "0 0 1000 120", preserveAspectRatio: "none", "aria-hidden": "true", class: "curve"});
    this.slider = element("input", {type: "range", min: "0", max: "0", value: "0", "aria-label": "step of the answer"});
    this.slider.addEventListener("input", () => this.seek(+this.slider.value));
    this.label = element("span", {class: "step"});
    this.facts = element("span", {class: "facts"});
    this.strip = element("div", {class: "strip"});
    const scrub = element("div", {class: "scrub"});
    scrub.append(this.svg, this.slider);
    const under = element("p", {class: "under"});
    under.append(this.label, this.facts);
    this.strip.append(scrub, under);
    this.strip.hidden = true;
    this.actions = element("div", {class: "actions"});
    this.actions.append(button("Stop", () => this.options.stop(), {class: "stop"}));
    this.note = element("p", {class: "note", role: "status"});
    this.root = element("div", {class: "answer"});
    this.root.append(this.wait, this.canvas, this.committed, this.strip, this.actions, this.note);
    this.canvas.addEventListener("pointermove", event => this.#tip(event));
    this.canvas.addEventListener("pointerleave", () => tip().hidden = true);
  }

  /** Take a line of the answer. */
  take(line, text) {
    switch (line.type) {
      case "asked": return;
      case "alive": return;
      case "filled": return;
      case "queued":
        this.wait.textContent = line.place ? `${count(line.place, "answer")} before this one` : "it is your turn";
        return;
      case "started":
        if (this.answer.started) this.#nextAttempt();
        break;
      case "prompt":
        this.wait.textContent = line.done < line.total ? `reading the prompt: ${line.done} of ${line.total} tokens` : "";
        break;
    }
    this.answer.take(line, text);
    if (line.type === "text") {
      const spoken = line.pieces.filter(piece => piece[0] === "answer").map(piece => piece[1]).join("");
      this.committed.append(element("span", {}, safe(spoken)));
    }
    if (this.answer.length) {
      this.wait.hidden = true;
      this.strip.hidden = false;
      this.#pump();
    }
  }

  /** Another try of the same text begins: the one before is not shown any more. */
  #nextAttempt() {
    this.attempt++;
    this.answer = new Answer(this.options.levels);
    this.committed.replaceChildren();
    this.now = -1;
  }

  /** No line comes any more; a failure is told. */
  end(failure = null) {
    const atEnd = near();
    this.over = true;
    this.answer.stop();
    this.wait.hidden = true;
    if (failure) this.say(failure, true);
    if (!this.answer.length || !this.following) this.#rest();
    else this.#pump();
    this.#stay(atEnd);
  }

  /** Let the page stay at its end, where it was before something grew. */
  #stay(atEnd) {
    if (this.options.scrolls && atEnd) scrollTo(0, document.body.scrollHeight);
  }

  say(text, wrong = false) {
    this.note.textContent = safe(text, true);
    this.note.classList.toggle("wrong", wrong);
  }

  #pace() {
    const behind = this.answer.length - 1 - this.now;
    return document.hidden ? 0 : Math.min(this.options.pace(), LONGEST_LAG / behind);
  }

  /** Show the frames that have come, each for a while. */
  #pump() {
    if (this.timer || !this.following) return;
    if (this.now >= this.answer.length - 1) {
      if (this.over) this.#rest();
      return;
    }
    const wait = Math.max(0, (this.shownAt ?? 0) + this.#pace() - performance.now());
    this.timer = setTimeout(() => {
      this.timer = 0;
      if (!this.following) return;
      const late = document.hidden || !this.options.pace();
      this.show(late ? this.answer.length - 1 : this.now + 1);
      this.#pump();
    }, wait);
  }

  /** Draw a frame. */
  show(index) {
    const {answer} = this, last = answer.length - 1, atEnd = near();
    this.now = Math.max(0, Math.min(last, index));
    this.shownAt = performance.now();
    if (this.options.draw) this.options.draw(this.canvas, answer, this.now);
    else drawSpans(this.canvas, this.options.mark?.(answer.spans(this.now)) ?? answer.spans(this.now));
    this.#hold();
    if (this.drawnSteps !== answer.steps.length || this.drawnLast !== last) {
      drawCurve(this.svg, answer.steps, last);
      this.slider.max = String(last);
      [this.drawnSteps, this.drawnLast] = [answer.steps.length, last];
    }
    moveCurve(this.svg, this.now, last);
    this.slider.value = String(this.now);
    const label = answer.label(this.now);
    this.slider.setAttribute("aria-valuetext", label);
    this.label.textContent = label;
    this.facts.textContent = this.#told();
    this.#stay(atEnd && this.following);
  }

  /** The canvas does not shrink while it moves, so that what stands below does not jump. */
  #hold() {
    const block = this.answer.frames[this.now].block;
    if (this.heldBlock !== block && this.following) this.canvas.style.minHeight = "";
    this.heldBlock = block;
    const high = this.canvas.offsetHeight;
    if (high) this.canvas.style.minHeight = `${high}px`;
  }

  #told() {
    const {answer} = this, frame = answer.frames[this.now], told = [];
    if (frame.kind === "step") told.push(`entropy ${frame.mean.toFixed(2)} nats`);
    if (frame.kind === "end" || this.over && this.now === answer.length - 1) {
      told.push(`${answer.stepsOfBlocks.join("+")} steps`, count(answer.tokens, "token"));
    }
    if (answer.tokens) told.push(`${speed(answer.tokensPerSecond)} tokens/s`);
    told.push(answer.seeds);
    return told.join(" · ");
  }

  /** Go to a frame; what comes is not followed any more. */
  async seek(index) {
    this.following = !this.over && index >= this.answer.length - 1;
    clearTimeout(this.timer);
    this.timer = 0;
    await this.#open();
    this.canvas.classList.remove("live");
    this.show(index);
    if (this.over) this.#offer();
    else this.#pump();
  }

  /** All frames were shown: offer what can be done. */
  #rest() {
    if (this.rested) return;
    const atEnd = near();
    this.rested = true;
    this.canvas.style.minHeight = "";
    this.canvas.classList.remove("live");
    this.#offer();
    this.#stay(atEnd && this.following);
    this.#pack();
    this.options.rest?.(this);
  }

  #offer() {
    const {answer} = this, made = [];
    if (!this.over) return;
    const frame = answer.frames[this.now];
    if (answer.text || answer.thoughts) made.push(button("Copy", () => this.#copy()));
    made.push(...this.#again());
    if (frame && this.options.branch) {
      const go = button("Go on from this step", () => this.options.branch(this, frame.block, frame.step), {
        title: "All up to this step stays; behind it the answer goes on with another seed."});
      go.disabled = frame.kind === "end" || frame.kind === "committed";
      made.push(go);
    }
    if (answer.steps.length) made.push(this.#saveMenu());
    const focused = document.activeElement === document.body ? null : document.activeElement.textContent;
    const had = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(...made);
    if (had) [...this.actions.querySelectorAll("button")].find(each => each.textContent === focused)?.focus();
  }

  /** A seed and a link repeat an answer, unless other seeds took over behind some step. */
  #again() {
    const {again, link} = this.options, {answer} = this;
    if (!again) return [];
    if (!answer.length) return [button("Try again", () => again())];
    const other = button("Another seed", () => again(null));
    if (answer.started.branches?.length) return [other];
    const same = button("Same seed again", () => again(answer.seed));
    return [same, other, ...(link ? [button("Link", link)] : [])];
  }

  #saveMenu() {
    const menu = element("details", {class: "menu"}), list = element("div", {class: "choices"});
    menu.append(element("summary", {}, "Save"), list);
    for (const [text, kind] of [["Page, to scrub through (.html)", "html"], ["Film (.gif)", "gif"],
      ["Animated picture (.svg)", "svg"], ["Recording (.jsonl)", "jsonl"]]) {
      list.append(button(text, () => { menu.open = false; this.save(kind); }));
    }
    menu.addEventListener("keydown", event => { if (event.key === "Escape") menu.open = false; });
    menu.addEventListener("focusout", event => { if (!menu.contains(event.relatedTarget)) menu.open = false; });
    return menu;
  }

  async save(kind) {
    try {
      this.say(kind === "jsonl" ? "" : "drawing …");
      const recording = await this.recording();
      const theme = getComputedStyle(document.documentElement).colorScheme;
      const data = kind === "jsonl" ? new Blob([recording], {type: "application/jsonl"})
        : await blob("page/export", {recording, kind, theme});
      const link = element("a", {download: `${this.options.name()}-${this.answer.seed}.${kind}`});
      link.href = URL.createObjectURL(data);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      this.say(`saved as ${link.download}`);
    } catch (failure) {
      this.say(failure.message, true);
    }
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.answer.text);
      this.say("copied");
    } catch {
      this.say("The browser does not let this page copy: mark the text instead.", true);
    }
  }

  /** The text of the recording, also of an answer that was put away. */
  async recording() {
    if (this.packed === "gone") throw new Error("Of this answer only the text is kept: ask for it again.");
    if (this.answer.lines.length) return this.answer.recording;
    return new Response(this.packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  /** Keep the recording compressed, and the steps only of the last few answers. */
  async #pack() {
    if (!this.answer.lines.length) return;
    const packing = new Blob([this.answer.recording]).stream().pipeThrough(new CompressionStream("gzip"));
    this.packed = await new Response(packing).blob();
    this.answer.lines = [];
    this.#keep();
    this.options.packed?.(this);
  }

  #keep() {
    kept.push(this);
    if (kept.length > KEPT) kept.shift().#drop();
    touch(this);
  }

  /**
   * Show an answer again of which the recording was kept.
   * @param packed its compressed recording; blocks: the pieces of each canvas's text, which no recording has
   */
  async restore(packed, blocks) {
    this.packed = packed;
    this.over = this.rested = true;
    this.following = false;
    await this.#read(blocks);
    this.committed.textContent = safe(this.answer.text);
    this.canvas.classList.remove("live");
    this.wait.hidden = true;
    this.strip.hidden = !this.answer.length;
    if (this.answer.length) this.show(this.answer.length - 1);
    this.canvas.style.minHeight = "";
    this.#offer();
    this.#keep();
  }

  /** Take the steps out of the compressed recording. */
  async #read(blocks) {
    const text = await this.recording(), answer = new Answer(this.options.levels);
    for (const one of text.split("\n")) if (one) answer.take(JSON.parse(one), "");
    blocks.forEach((pieces, number) => answer.blocks[number].pieces = pieces);
    answer.stop();
    answer.lines = [];
    this.answer = answer;
    this.closed = false;
  }

  /** Let go of the steps. */
  close() {
    this.answer.frames.length = 0;
    this.answer.canvas = null;
    this.answer.texts = new Map();
    this.closed = true;
  }

  #drop() {
    this.packed = "gone";
    this.close();
    this.strip.hidden = true;
  }

  async #open() {
    if (!this.over || !this.packed) return;
    if (this.closed) await this.#read(this.answer.blocks.map(({pieces}) => pieces));
    touch(this);
  }

  #tip(event) {
    const place = event.target.dataset.p, frame = this.answer.frames[this.now];
    const shown = place !== undefined && frame?.kind === "step";
    tip().hidden = !shown;
    if (!shown) return;
    const at = +place, id = frame.tokens[at];
    tip().textContent = tipText({position: at, text: this.answer.tokenText(id), token: id, entropy: frame.entropy[at],
      accepted: frame.accepted[at], changes: this.answer.changes(this.now, at)});
    tip().style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - 340))}px`;
    tip().style.top = `${event.clientY + 18}px`;
  }
}

/** Forget the views of a conversation that is gone; those of other parts stay and count. */
export function letGo(views) {
  for (const list of [opened, kept]) list.splice(0, Infinity, ...list.filter(view => !views.includes(view)));
}

function touch(view) {
  const place = opened.indexOf(view);
  if (place >= 0) opened.splice(place, 1);
  opened.push(view);
  if (opened.length > OPEN) opened.shift().close();
}

function tip() { return document.getElementById("tip"); }

/** Whether the end of the page is in sight. */
function near() { return innerHeight + scrollY > document.body.scrollHeight - 120; }

function count(number, what) { return `${number} ${what}${number === 1 ? "" : "s"}`; }

function speed(value) { return value >= 10 ? value.toFixed(0) : value.toFixed(1); }
