// The conversation of this tab, kept for when the page is loaded anew: in sessionStorage, which ends with the tab.

const CHAT = "dgguf-chat", RECORDING = "dgguf-recording-";
const MOST = 2 << 20; // characters, of two bytes each: every browser gives some 2.5 million
let saving = Promise.resolve();

/** A recording as text: its bytes are compressed. */
function asText(packed) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(packed);
  });
}

/**
 * Keep a conversation: the texts of its last messages, and recordings of its last answers, as far as there is room.
 * @param settings as parts of a link
 * @param exchanges each {text, lost, current, versions: [{id, text, blocks, packed}]}, where blocks are the pieces
 *   of each canvas's text, and packed is a Blob, or undefined
 */
export function keep(settings, exchanges) {
  saving = saving.then(() => write(settings, exchanges)).catch(() => {}); // the browser keeps nothing
}

async function write(settings, exchanges) {
  const told = [], names = new Map();
  let room = MOST - settings.length;
  for (const exchange of exchanges.toReversed()) {
    const versions = exchange.versions.map(({id, text, blocks}) => ({id, text, blocks}));
    const one = {...exchange, versions}, size = JSON.stringify(one).length;
    if (size > room) break;
    room -= size;
    told.unshift(one);
  }
  for (const {id, packed} of exchanges.flatMap(({versions}) => versions).toReversed()) {
    if (!packed) continue;
    const size = 4 * Math.ceil(packed.size / 3);
    if (size > room) break;
    room -= size;
    names.set(RECORDING + id, packed);
  }
  for (const name of Object.keys(sessionStorage)) {
    if (name.startsWith(RECORDING) && !names.has(name)) sessionStorage.removeItem(name);
  }
  if (!told.length) sessionStorage.removeItem(CHAT);
  else sessionStorage.setItem(CHAT, JSON.stringify({settings, isCut: told.length < exchanges.length, exchanges: told}));
  for (const [name, packed] of names) {
    if (sessionStorage.getItem(name) === null) sessionStorage.setItem(name, await asText(packed));
  }
}

/** Whether there is a conversation that was kept. */
export function isKept() {
  try {
    return sessionStorage.getItem(CHAT) !== null;
  } catch {
    return false;
  }
}

/** The conversation as `keep` got it, without what had no room; isCut: whether messages before it are missing. */
export function kept() {
  try {
    const found = JSON.parse(sessionStorage.getItem(CHAT));
    for (const version of found.exchanges.flatMap(({versions}) => versions)) {
      const text = sessionStorage.getItem(RECORDING + version.id);
      if (text) version.packed = new Blob([Uint8Array.from(atob(text), each => each.charCodeAt(0))]);
    }
    return found;
  } catch {
    return {settings: "", isCut: false, exchanges: []};
  }
}
