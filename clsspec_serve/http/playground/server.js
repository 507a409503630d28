/** Requests to the server that this page came from. */

const KEY = "clsspec-api-key";

/** The API key for as long as this tab is open; "" without one. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** A request that failed, with a line for people; status 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The address of a route, beside this page. */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  url.search = new URLSearchParams(query);
  return url.href;
}

/** The answer to a GET, or to a POST of a file; throws `Refused`, or AbortError after an abort. */
export async function ask(path, query, body, signal) {
  const headers = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
  // The server looks at the bytes, as it does for curl; not at what a system calls the file.
  if (body) headers["Content-Type"] = "application/octet-stream";
  const method = body ? "POST" : "GET";
  let answer;
  try {
    answer = await fetch(address(path, query), { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The file could not be read, or the server could not be reached.");
  }
  if (!answer.ok) throw new Refused(answer.status, await reason(answer));
  return answer;
}

/** Where the time went, from an answer's Server-Timing: "decode 4 ms, model 18 ms". */
export function timing(answer) {
  const parts = (answer.headers.get("Server-Timing") ?? "").split(",");
  return parts
    .map((part) => /^\s*(\w+);dur=([\d.]+)/.exec(part))
    .filter(Boolean)
    .map(([, name, milliseconds]) => `${name} ${rounded(Number(milliseconds))} ms`)
    .join(", ");
}

function rounded(milliseconds) {
  return milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status} ${answer.statusText}`.trim();
  }
}
