// An answer as the lines of its recording tell it (dgguf/view/recording.py), and the spans of each of its frames.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const MARK = /^[\p{M}\u200c\u200d]/u;
const END = "·"; // the end of the answer, and each position behind it
const PAD = "<pad>"; // what the network writes there
const SURE = 3, SETTLED = 4; // of the levels

/** A text without characters that hide or reorder others; of a draft also without those that break lines. */
export function safe(text, draft = false) {
  const shown = text.replace(HIDDEN, character => {
    const code = character.charCodeAt(0);
    if (character === "\n") return draft ? "↵" : "\n";
    if (character === "\t") return draft ? "→" : "\t";
    if (character === "\u200c" || character === "\u200d") return character;
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : "·";
  });
  return draft && MARK.test(shown) ? "◌" + shown : shown;
}

/** Numbers of bits in hexadecimal, the first position highest. */
function bits(hexadecimal, length) {
  const out = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const digit = parseInt(hexadecimal[i >> 2], 16);
    out[i] = digit >> (3 - (i & 3)) & 1;
  }
  return out;
}

export class Answer {
  /** @param levels what /page/about says of them. */
  constructor(levels) {
    this.levels = levels;
    this.lines = []; // of the recording, as they came
    this.begin();
  }

  begin() {
    this.frames = []; // {kind: noise | step | committed | end, block, …}
    this.steps = []; // for the curve
    this.started = null;
    this.prompt = null;
    this.blocks = []; // of each: its pieces of text, whether it begins in a thought
    this.finished = null;
    this.texts = new Map();
    this.tokens = 0; // committed
    this.seconds = 0;
  }

  get length() { return this.frames.length; }
  get seed() { return this.started ? this.started.seed : null; }

  /** In words, which seeds repeat it; blocks count from 1. */
  get seeds() {
    const others = (this.started.branches ?? []).map(([block, step, seed]) => `, ${seed} from ${block + 1}:${step}`);
    return `seed ${this.seed}${others.join("")}`;
  }

  get text() { return this.#joined("answer"); }
  get thoughts() { return this.#joined("thought"); }
  get recording() { return this.lines.join("\n") + "\n"; }

  /** Steps of each canvas, for the bar and the facts. */
  get stepsOfBlocks() {
    const counts = [];
    for (const frame of this.frames) if (frame.kind === "step") counts[frame.block] = frame.step;
    return counts;
  }

  /** Tokens of the answer over all the time that they took, the prompt's included. */
  get tokensPerSecond() { return this.seconds ? this.tokens / this.seconds : 0; }

  /** Take a line, and its text as it came; those of the page itself are not part of the recording. */
  take(line, text) {
    if (line.type !== "text") this.lines.push(text);
    for (const [id, piece] of Object.entries(line.texts ?? {})) this.texts.set(+id, piece);
    switch (line.type) {
      case "started": this.#start(line); break;
      case "prompt": this.prompt = line; this.seconds = line.seconds; break;
      case "canvas": this.#canvas(line); break;
      case "step": this.#step(line); break;
      case "committed": this.#commit(line); break;
      case "text": this.#text(line); break;
      case "finished": this.finished = line; this.seconds = line.seconds; this.#end(); break;
    }
  }

  /** The answer was given up: no line comes any more. */
  stop() {
    if (!this.finished) this.#end();
  }

  #start(line) {
    this.started = line;
    const [open, close] = line.channel;
    const borders = open === null ? [] : line.prompt.filter(id => id === open || id === close);
    this.inThought = open !== null && borders.at(-1) === open;
    this.stops = new Set(line.stop_ids);
    this.pins = Object.keys(line.pins ?? {}).map(Number);
  }

  #canvas(line) {
    const length = line.canvas.length;
    this.canvas = Int32Array.from(line.canvas);
    const pinned = new Uint8Array(length);
    for (const place of this.pins) {
      const at = place - line.block * this.started.canvas_length;
      if (at >= 0 && at < length) pinned[at] = 1;
    }
    this.blocks[line.block] = {pieces: [], inThought: this.inThought, pinned};
    this.frames.push({kind: "noise", block: line.block, step: 0, tokens: this.canvas,
      entropy: new Float32Array(length).fill(99), age: new Uint8Array(length), revised: new Uint8Array(length),
      accepted: new Uint8Array(length)});
  }

  #step(line) {
    const before = this.frames.at(-1), length = line.tokens.length;
    const tokens = Int32Array.from(line.tokens), entropy = new Float32Array(length);
    const age = new Uint8Array(length), revised = new Uint8Array(length);
    const accepted = bits(line.accepted, length), {pinned} = this.blocks[line.block];
    let sum = 0, free = 0, kept = 0;
    for (let i = 0; i < length; i++) {
      entropy[i] = line.entropy[i] / 10000;
      if (tokens[i] !== before.tokens[i]) revised[i] = +(this.level(before.entropy[i], before.age[i]) === SETTLED);
      else age[i] = Math.min(255, before.age[i] + 1);
      if (!pinned[i]) { sum += entropy[i]; free++; }
      kept += accepted[i];
    }
    const frame = {kind: "step", block: line.block, step: line.step, tokens, entropy, age, revised, accepted,
      mean: free ? sum / free : 0, seconds: line.seconds};
    this.steps.push({at: this.frames.length, block: line.block, mean: frame.mean, share: kept / length});
    this.frames.push(frame);
  }

  #commit(line) {
    const {tokens} = this.frames.at(-1), [open, close] = this.started.channel;
    for (const id of tokens.subarray(0, line.answer_length)) {
      if (open !== null && (id === open || id === close)) this.inThought = id === open;
    }
    this.tokens += line.answer_length;
    this.seconds = line.block ? this.seconds + line.seconds : line.seconds;
    this.blocks[line.block].length = line.answer_length;
    this.frames.push({...this.frames.at(-1), kind: "committed"});
  }

  #text(line) {
    const block = this.blocks.at(-1);
    if (block) block.pieces.push(...line.pieces);
  }

  #end() {
    if (this.frames.length) this.frames.push({...this.frames.at(-1), kind: "end"});
  }

  #joined(kind) {
    return this.blocks.flatMap(block => block.pieces).filter(piece => piece[0] === kind).map(piece => piece[1]).join("");
  }

  /** How settled a position is, as an index of the levels' styles. */
  level(entropy, age) {
    const [noise, unsure, likely] = this.levels.above;
    const level = (entropy < noise) + (entropy < unsure) + (entropy < likely);
    return level + (level === SURE && age > 0);
  }

  /** The style of a position in a frame. */
  style(frame, at) {
    return frame.revised[at] ? this.levels.revised : this.levels.styles[this.level(frame.entropy[at], frame.age[at])];
  }

  /** The text of a token by itself, as a draft shows it. */
  tokenText(id) {
    const text = this.texts.get(id) ?? "";
    if (typeof text === "string") return safe(text, true);
    return safe(text.special ?? `<0x${text.byte.toString(16).toUpperCase().padStart(2, "0")}>`, true);
  }

  /** The spans of a frame, as `drawSpans` takes them: what is committed, and behind it the canvas. */
  spans(index) {
    const frame = this.frames[index], spans = [];
    if (!frame) return spans;
    const draft = frame.kind === "noise" || frame.kind === "step";
    const unfinished = frame.kind === "end" && !this.blocks[frame.block].pieces.length;
    const committed = draft || unfinished ? frame.block : frame.block + 1;
    let last = "answer";
    for (let block = 0; block < committed; block++) {
      for (const [kind, text, pinned] of this.blocks[block].pieces) {
        if (kind !== last) spans.push(["\n\n", "text", null, 0]);
        last = kind;
        const fresh = frame.kind === "committed" && block === frame.block;
        const style = kind === "thought" ? "thought" : fresh ? "committed" : "text";
        spans.push([safe(text), style, null, (kind === "thought" ? 1 : 0) + (pinned ? 2 : 0)]);
      }
    }
    if (spans.length && spans[0][0] === "\n\n") spans.shift();
    if (draft || unfinished) this.#draft(frame, spans);
    return spans;
  }

  #draft(frame, spans) {
    const {inThought, pinned} = this.blocks[frame.block], [open, close] = this.started.channel;
    let thought = inThought, bytes = [];
    for (let at = 0; at < frame.tokens.length; at++) {
      const id = frame.tokens[at], level = this.level(frame.entropy[at], frame.age[at]);
      const piece = this.texts.get(id) ?? "", style = this.style(frame, at);
      if (open !== null && (id === open || id === close) && level >= SURE) thought = id === open;
      const marks = (thought ? 1 : 0) + (pinned[at] ? 2 : 0);
      const special = frame.revised[at] ? style : "special";
      if (piece.byte !== undefined) {
        bytes.push(piece.byte);
        const whole = decoded(bytes);
        if (whole) { spans.push([safe(whole, true), style, at, marks]); bytes = []; }
        continue;
      }
      if (bytes.length) { spans.push(["�", style, at, marks]); bytes = []; }
      if (this.stops.has(id) || piece.special === PAD) spans.push([END, special, at, marks & 2]);
      else if (piece.special !== undefined) spans.push([safe(piece.special, true), special, at, marks]);
      else if (piece) {
        const text = safe(piece, level < SURE);
        if (frame.revised[at] && text.startsWith(" ")) { // only letters flash
          spans.push([" ", "text", at, marks & 1], [text.slice(1), style, at, marks]);
        } else spans.push([text, style, at, marks]);
      }
    }
  }

  /** How often a position changed in its canvas, up to a frame. */
  changes(index, at) {
    let count = 0;
    for (let i = index; i > 0 && this.frames[i - 1].block === this.frames[index].block; i--) {
      if (this.frames[i].tokens[at] !== this.frames[i - 1].tokens[at]) count++;
    }
    return count;
  }

  /** In words, where a frame stands. */
  label(index) {
    const frame = this.frames[index];
    if (!frame) return "";
    const block = `block ${frame.block + 1}`;
    if (frame.kind === "noise") return `${block} · fresh noise`;
    if (frame.kind === "committed") return `${block} · committed`;
    if (frame.kind === "end") return this.finished ? "the answer" : `${block} · stopped, not committed`;
    return `${block} · step ${frame.step}/${this.started.settings.max_steps}`;
  }
}

/** Bytes as a character, "" while some are missing, "�" for none. */
function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", {fatal: true}).decode(Uint8Array.from(bytes));
  } catch {
    return bytes.length >= 4 || bytes[0] < 0xc2 ? "�" : "";
  }
}
