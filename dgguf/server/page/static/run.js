// Lets an answer come into a view, and lets the person give it up.

import {lines} from "./api.js";
import {AnswerView} from "./answer-view.js";

/** What the parts of the page share; main.js fills it. */
export const shared = {about: null, settings: null};

/** A view with the options that all answers have. */
export function newView(options) {
  return new AnswerView({levels: shared.about.levels, pace: () => shared.settings.pace,
    name: () => shared.about.model, ...options});
}

/** Whether something can be asked; tells why not. */
export function ready(tell) {
  const fault = shared.about ? shared.settings.fault() : "The server has not answered yet.";
  tell(fault);
  return !fault;
}

/**
 * Ask, and let the lines come into a view until they end or are given up; view.ending says why it was before its end.
 * @param told is called with each line
 */
export async function run(view, path, body, told = () => {}) {
  const controller = new AbortController();
  view.options.stop = () => controller.abort();
  try {
    for await (const [line, text] of lines(path, body, controller.signal)) {
      view.take(line, text);
      told(line);
    }
    view.end();
  } catch (failure) {
    const stopped = failure.name === "AbortError";
    view.ending = {text: stopped ? "stopped" : failure.message, wrong: !stopped};
    view.end(stopped ? "" : failure.message);
    if (stopped) view.say("stopped");
  }
}
