// Asks the server: JSON, lines as they come, files. Brings the key, which is kept for this tab alone.

const KEY = "dgguf-key";
let askKey = async () => null, onReach = () => {};

/** A sentence for whoever sees the page. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Say how a key is asked for, and who is told whether the server answers. */
export function connect(handlers) {
  askKey = handlers.askKey;
  onReach = handlers.onReach;
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return {"Content-Type": "application/json", ...(key ? {Authorization: `Bearer ${key}`} : {})};
}

async function ask(path, body, signal) {
  for (let wrong = false; ; wrong = true) {
    let response;
    try {
      const options = {headers: headers(), signal, credentials: "omit"};
      response = await fetch(path, body === undefined ? options : {...options, method: "POST", body: JSON.stringify(body)});
    } catch (error) {
      throw unreached(error);
    }
    onReach(true);
    if (response.status === 401) {
      const key = await askKey(wrong && sessionStorage.getItem(KEY) !== null);
      if (key === null) throw new Failure("The server wants a key.", 401);
      sessionStorage.setItem(KEY, key);
      continue;
    }
    if (!response.ok) throw await failure(response);
    return response;
  }
}

function unreached(error) {
  if (error.name === "AbortError") return error;
  onReach(false);
  return new Failure("The server does not answer. What you wrote is kept: try again when it is back.");
}

async function failure(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON */ }
  const after = response.headers.get("Retry-After");
  return new Failure(message + (after ? ` (in about ${after} s)` : ""), response.status);
}

export async function json(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

export async function blob(path, body) {
  return (await ask(path, body)).blob();
}

/** The lines of an answer, each as [what it says, its text]. An error line is thrown. */
export async function* lines(path, body, signal) {
  const response = await ask(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", whole = false;
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const text of parts) {
        const line = JSON.parse(text);
        if (line.type === "error") throw new Failure(line.error.message);
        whole = line.type === "finished" || line.type === "text" && whole || line.type === "filled";
        yield [line, text];
      }
    }
  } catch (error) {
    throw error instanceof Failure || error.name === "AbortError" ? error : unreached(error);
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!whole) throw unreached(new Error("cut off"));
}
