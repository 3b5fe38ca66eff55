// A board: the givens are pinned in the answer, and the guesses between them settle or are taken back.

import {element} from "./canvas.js";
import {safe} from "./recording.js";
import {newView, ready, run, shared} from "./run.js";

const by = id => document.getElementById(id);
const BOXES = {4: [2, 2], 6: [2, 3], 9: [3, 3]}; // rows and columns of a box
const EXAMPLES = {
  4: [
    "21.3\n3..1\n...2\n1...",
    "..4.\n..2.\n43..\n123.",
    ".2.4\n.1.3\n...2\n..4.",
  ],
  6: [
    "426531\n..1246\n51....\n642...\n.3..14\n..4.2.",
    "13....\n.5.12.\n.234..\n51.2..\n3...6.\n2.5.41",
    ".....5\n.35.24\n.245..\n.6..4.\n..2.61\n61..5.",
  ],
  9: [
    "534.7..1.\n6..19.3.8\n.9.34.5.7\n.59761.2.\n.2......1\n.13924856\n...5.72.4\n2.7.1.6.5\n..5.....9",
    "...5.12.7\n.167.2..3\n.82.34.15\n2.8176..9\n.....8174\n9.1..5.2.\n89.217..6\n1.4......\n32.46.581",
    "26.3.4.85\n93.7.861.\n8.56.9.37\n.....1..6\n481.6.723\n69.87...1\n..81..2..\n7..2....9\n...54.36.",
  ],
};
let size = 9, shown = 0, running = false;

const tell = text => { by("sudoku-note").textContent = safe(text, true); };

/** Which borders of a cell are those of a box. */
function edges(at) {
  const [high, wide] = BOXES[size], row = Math.floor(at / size), column = at % size;
  return (row % high === 0 && row ? " above" : "") + (column % wide === 0 && column ? " left" : "");
}

function givens() {
  return [...by("sudoku-givens").children].map(cell => +cell.value || 0);
}

/** Show a board to type into. */
function lay(digits) {
  by("sudoku-givens").className = `board size-${size}`;
  by("sudoku-givens").replaceChildren(...digits.map((digit, at) => {
    const cell = element("input", {type: "text", inputmode: "numeric", maxlength: "1", class: `cell${edges(at)}`,
      "aria-label": `row ${Math.floor(at / size) + 1}, column ${at % size + 1}`});
    cell.value = digit || "";
    cell.addEventListener("input", () => {
      if (!(+cell.value >= 1 && +cell.value <= size)) cell.value = "";
      else by("sudoku-givens").children[at + 1]?.focus();
    });
    cell.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: size, ArrowUp: -size}[event.key];
      const next = step && by("sudoku-givens").children[at + step];
      if (next) { event.preventDefault(); next.focus(); }
    });
    cell.addEventListener("focus", () => cell.select());
    return cell;
  }));
}

function example(number) {
  const all = EXAMPLES[size];
  shown = number % all.length;
  lay([...all[shown].replaceAll("\n", "")].map(character => +character || 0));
  tell("");
}

/** Cells whose digit stands a second time in their row, column or box. */
function clashes(digits) {
  const [high, wide] = BOXES[size], wrong = new Set();
  const box = at => Math.floor(Math.floor(at / size) / high) * size + Math.floor(at % size / wide);
  digits.forEach((digit, a) => digits.forEach((other, b) => {
    if (a !== b && digit && digit === other && (Math.floor(a / size) === Math.floor(b / size) || a % size === b % size || box(a) === box(b))) {
      wrong.add(a);
    }
  }));
  return wrong;
}

/** Draw a frame as a board; where a guess is taken back, the one before is struck out beside it. */
function draw(canvas, answer, index, given) {
  const frame = answer.frames[index], before = answer.frames[index - 1];
  const digitOf = (each, at) => {
    const text = answer.texts.get(each.tokens[at]);
    return typeof text === "string" && /^[1-9]$/.test(text) && +text <= size ? +text : 0;
  };
  const places = given.map((_, at) => Math.floor(at / size) * (size + 1) + at % size);
  const digits = places.map(at => digitOf(frame, at)), over = frame.kind === "committed" || frame.kind === "end";
  const wrong = clashes(digits.map((digit, at) => given[at] || (over || answer.level(frame.entropy[places[at]], frame.age[places[at]]) >= 2 ? digit : 0)));
  if (canvas.children.length !== given.length) {
    canvas.classList.add("board", `size-${size}`);
    canvas.replaceChildren(...given.map((_, at) => element("div", {class: `cell${edges(at)}`})));
  }
  let taken = 0;
  given.forEach((digit, at) => {
    const cell = canvas.children[at], place = places[at];
    let look = digit ? "given" : over ? "settled" : answer.style(frame, place), old = 0;
    if (!digit && frame.kind === "step" && before.kind === "step") {
      const sure = answer.level(before.entropy[place], before.age[place]) >= 2;
      if (sure && digitOf(before, place) && digitOf(before, place) !== digits[at]) {
        look = "revised";
        old = digitOf(before, place);
        taken++;
      }
    }
    if (!digit && wrong.has(at) && look !== "revised") look = "conflict";
    cell.className = `cell${edges(at)} ${look}`;
    cell.dataset.p = place;
    cell.textContent = digit || digits[at] || "·";
    if (old) cell.append(element("s", {}, String(old)));
  });
  return {digits, wrong, taken};
}

async function go(seed) {
  if (running || !ready(tell)) return;
  const given = givens();
  if (clashes(given).size) {
    tell("The givens break the rules: a digit stands twice.");
    return;
  }
  if (!given.includes(0)) {
    tell("Nothing is open: empty some cells.");
    return;
  }
  const row = (number, open) => given.slice(number * size, (number + 1) * size).map(digit => digit || open).join("");
  const rows = [...Array(size).keys()];
  const template = rows.map(number => row(number, ".").replace(/\.+/g, dots => `[[${dots.length}]]`)).join("\n");
  const {sampler, seed: chosen} = shared.settings.request(), wanted = seed === null ? undefined : seed ?? chosen;
  const taken = new Map();
  const view = newView({
    again: go,
    draw: (canvas, answer, index) => {
      const board = draw(canvas, answer, index, given);
      taken.set(index, board.taken);
      const frame = answer.frames[index], back = [...taken].filter(([at]) => at <= index).reduce((sum, [, n]) => sum + n, 0);
      const over = frame.kind === "end" || frame.kind === "committed";
      const whole = board.digits.every((digit, at) => digit || given[at]) && !board.wrong.size;
      tell(`${over ? whole ? "solved" : "not solved" : `${board.wrong.size} against the rules`} · ${back} taken back`);
    },
  });
  by("sudoku-answer").replaceChildren(view.root);
  running = true;
  await run(view, "page/fill", {template, prompt: `Solve this sudoku:\n${rows.map(number => row(number, ".")).join("\n")}`,
    ...(sampler ? {sampler} : {}), ...(wanted === undefined ? {} : {seed: wanted})});
  running = false;
}

export function setUp() {
  by("sudoku-size").addEventListener("change", () => { size = +by("sudoku-size").value; example(0); });
  by("sudoku-example").addEventListener("click", () => example(shown + 1));
  by("sudoku-clear").addEventListener("click", () => lay(Array(size * size).fill(0)));
  by("sudoku-go").addEventListener("click", () => go());
  example(0);
}
