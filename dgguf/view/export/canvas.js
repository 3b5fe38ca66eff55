// How a canvas is drawn in a browser. The exported page holds this file, and the server's page imports it.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, and a text that is never read as markup. */
export function element(name, attributes = {}, text = undefined) {
  const made = ["svg", "path", "polyline", "line"].includes(name)
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Draw spans into an element, over those that stand there: what has not changed is not touched.
 * A span is [text, style, position on the canvas or null, marks]; marks: 1 a thought, 2 pinned.
 */
export function drawSpans(parent, spans) {
  let child = parent.firstElementChild;
  for (const [text, style, position, marks] of spans) {
    const next = child ? child.nextElementSibling : null;
    const span = child ?? parent.appendChild(document.createElement("span"));
    const look = style + (marks & 1 ? " thought-in" : "") + (marks & 2 ? " pinned" : "");
    if (span.className !== look) span.className = look;
    if (span.textContent !== text) span.textContent = text;
    const place = position === null ? undefined : String(position);
    if (span.dataset.p !== place) {
      if (place === undefined) delete span.dataset.p; else span.dataset.p = place;
    }
    child = next;
  }
  while (child) {
    const next = child.nextElementSibling;
    child.remove();
    child = next;
  }
}

/**
 * Draw the mean entropy of steps as a line a block, and the accepted share of positions as bars, 1000 x 120.
 * A step is {at: its frame, block, mean: nats, share}; last is the number of the last frame.
 */
export function drawCurve(svg, steps, last) {
  const top = Math.max(1e-9, ...steps.map(step => step.mean));
  const width = 1000 / Math.max(1, last), wide = Math.max(1, width - 1);
  const bars = steps.map(({at, share}) =>
    `M${at * width - width / 2 + 0.5} 120h${wide}v${-110 * share}h${-wide}z`);
  const parts = [element("path", {d: bars.join(""), class: "share"})];
  for (const block of new Set(steps.map(step => step.block))) {
    const points = steps.filter(step => step.block === block)
      .map(({at, mean}) => `${at * width},${115 - 105 * mean / top}`);
    parts.push(element("polyline", {points: points.join(" "), class: "mean"}));
  }
  parts.push(element("line", {y1: 0, y2: 120, x1: 0, x2: 0, class: "now"}));
  svg.replaceChildren(...parts);
}

/** Move the line of the frame that is shown. */
export function moveCurve(svg, now, last) {
  const x = last ? 1000 * now / last : 0;
  svg.lastChild.setAttribute("x1", x);
  svg.lastChild.setAttribute("x2", x);
}

/** What is told of a position: its token, how sure it is, and where known the likeliest tokens. */
export function tipText({position, text, token, entropy, accepted, changes, top = []}) {
  return `position ${position}: “${text}” (token ${token})\n` +
    `entropy ${entropy.toFixed(4)} nats · ${accepted ? "accepted" : "thrown back into noise"}\n` +
    `changed ${changes} time${changes === 1 ? "" : "s"} so far` +
    (top.length ? "\n\n" + top.map(([likely, probability]) => {
      const bar = "█".repeat(Math.round(12 * probability)).padEnd(12, "·");
      return `${(100 * probability).toFixed(1).padStart(5)} % ${bar} ${likely}`;
    }).join("\n") : "");
}
