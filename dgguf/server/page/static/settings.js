// What an answer is asked for: the file's defaults, what was set, and both as a link's fragment.

const by = id => document.getElementById(id);
const SAMPLER = [
  ["max_steps", "Steps of a canvas", "a canvas gets so many at most", 1, 1000, 1],
  ["entropy_bound", "Entropy bound", "nats that one step may accept; less is slower and surer", 0.001, 100, "any"],
  ["t_max", "Temperature, first step", "", 0.01, 10, "any"],
  ["t_min", "Temperature, last step", "", 0, 10, "any"],
  ["confidence_threshold", "Settled below", "nats, the mean of a canvas that may stop early", 0.000001, 100, "any"],
  ["stability_threshold", "Steps that must agree", "", 0, 100, 1],
];
const OWN = [
  ["seed", "Seed", "empty: another one each time", 0, Number.MAX_SAFE_INTEGER, 1],
  ["max_tokens", "Tokens of an answer", "at most", 1, 1048576, 1],
  ["canvas", "Canvas", "positions of a canvas, from 16 on", 16, 4096, 1],
];

export class Settings {
  /** @param about of /page/about; null while it is not known. */
  constructor() {
    this.fields = new Map();
    for (const [name, ...rest] of [...OWN, ...SAMPLER]) this.#field(name, rest);
  }

  #field(name, [title, hint, min, max, step]) {
    const label = document.createElement("label"), input = document.createElement("input");
    const words = document.createElement("span");
    words.textContent = title;
    Object.assign(input, {type: "number", min, max, step, name, inputMode: "decimal", id: `set-${name}`});
    label.htmlFor = input.id;
    label.append(words, input);
    if (hint) {
      const small = document.createElement("small");
      small.textContent = hint;
      small.id = `hint-${name}`;
      input.setAttribute("aria-describedby", small.id);
      label.append(small);
    }
    by(SAMPLER.some(each => each[0] === name) ? "sampler" : "own").append(label);
    this.fields.set(name, input);
  }

  /** Show the model's defaults where nothing is set. */
  defaults(about) {
    this.about = about;
    for (const [name, value] of Object.entries(about.settings)) {
      const field = this.fields.get(name);
      if (field) field.placeholder = `${value}`;
    }
    this.fields.get("max_tokens").placeholder = about.max_tokens;
    this.fields.get("canvas").placeholder = about.canvas;
    this.fields.get("canvas").max = about.canvas;
    by("think-row").hidden = !about.thinks;
  }

  /** The first thing that is wrong, as a sentence; "" for nothing. */
  fault() {
    for (const [name, field] of this.fields) {
      if (!field.checkValidity()) return `Settings: ${name} — ${field.validationMessage}`;
    }
    return "";
  }

  value(name) {
    const field = this.fields.get(name);
    return field.value === "" ? undefined : +field.value;
  }

  get pace() { return +by("pace").value; }
  get thinks() { return by("think").checked && !by("think-row").hidden; }
  get turbo() { return by("turbo").checked; }
  get system() { return by("system").value; }

  /** The sampler's settings that differ from the file's. */
  get sampler() {
    const given = SAMPLER.map(([name]) => [name, this.value(name)]).filter(([, value]) => value !== undefined);
    return Object.fromEntries(given);
  }

  /** Fields of /page/answer. */
  request() {
    const {sampler} = this, seed = this.value("seed"), canvas = this.value("canvas");
    return {
      max_tokens: this.value("max_tokens") ?? this.about?.max_tokens,
      ...(Object.keys(sampler).length ? {sampler} : {}),
      ...(seed === undefined ? {} : {seed}),
      ...(canvas === undefined ? {} : {canvas}),
      ...(this.thinks ? {reasoning_effort: "medium"} : {}),
      ...(this.turbo ? {turbo: true} : {}),
    };
  }

  /** As parts of a link; the seed is the answer's. */
  link(mode, seed, parts) {
    const fields = new URLSearchParams({mode});
    for (const name of this.fields.keys()) {
      if (name !== "seed" && this.fields.get(name).value !== "") fields.set(name, this.fields.get(name).value);
    }
    if (seed !== null) fields.set("seed", seed);
    if (this.thinks) fields.set("think", "1");
    if (this.turbo) fields.set("turbo", "1");
    if (this.system) fields.set("system", this.system);
    for (const [name, value] of Object.entries(parts)) fields.set(name, value);
    const address = new URL(location.href);
    address.hash = fields.toString();
    return address.href;
  }

  /** Take what a link says. Nothing is sent. */
  read(fields) {
    for (const [name, field] of this.fields) field.value = fields.get(name) ?? "";
    by("think").checked = fields.get("think") === "1";
    by("turbo").checked = fields.get("turbo") === "1";
    by("system").value = fields.get("system") ?? "";
  }
}
