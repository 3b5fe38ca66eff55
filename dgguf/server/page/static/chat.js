// A conversation: messages, and for each of them one or more answers, of which one is shown.

import {button, letGo} from "./answer-view.js";
import {element} from "./canvas.js";
import {clearImages, images} from "./images.js";
import {isKept, keep, kept} from "./kept.js";
import {safe} from "./recording.js";
import {newView, ready, run, shared} from "./run.js";

const by = id => document.getElementById(id);
const EXAMPLES = ["Tell me a story.", "Sort: 7 3 9 1 5", "Write a story about Mia and a blue fox."];
const LOST = "Images are not kept when the page is loaded anew";
const OWN = "own"; // history.state where the address is the conversation's, not a link that is still to be sent
const exchanges = [];
let running = null, restoring = false;

/** Say something beside the composer. */
export const tell = (text, wrong = true) => {
  by("composer-note").textContent = safe(text, true);
  by("composer-note").classList.toggle("wrong", wrong && text !== "");
};

/** The answer that is shown of an exchange; "" where there is none, as of one that was stopped. */
const said = exchange => exchange.versions[exchange.current]?.answer.text ?? "";

/** Messages before an exchange, and its own. */
function messages(exchange) {
  const system = shared.settings.system.trim();
  const out = system ? [{role: "system", content: system}] : [];
  for (const each of exchanges.slice(0, exchanges.indexOf(exchange) + 1)) {
    const text = {type: "text", text: each.text};
    const seen = each.images.map(({url}) => ({type: "image_url", image_url: {url}}));
    out.push({role: "user", content: seen.length ? [...seen, text] : each.text});
    if (each !== exchange && said(each)) out.push({role: "assistant", content: said(each)});
  }
  return out;
}

/** A view for an answer to an exchange. */
function viewOf(exchange) {
  const view = newView({
    scrolls: true,
    again: seed => retry(exchange, view, seed),
    link: () => link(exchange, view),
    branch: (from, block, step) => branch(exchange, from, block, step),
    packed: save,
  });
  view.id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  return view;
}

/** Add an answer to an exchange, and show it. */
async function answer(exchange, path, body) {
  const view = viewOf(exchange);
  exchange.versions.push(view);
  choose(exchange, exchange.versions.length - 1);
  state(view);
  await run(view, path, body);
  state(null);
  save();
}

/** Keep all that is said by now for when the page is loaded anew; images are not kept. */
function save() {
  const settings = new URL(shared.settings.link("chat", shared.settings.value("seed") ?? null, {})).hash.slice(1);
  keep(settings, exchanges.map(exchange => ({
    text: exchange.text, current: exchange.current, lost: namesOfImages(exchange),
    versions: exchange.versions.filter(({over}) => over !== false).map(({id, answer, ending, packed}) => ({
      id, text: answer.text, ending, blocks: (answer.blocks ?? []).map(({pieces}) => pieces),
      packed: packed === "gone" ? undefined : packed})),
  })));
}

const namesOfImages = ({images: seen, lost}) => [...lost, ...seen.map(({name}) => name)];

/** Whether the page is loaded anew and goes on with its conversation, so that the address is no link to read. */
export const goesOn = () => history.state === OWN && isKept();

/**
 * Show the conversation that was kept.
 * @param isLinked whether a link was read, whose settings stay
 */
export async function restore(isLinked) {
  if (!isKept()) return;
  restoring = true;
  try {
    const {settings, isCut, exchanges: found} = kept();
    if (!isLinked) shared.settings.read(new URLSearchParams(settings));
    if (isCut) by("exchanges").append(element("p", {class: "hint"}, "What was said before is not kept."));
    for (const {text, lost, current, versions} of found) {
      const exchange = show(text, [], lost);
      for (const version of versions.length ? versions : [null]) {
        exchange.versions.push(await restored(exchange, version));
      }
      choose(exchange, Math.min(current, exchange.versions.length - 1));
    }
  } finally {
    restoring = false;
  }
  scrollTo(0, document.body.scrollHeight);
}

/** An answer that was kept: to scrub through if its recording was, else its text; null was not there yet. */
async function restored(exchange, version) {
  const view = viewOf(exchange);
  const {id = view.id, text = "", ending, packed, blocks} = version
    ?? {ending: {text: "The page was loaded anew before this answer was there.", wrong: true}};
  Object.assign(view, {id, ending});
  try {
    if (packed) await view.restore(packed, blocks);
  } catch {
    return restored(exchange, {...version, packed: undefined});
  }
  if (!packed && text) return written(text, ending);
  if (!packed) view.end();
  if (ending) view.say(ending.text, ending.wrong);
  else if (!text && !view.answer.length) view.say("No text was kept of this answer.");
  return view;
}

/** An answer of which only the text is known, and perhaps why it ended early. */
function written(text, ending) {
  const root = element("div", {}, element("p", {class: "canvas"}, safe(text)));
  if (ending) root.append(element("p", {class: ending.wrong ? "note wrong" : "note"}, safe(ending.text, true)));
  return {answer: {text}, ending, root};
}

/** Take what was said off the page. */
function clear() {
  letGo(exchanges.flatMap(({versions}) => versions));
  exchanges.length = 0;
  by("exchanges").replaceChildren();
}

/** Begin anew: of this conversation nothing is kept. */
function fresh() {
  running?.options.stop();
  clear();
  linked = null;
  by("empty").hidden = false;
  by("new-chat").hidden = true;
  save();
  history.replaceState(null, "", location.pathname + location.search);
  tell("");
  by("prompt").focus();
}

function state(view) {
  running = view;
  by("send").textContent = view ? "Stop" : "Send";
}

function choose(exchange, number) {
  exchange.current = number;
  const {versions} = exchange;
  const pager = element("div", {class: "pager"});
  if (versions.length > 1) {
    const back = button("‹", () => choose(exchange, number - 1), {"aria-label": "the answer before"});
    const next = button("›", () => choose(exchange, number + 1), {"aria-label": "the next answer"});
    back.disabled = number === 0;
    next.disabled = number === versions.length - 1;
    pager.append(back, element("span", {}, `${number + 1} of ${versions.length}`), next);
  }
  exchange.place.replaceChildren(pager, versions[number].root);
  if (!restoring) save();
}

/** The names of images that were shown up to an exchange, and are gone. */
const lostBefore = exchange => exchanges.slice(0, exchanges.indexOf(exchange) + 1).flatMap(({lost}) => lost);

function retry(exchange, view, seed) {
  if (running || !ready(tell)) return;
  if (lostBefore(exchange).length) {
    view.say(`${LOST}: show them again in a new message.`, true);
    return;
  }
  const request = shared.settings.request();
  if (seed === null) delete request.seed; else if (seed !== undefined) request.seed = seed;
  answer(exchange, "page/answer", {messages: messages(exchange), ...request});
}

async function branch(exchange, view, block, step) {
  if (running) return;
  try {
    const recording = await view.recording();
    const seed = shared.settings.value("seed"), other = seed !== undefined && seed !== view.answer.seed;
    answer(exchange, "page/resume", {recording, block, step, ...(other ? {seed} : {})});
  } catch (failure) {
    view.say(failure.message, true);
  }
}

/** A link that asks the same again, once somebody clicks Send there. */
async function link(exchange, view) {
  const asked = exchanges.slice(0, exchanges.indexOf(exchange) + 1);
  if (asked.some(each => namesOfImages(each).length)) {
    view.say("A link cannot hold images: save the answer instead.", true);
    return;
  }
  const before = asked.slice(0, -1).map(each => [each.text, said(each)]);
  const parts = {prompt: exchange.text, ...(before.length ? {before: JSON.stringify(before)} : {})};
  const address = shared.settings.link("chat", view.answer.seed, parts);
  history.replaceState(OWN, "", address);
  try {
    await navigator.clipboard.writeText(address);
    view.say("The link is copied. It holds the question, the settings and the seed; nothing is sent by itself.");
  } catch {
    view.say("The link stands in the address bar. It holds the question, the settings and the seed.");
  }
}

/**
 * Add an exchange without an answer.
 * @param lost names of images that were shown with it, and are not known any more
 */
function show(text, given, lost = []) {
  by("empty").hidden = true;
  by("new-chat").hidden = false;
  const exchange = {text, images: given, lost, versions: [], current: 0, place: element("div", {class: "versions"})};
  const root = element("article", {class: "exchange"}), asked = element("div", {class: "asked"});
  for (const image of given) asked.append(image.thumb);
  for (const name of lost) asked.append(element("p", {class: "hint"}, `${safe(name, true)} (the image is not kept)`));
  asked.append(element("p", {}, safe(text)));
  root.append(asked, exchange.place);
  by("exchanges").append(root);
  exchanges.push(exchange);
  return exchange;
}

/** Send what stands in the composer. */
function send() {
  if (running) {
    running.options.stop();
    return;
  }
  const text = by("prompt").value.trim(), given = images();
  if (!text) {
    tell("There is nothing to send.");
    by("prompt").focus();
    return;
  }
  if (restoring || !ready(tell)) return;
  if (linked && exchanges.length) clear();
  for (const [before, after] of linked ?? []) {
    const exchange = show(before, []);
    if (!after) continue;
    exchange.versions.push(written(after));
    choose(exchange, 0);
  }
  linked = null;
  history.replaceState(OWN, "");
  const exchange = show(text, given);
  by("prompt").value = "";
  grow();
  clearImages();
  if (lostBefore(exchange).length) tell(`${LOST}: the model sees the texts alone.`, false);
  scrollTo(0, document.body.scrollHeight);
  answer(exchange, "page/answer", {messages: messages(exchange), ...shared.settings.request()});
}

let linked = null; // what a link says was said before: pairs of a message and its answer, "" for none; null: no link

/** Take what a link says into the composer. */
export function readLink(fields) {
  linked = [];
  by("prompt").value = fields.get("prompt") ?? "";
  grow();
  try {
    const before = JSON.parse(fields.get("before") ?? "[]");
    for (const [text, after = ""] of before) linked.push([String(text), String(after)]);
  } catch { /* a link that was cut */ }
  const anew = exchanges.length || isKept() ? ", which begins a new chat" : "";
  tell(`From a link: nothing is sent until you click Send${anew}.`, false);
  by("prompt").focus();
}

function grow() {
  const field = by("prompt");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 240)}px`;
}

export function setUp() {
  by("composer").addEventListener("submit", event => {
    event.preventDefault();
    send();
  });
  by("new-chat").addEventListener("click", fresh);
  by("prompt").addEventListener("input", () => { grow(); tell(""); });
  by("prompt").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running) send();
    }
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) running.options.stop();
  });
  for (const text of EXAMPLES) {
    by("examples").append(button(text, () => { by("prompt").value = text; grow(); by("prompt").focus(); }));
  }
}
