// Images of a message: dropped, pasted or chosen; the server says how many tokens each takes, or that it sees none.

import {button} from "./answer-view.js";
import {json} from "./api.js";
import {element} from "./canvas.js";
import {safe} from "./recording.js";

const by = id => document.getElementById(id);
const MOST = 5 << 20; // bytes; as text they are a third more, and the server takes 8 MB
let kept = [];

export function images() { return kept; }

export function clearImages() {
  kept = [];
  show();
}

function show() {
  by("thumbs").hidden = !kept.length;
  by("thumbs").replaceChildren(...kept.map(image => {
    const cell = element("figure");
    cell.append(image.thumb.cloneNode(), element("figcaption", {}, `${image.tokens} tokens`),
      button("×", () => { kept = kept.filter(each => each !== image); show(); }, {"aria-label": `take ${image.name} away`}));
    cell.firstChild.getContext("2d").drawImage(image.thumb, 0, 0);
    return cell;
  }));
}

/** A small picture, drawn: no address of an image is ever loaded. */
async function thumbnail(file) {
  const bitmap = await createImageBitmap(file), scale = Math.min(1, 96 / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", {class: "thumb", role: "img", "aria-label": safe(file.name, true) || "a pasted image"});
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

async function add(files, tell) {
  for (const file of files) {
    try {
      if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no image.`);
      if (file.size > MOST) throw new Error(`${file.name} has more than 5 MB: make it smaller.`);
      tell("looking at the image …", false);
      const url = await dataUrl(file), {tokens} = await json("page/image", {url});
      const thumb = await thumbnail(file).catch(() => { throw new Error(`${file.name} is no image that opens here.`); });
      kept.push({url, tokens, thumb, name: safe(file.name, true) || "the pasted image"});
      tell("", false);
      show();
    } catch (failure) {
      tell(failure.message, true);
    }
  }
}

/** @param tell says something beside the composer. */
export function setUpImages(tell) {
  by("attach").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    add([...by("file").files], tell);
    by("file").value = "";
  });
  by("chat").addEventListener("paste", event => {
    const files = [...event.clipboardData.files];
    if (files.length) { event.preventDefault(); add(files, tell); }
  });
  addEventListener("dragover", event => event.preventDefault());
  addEventListener("drop", event => {
    event.preventDefault(); // the browser must not leave the page for a file
    if (!by("chat").hidden) add([...event.dataTransfer.files], tell);
  });
}
