// An answer that a JSON schema holds: its keys are pinned, its values are found.

import {element} from "./canvas.js";
import {safe} from "./recording.js";
import {newView, ready, run, shared} from "./run.js";

const by = id => document.getElementById(id);
const EXAMPLE = {
  type: "object",
  properties: {
    name: {type: "string"},
    color: {enum: ["red", "green", "blue"]},
    age: {type: "integer"},
    happy: {type: "boolean"},
  },
  required: ["name", "color", "age", "happy"],
};
let running = false;

const tell = text => { by("schema-note").textContent = safe(text, true); };

/** The leaves of a value, each with its path. */
function leaves(value, path = "") {
  if (value === null || typeof value !== "object") return [[path || "value", JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, each]) =>
    leaves(each, Array.isArray(value) ? `${path}[${key}]` : path ? `${path}.${key}` : key));
}

function table(text) {
  const root = element("dl", {class: "values"});
  for (const [key, value] of leaves(JSON.parse(text))) {
    root.append(element("dt", {class: "pinned"}, safe(key, true)), element("dd", {}, safe(value, true)));
  }
  return root;
}

/** All names of properties in a schema. */
function keysOf(schema) {
  if (schema === null || typeof schema !== "object") return [];
  const own = schema.properties && typeof schema.properties === "object" ? Object.keys(schema.properties) : [];
  return [...own, ...Object.values(schema).flatMap(keysOf)];
}

/** Finds these keys in a canvas, where lines may end in a sign for it. */
function patternOf(keys) {
  const written = keys.map(key => quoted(safe(JSON.stringify(key), true)));
  return written.length ? new RegExp(`(?:${[...new Set(written)].join("|")})(?=[\\s↵→]*:)`, "gu") : null;
}

const quoted = text => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");

/** Spans in which what a pattern finds is marked as pinned: a span may hold a part of it, or more. */
export function withPinned(spans, pattern) {
  const found = [...spans.map(([text]) => text).join("").matchAll(pattern)].map(match => [match.index, match.index + match[0].length]);
  let at = 0;
  return spans.flatMap(([text, style, place, marks]) => {
    const begin = at, end = at += text.length;
    const cuts = [begin, ...found.flat().filter(cut => begin < cut && cut < end), end];
    return cuts.slice(1).map((cut, i) => {
      const isKey = found.some(([from, to]) => from <= cuts[i] && cut <= to);
      return [text.slice(cuts[i] - begin, cut - begin), style, place, marks | (isKey ? 2 : 0)];
    });
  });
}

async function go(seed) {
  if (running || !ready(tell)) return;
  let schema;
  try {
    schema = JSON.parse(by("schema-text").value);
  } catch (error) {
    tell(`The schema is no JSON: ${error.message}`);
    return;
  }
  const request = shared.settings.request(), content = by("schema-prompt").value.trim();
  if (seed === null) delete request.seed; else if (seed !== undefined) request.seed = seed;
  delete request.reasoning_effort;
  const keys = patternOf(keysOf(schema));
  const view = newView({again: go, link: () => link(view), mark: keys && (spans => withPinned(spans, keys)), rest: ({answer}) => {
    try {
      by("schema-answer").append(table(answer.text));
    } catch { /* given up */ }
  }});
  by("schema-answer").replaceChildren(view.root);
  running = true;
  const system = shared.settings.system.trim();
  await run(view, "page/answer", {messages: [...(system ? [{role: "system", content: system}] : []), {role: "user", content}],
    ...request, response_format: {type: "json_schema", json_schema: {name: "answer", schema}}});
  running = false;
}

function link(view) {
  const address = shared.settings.link("schema", view.answer.seed,
    {prompt: by("schema-prompt").value, schema: by("schema-text").value});
  history.replaceState(null, "", address);
  view.say("The link stands in the address bar. It holds the message, the schema, the settings and the seed.");
}

export function readLink(fields) {
  by("schema-prompt").value = fields.get("prompt") ?? "";
  by("schema-text").value = fields.get("schema") ?? "";
  tell("From a link: nothing is sent until you click Answer.");
}

export function setUp() {
  by("schema-prompt").value = "Write JSON: name Mia, age 7, color green";
  by("schema-text").value = JSON.stringify(EXAMPLE, null, 2);
  by("schema-go").addEventListener("click", () => go());
}
