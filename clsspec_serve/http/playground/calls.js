/** What the page asked, as a shell and as Python would ask it. */

import { address } from "./server.js";

/**
 * [{title, curl, Python}], each of which gives what the page shows.
 *
 * `result`: the server's JSON for one picture. `model`: its description of the model. `point`: with
 * the `patch` that others are compared with. What sees the picture otherwise when it is asked alone
 * is left to the call for everything.
 */
export function callsFor({ file, keyed, model, result, point }) {
  const shape = `(${result.geometry.image.join(", ")})`;
  const patches = `(${result.patches.shape.join(", ")}) float32`;
  const metres = `${shape} float32, metres`;
  const wide = result.segment && !result.segment.png;
  const ids = `${shape} ${wide ? "uint16" : "uint8"}, class ids`;
  const alone = {
    segment: {
      title: "Mask",
      query: wide ? { format: "npy" } : {},
      save: wide ? "mask.npy" : "mask.png",
      read: `mask = np.load(io.BytesIO(answer.content))  # ${ids}`,
    },
    depth: {
      title: "Depth",
      save: "depth.png",
      read: `depth = np.load(io.BytesIO(answer.content))  # ${metres}`,
    },
    classify: {
      title: "Classes",
      path: "predict",
      query: { tasks: "classify", format: "json" },
      save: "classes.json",
      read: 'classes = answer.json()["results"][0]["classify"]  # the most probable first',
    },
  };
  const calls = [
    {
      title: "Everything",
      path: "predict",
      save: "answer.npz",
      read: [
        "found = np.load(io.BytesIO(answer.content))",
        `patches = found["patches"]  # ${patches}`,
        result.segment && `mask = found["segment"]  # ${ids}`,
        result.depth && `depth = found["depth"]  # ${metres}`,
        result.classify && 'logits = found["classify"]',
      ]
        .filter(Boolean)
        .join("\n"),
    },
    {
      title: "Patches",
      path: "features",
      query: { ...framing(model, model.preprocessing), format: "png" },
      save: "pca.png",
      read: 'Path("pca.png").write_bytes(answer.content)',
    },
  ];
  if (alike(model, model.preprocessing)) {
    calls.push({
      title: "Similarity",
      path: "features",
      query: { ...framing(model, model.preprocessing), format: "npy" },
      save: "patches.npy",
      read: `patches = np.load(io.BytesIO(answer.content))  # ${patches}
unit = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
similarity = unit @ unit[${point.patch.join(", ")}]  # cosines`,
    });
  }
  for (const { task, protocol } of model.heads) {
    if (!alike(model, protocol)) continue;
    const call = { path: task, ...alone[task] };
    // Alone, a head has its own windows and mirror image; among others it has none.
    const whole = protocol.window === null ? {} : { window: 0 };
    const once = protocol.flip ? { flip: false } : {};
    call.query = { ...framing(model, protocol), ...whole, ...once, ...call.query };
    calls.push({ own: { format: "npy", ...call.query }, ...call });
  }
  return calls.map((call) => {
    const { query, own = query } = call;
    return {
      title: call.title,
      curl: curl({ ...call, query: { resize: "fit", ...query } }, file, keyed),
      Python: python({ ...call, query: { resize: "fit", ...own } }, file, keyed),
    };
  });
}

/** What shows a picture to a head, or to the backbone alone, in the size that all tasks have. */
export function framing(model, { size }) {
  const all = shownTo(model).size;
  return String(size) === String(all) ? {} : { size: all.join("x") };
}

function alike(model, { interpolation }) {
  return interpolation === shownTo(model).interpolation;
}

/** All tasks together see a picture as the first head does. */
function shownTo({ heads, tasks, preprocessing }) {
  const first = tasks.map((task) => heads.find((head) => head.task === task)).find(Boolean);
  return first?.protocol ?? preprocessing;
}

function curl({ path, query, save }, file, keyed) {
  const key = '--header "Authorization: Bearer $CLSSPEC_API_KEY"';
  const url = `${quoted(address(path, query))} --output ${save}`;
  return [`curl --data-binary ${quoted(`@${file}`)}`, ...(keyed ? [key] : []), url].join(" \\\n  ");
}

/** A word for a POSIX shell. */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function python({ path, query, read }, file, keyed) {
  const values = Object.entries(query).map(([name, value]) => `"${name}": "${value}"`);
  const key = `    headers={"Authorization": f"Bearer {os.environ['CLSSPEC_API_KEY']}"},\n`;
  return `${read.includes("io.") ? "import io\n" : ""}${keyed ? "import os\n" : ""}from pathlib import Path

import httpx
${read.includes("np.") ? "import numpy as np\n" : ""}
answer = httpx.post(
    ${JSON.stringify(address(path))},
    params={${values.join(", ")}},
${keyed ? key : ""}    content=Path(${JSON.stringify(file)}).read_bytes(),
    timeout=60,
)
answer.raise_for_status()
${read}
`;
}
