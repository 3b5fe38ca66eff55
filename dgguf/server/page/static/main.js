// The page: its parts, its tabs, its theme, the key, and whether the server answers.

import {connect, json} from "./api.js";
import * as chat from "./chat.js";
import * as decide from "./decide.js";
import * as fill from "./fill.js";
import {setUpImages} from "./images.js";
import {safe} from "./recording.js";
import {shared} from "./run.js";
import * as schema from "./schema.js";
import {Settings} from "./settings.js";
import * as sudoku from "./sudoku.js";

const by = id => document.getElementById(id);
const PARTS = {chat, fill, decide, schema, sudoku};
const PATIENCE = 2000; // ms between two looks whether the server is back
let looking = 0, isLinked = false; // whether a link was read

function choose(name, focus = false) {
  for (const each of Object.keys(PARTS)) {
    const chosen = each === name;
    by(each).hidden = !chosen;
    by(`tab-${each}`).setAttribute("aria-selected", String(chosen));
    by(`tab-${each}`).tabIndex = chosen ? 0 : -1;
  }
  if (focus) by(`tab-${name}`).focus();
}

function setUpTabs() {
  const names = Object.keys(PARTS);
  for (const [number, name] of names.entries()) {
    by(`tab-${name}`).addEventListener("click", () => choose(name));
    by(`tab-${name}`).addEventListener("keydown", event => {
      const steps = {ArrowRight: 1, ArrowLeft: -1, Home: -number, End: names.length - 1 - number};
      if (!(event.key in steps)) return;
      event.preventDefault();
      choose(names[(number + steps[event.key] + names.length) % names.length], true);
    });
  }
}

function setUpTheme() {
  by("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("dgguf-theme", root.dataset.theme);
  });
}

function setUpSettings() {
  by("open-settings").addEventListener("click", () => by("settings").showModal());
  by("settings").querySelector("form").addEventListener("submit", event => {
    event.preventDefault();
    by("settings").close();
  });
  by("reset").addEventListener("click", () => shared.settings.read(new URLSearchParams()));
  by("settings").addEventListener("click", event => {
    if (event.target === by("settings")) by("settings").close();
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) by("pace").value = "0";
}

/** Ask for the server's key; null if nobody gives one. */
function askKey(wrong) {
  const dialog = by("key-dialog");
  if (wrong) by("key-note").textContent = "That was not the key. It is the --api-key that the server was started with.";
  by("key").value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise(resolve => {
    const done = key => {
      dialog.removeEventListener("close", closed);
      if (dialog.open) dialog.close();
      resolve(key);
    };
    const none = () => done(null);
    const closed = () => { if (!dialog.open) none(); };  // else it tells late of the time before
    by("key-form").onsubmit = event => {
      event.preventDefault();
      const key = by("key").value.trim();
      if (/^[!-~]+$/.test(key)) done(key);
      else by("key-note").textContent = "A key has letters, digits and signs of ASCII, and no spaces.";
    };
    by("key-cancel").onclick = none;
    dialog.addEventListener("close", closed);
  });
}

/** Say that the server does not answer, and look until it does. */
function onReach(reached) {
  if (reached && by("banner").hidden) return;
  by("banner").textContent = reached ? "" : "The server does not answer: it was stopped, or starts again. What you wrote is kept.";
  by("banner").hidden = reached;
  clearTimeout(looking);
  if (!reached) looking = setTimeout(() => about().catch(() => {}), PATIENCE);
}

async function about() {
  const told = await json("page/about"), first = !shared.about;
  shared.about = told;
  shared.settings.defaults(told);
  by("model").textContent = safe(told.model, true);
  document.title = `${safe(told.model, true)} · dgguf`;
  if (first) await chat.restore(isLinked);
}

function readLink() {
  const fields = new URLSearchParams(location.hash.slice(1)), mode = fields.get("mode");
  if (!(mode in PARTS)) return;
  isLinked = true;
  history.replaceState(null, "");
  shared.settings.read(fields);
  choose(mode);
  PARTS[mode].readLink?.(fields);
}

connect({askKey, onReach});
shared.settings = new Settings();
setUpTabs();
setUpTheme();
setUpSettings();
setUpImages(chat.tell);
for (const part of Object.values(PARTS)) part.setUp();
if (!chat.goesOn()) readLink();
addEventListener("hashchange", readLink);
about().catch(failure => {
  if (failure.status === 401) by("model").textContent = failure.message;
});
