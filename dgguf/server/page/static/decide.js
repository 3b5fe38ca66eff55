// Questions about a text: yes or no, one of some options, or a level; answered with probabilities as bars.

import {button} from "./answer-view.js";
import {json} from "./api.js";
import {drawSpans, element} from "./canvas.js";
import {safe} from "./recording.js";
import {ready} from "./run.js";

const by = id => document.getElementById(id);
let running = null, numbers = 0;

/** A row with a question and its options. */
function add(text = "", options = "") {
  const number = ++numbers, row = element("div", {class: "question"});
  const asked = element("input", {type: "text", id: `question-${number}`, placeholder: "Is it about a fox?", autocomplete: "off"});
  const given = element("input", {type: "text", id: `options-${number}`, autocomplete: "off",
    placeholder: "yes or no; or: Mia | Tom; or: low < high"});
  asked.value = text;
  given.value = options;
  row.append(element("label", {class: "unseen", for: asked.id}, `question ${number}`), asked,
    element("label", {class: "unseen", for: given.id}, `options of question ${number}`), given,
    button("×", () => row.remove(), {"aria-label": `take question ${number} away`}));
  by("questions").append(row);
  return asked;
}

/** A row as /v1/decisions takes it. */
function question(row) {
  const [asked, given] = row.querySelectorAll("input"), instructions = asked.value.trim();
  const mark = ["|", "<"].find(each => given.value.includes(each));
  const values = mark ? given.value.split(mark).map(value => value.trim()) : [];
  if (!mark) return {type: "predicate", instructions};
  return mark === "|" ? {type: "choice", instructions, choices: values.map(value => ({value}))}
    : {type: "score", instructions, levels: values.map(label => ({label}))};
}

function chances(answer) {
  if (answer.type === "predicate") return [["yes", answer.probability], ["no", 1 - answer.probability]];
  return answer.probabilities.map(({value, label, probability}) => [String(label ?? value), probability]);
}

/** The bars of an answer; the likeliest has a whisker of one standard error to each side. */
function bars(text, answer, canvas) {
  const root = element("div", {class: "decision"}), all = chances(answer), best = Math.max(...all.map(each => each[1]));
  root.append(element("h3", {}, safe(text, true)));
  for (const [name, probability] of all) {
    const row = element("div", {class: probability === best ? "chance best" : "chance"});
    const bar = element("div", {class: "bar"}), filled = element("div", {class: "filled"});
    filled.style.width = `${100 * probability}%`;
    bar.append(filled);
    let error = "";
    if (probability === best && answer.standard_error !== null) {
      const whisker = element("div", {class: "whisker"}), from = Math.max(0, probability - answer.standard_error);
      whisker.style.left = `${100 * from}%`;
      whisker.style.width = `${100 * (Math.min(1, probability + answer.standard_error) - from)}%`;
      bar.append(whisker);
      error = ` ± ${(100 * answer.standard_error).toFixed(1)}`;
    }
    row.append(element("span", {class: "name"}, safe(name, true)), bar,
      element("span", {class: "percent"}, `${(100 * probability).toFixed(1)}${error} %`));
    root.append(row);
  }
  const reads = `${answer.reads} read${answer.reads === 1 ? "" : "s"}`;
  const little = answer.mass < 0.5 ? " — the model wanted to write something else" : "";
  root.append(element("p", {class: "hint"}, `${reads} · the labels have ${(100 * answer.mass).toFixed(0)} % of all tokens${little}`));
  root.append(slots(canvas, all.find(each => each[1] === best)[0]));
  return root;
}

/** The canvas in which the answer was read: noise in the slot, and behind it what ends an answer. */
function slots({tokens, slot}, answer) {
  const root = element("details", {class: "slots"}), shown = element("div", {class: "canvas"});
  drawSpans(shown, tokens.map((token, at) => at === slot ? [` ${safe(answer, true)} `, "settled slot", at, 0]
    : [safe(token, true), "special", at, 2]));
  root.append(element("summary", {}, "the canvas"), shown);
  return root;
}

const tell = text => { by("decide-note").textContent = safe(text, true); };

async function go() {
  if (running) { running.abort(); return; }
  if (!ready(tell)) return;
  const rows = [...by("questions").children], questions = rows.map(question), input = by("decide-state").value;
  running = new AbortController();
  by("decide-go").textContent = "Stop";
  tell("deciding …");
  try {
    const {answers, canvases} = await json("page/decide", {input, questions}, running.signal);
    by("decisions").replaceChildren(...answers.map((answer, i) => bars(questions[i].instructions, answer, canvases[i])));
    tell("");
  } catch (failure) {
    tell(failure.name === "AbortError" ? "stopped" : failure.message);
  }
  running = null;
  by("decide-go").textContent = "Decide";
}

export function setUp() {
  by("decide-state").value = "Mia has a blue fox. They went to the sea.";
  add("Is it about a fox?");
  add("Whose fox is it?", "Mia | Tom | Max");
  add("How do they feel?", "sad < calm < happy");
  by("add-question").addEventListener("click", () => add().focus());
  by("decide-go").addEventListener("click", go);
}
