/** The page: takes a photograph, asks the server, shows the answer. */

import { callsFor, framing } from "./calls.js";
import { find, findAll, make } from "./elements.js";
import { prepare, show, shown } from "./panels.js";
import { follow, move } from "./point.js";
import { ask, key, timing } from "./server.js";

export { shown };

let model = null;
let photograph = null;
let running = null;
let asking = null;
let done = "";

/** What the server says of its model, once. */
async function describe() {
  model ??= await (await ask("model")).json();
  find("#model").textContent = [model.name, model.description].filter(Boolean).join(": ");
  find("#change-key").hidden = !key.get();
}

async function look(file) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  await attempt(async () => {
    say(`Looking at ${file.name} …`, true);
    await describe();
    const patches = { resize: "fit", ...framing(model, model.preprocessing), format: "png" };
    const [answer, pca] = await Promise.all([
      ask("predict", { resize: "fit", format: "json" }, file, signal),
      ask("features", patches, file, signal),
    ]);
    const [body, picture] = await Promise.all([answer.json(), pca.blob()]);
    await show(file, body.results[0], picture, signal);
    photograph = file;
    move();
    showCalls();
    document.body.classList.add("seen");
    done = [file.name, timing(answer)].filter(Boolean).join(": ");
  }, signal);
}

/**
 * Does what may be refused: asks for a key where that is the reason, and else says why. With a
 * signal it is what people wait for, unless that is aborted.
 */
async function attempt(work, signal) {
  tell("");
  try {
    await work();
  } catch (error) {
    if (signal?.aborted) return;
    if (error.status === 401 && (await askForKey(key.get() !== ""))) {
      await attempt(work, signal);
      return;
    }
    tell(error.message);
  }
  if (signal && !signal.aborted) say(done);
}

/** Whether a key was given; several who ask at a time get one answer. */
function askForKey(refused) {
  const dialog = find("#key-dialog");
  asking ??= new Promise((resolve) => {
    find("#key-problem").hidden = !refused;
    find("#key").value = dialog.returnValue = "";
    dialog.onclose = () => {
      asking = null;
      if (dialog.returnValue) key.set(find("#key").value);
      resolve(dialog.returnValue !== "");
    };
    dialog.showModal();
  });
  return asking;
}

function say(text, busy = false) {
  find("#status").textContent = text;
  document.body.classList.toggle("busy", busy);
}

function tell(problem) {
  find("#problem").textContent = problem;
  find("#problem").hidden = !problem;
}

function take(files) {
  if (files.length) look(files[0]);
  else tell("That was no file; drop, choose or paste a photograph.");
}

/** The calls for what is shown, with the choices as they were. */
function showCalls() {
  const { result, point } = shown;
  const keyed = Boolean(key.get());
  const calls = callsFor({ file: photograph.name, keyed, model, result, point });
  const title = chosen("what", calls.map((call) => call.title));
  const language = chosen("how", ["curl", "Python"]);
  find("#code").textContent = calls.find((call) => call.title === title)[language];
  find("#copy").textContent = "Copy";
}

/** Which option of a group is chosen; its radio buttons are made where the options are new. */
function chosen(name, options) {
  const inputs = findAll(`#${name} input`);
  const before = inputs.find((input) => input.checked)?.value;
  if (String(inputs.map((input) => input.value)) === String(options)) return before;
  const value = options.includes(before) ? before : options[0];
  const labels = options.map((option) => {
    const properties = { type: "radio", name, value: option, checked: option === value };
    return make("label", {}, make("input", { ...properties, onchange: showCalls }), option);
  });
  find(`#${name}`).replaceChildren(...labels);
  return value;
}

async function copy() {
  const code = find("#code");
  // Without https there is no clipboard to write to, but there is a selection.
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(code.textContent);
  } else {
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  find("#copy").textContent = "Copied";
}

function start() {
  prepare();
  follow(showCalls);
  find("#file").onchange = ({ target }) => {
    take(target.files);
    target.value = "";
  };
  for (const name of ["dragover", "dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  addEventListener("paste", ({ clipboardData: { files } }) => files.length && take(files));
  find("#copy").onclick = copy;
  find("#change-key").onclick = () => askForKey(false);
  find("#key-dialog .quiet").onclick = () => find("#key-dialog").close();
  attempt(describe);
}

start();
