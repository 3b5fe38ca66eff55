// A text with holes: words are freed and pinned by a click, holes are dragged wider, and the model fills them.

import {button} from "./answer-view.js";
import {element} from "./canvas.js";
import {safe} from "./recording.js";
import {newView, ready, run, shared} from "./run.js";

const by = id => document.getElementById(id);
const HOLE = /\\\[\[|\[\[(\d*)\]\]|(\s+)|((?:(?!\\\[\[|\[\[\d*\]\])\S)+)/g;
const CHARACTERS = 5; // of a token, about
const TOKEN_PIXELS = 14; // of dragging
let was = new Map(); // words that stood in holes, by the hole's number
let found = []; // what filled them
let running = false;

/** The text as parts: words, spaces and holes, each with where it stands. */
function parts(text) {
  let holes = 0;
  return [...text.matchAll(HOLE)].map(match => {
    const [all, size, space] = match, at = match.index, end = at + all.length;
    if (size !== undefined) return {kind: "hole", size: size === "" ? null : +size, number: holes++, at, end};
    return {kind: space === undefined ? "word" : "space", text: all, at, end};
  });
}

function replace(part, text) {
  const field = by("fill-text");
  field.value = field.value.slice(0, part.at) + text + field.value.slice(part.end);
}

/** A hole's notes move when one before it comes or goes. */
function shift(number, by_) {
  const move = map => new Map([...map].filter(([at]) => by_ > 0 || at !== number)
    .map(([at, value]) => [at >= number ? at + by_ : at, value]));
  was = move(was);
  if (by_ > 0) found.splice(number, 0, undefined); else found.splice(number, 1);
}

function free(part) {
  const number = parts(by("fill-text").value).filter(each => each.kind === "hole" && each.at < part.at).length;
  shift(number, 1);
  was.set(number, part.text);
  replace(part, `[[${Math.max(1, Math.round(part.text.length / CHARACTERS))}]]`);
  draw(part.at);
}

function pin(part) {
  const text = found[part.number]?.text || was.get(part.number) || "";
  shift(part.number, -1);
  replace(part, text.replaceAll("[[", "\\[["));
  draw(part.at);
}

function resize(part, size) {
  replace(part, `[[${Math.max(1, Math.min(256, size))}]]`);
  draw(part.at);
}

/** Draw the text as words and holes that can be clicked; the one at a place gets the focus. */
function draw(focus = -1) {
  const shown = parts(by("fill-text").value).map(part => {
    if (part.kind === "space") return document.createTextNode(part.text);
    const made = part.kind === "word" ? button(safe(part.text, true), () => free(part), {class: "word",
      "aria-label": `free ${safe(part.text, true)}`}) : hole(part);
    if (part.at === focus) queueMicrotask(() => made.focus());
    return made;
  });
  by("fill-words").replaceChildren(...shown);
}

function hole(part) {
  const filled = found[part.number];
  const text = filled ? safe(filled.text, true) || "∅" : "·".repeat(Math.min(24, part.size ?? 3));
  const size = part.size === null ? "any size" : `${part.size} token${part.size === 1 ? "" : "s"}`;
  const made = button("", () => { if (!dragged) pin(part); }, {class: filled ? "hole found" : "hole",
    "aria-label": `hole of ${size}${filled ? `, filled with ${text}` : ""}: pin it`,
    title: filled?.log_probability != null ? `${size} · probability ${Math.exp(filled.log_probability).toFixed(2)}` : size});
  const edge = element("span", {class: "edge", "aria-hidden": "true"});
  made.append(element("span", {}, text), element("sub", {}, part.size === null ? "any" : String(part.size)), edge);
  let dragged = false;
  edge.addEventListener("pointerdown", event => {
    event.preventDefault();
    dragged = true;
    const from = event.clientX, began = part.size ?? 8;
    let size_ = began;
    const move = each => {
      size_ = Math.max(1, began + Math.round((each.clientX - from) / TOKEN_PIXELS));
      made.firstChild.textContent = "·".repeat(Math.min(48, size_));
      made.children[1].textContent = String(size_);
    };
    const end = () => {
      removeEventListener("pointermove", move);
      resize(part, size_);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end, {once: true});
  });
  made.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    resize(part, (part.size ?? 8) + step);
  });
  return made;
}

const tell = text => { by("fill-note").textContent = safe(text, true); };

async function go(seed) {
  if (running || !ready(tell)) return;
  const template = by("fill-text").value;
  if (!parts(template).some(part => part.kind === "hole")) {
    tell("There is no hole: click a word to free it.");
    return;
  }
  const {sampler, seed: chosen} = shared.settings.request(), prompt = by("fill-prompt").value.trim();
  const system = shared.settings.system.trim();
  const view = newView({again: go, link: () => link(view)});
  by("fill-answer").replaceChildren(view.root);
  running = true;
  await run(view, "page/fill", {template, ...(prompt ? {prompt} : {}), ...(system ? {system} : {}),
    ...(sampler ? {sampler} : {}), ...(seed ?? (seed === null ? undefined : chosen)) === undefined ? {} : {seed: seed ?? chosen}},
  line => {
    if (line.type !== "filled" || by("fill-text").value !== template) return;
    found = line.holes;
    draw();
    const sure = line.log_probability === null ? "" : ` · probability ${Math.exp(line.log_probability).toFixed(2)} a token`;
    tell(`filled${sure}. Click what was found to pin it.`);
  });
  running = false;
}

function link(view) {
  const address = shared.settings.link("fill", view.answer.seed, {text: by("fill-text").value, prompt: by("fill-prompt").value});
  history.replaceState(null, "", address);
  view.say("The link stands in the address bar. It holds the text, the settings and the seed.");
}

export function readLink(fields) {
  by("fill-text").value = fields.get("text") ?? "";
  by("fill-prompt").value = fields.get("prompt") ?? "";
  was = new Map();
  found = [];
  draw();
  tell("From a link: nothing is sent until you click Fill.");
}

export function setUp() {
  by("fill-prompt").value = "Tell me a story.";
  by("fill-text").value = "There once was a white [[1]] who lived in the [[1]].";
  by("fill-text").addEventListener("input", () => {
    was = new Map();
    found = [];
    draw();
  });
  by("fill-go").addEventListener("click", () => go());
  draw();
}
