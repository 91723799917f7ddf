// ---------------------------------------------------------------- the generator, its weights and its noise

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const n = facts.noise, FINAL = facts.checkpoints.length, SIDE_LIMIT = 3;

const bytesOf = (id) => Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));

// The upper 24 bits of float32.
function from24(bytes) {
  const bits = new Uint32Array(bytes.length / 3);
  for (let i = 0, k = 0; i < bits.length; i++, k += 3) bits[i] = (bytes[k] << 8) | (bytes[k + 1] << 16) | (bytes[k + 2] << 24);
  return new Float32Array(bits.buffer);
}

// float16: a sign, 5 bits of exponent, and 10 bits of fraction.
function from16(bytes) {
  const found = new Float32Array(bytes.length / 2);
  for (let i = 0; i < found.length; i++) {
    const half = bytes[2 * i] | (bytes[2 * i + 1] << 8), exponent = (half >> 10) & 31, fraction = half & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
    found[i] = half & 0x8000 ? -size : size;
  }
  return found;
}

function named(numbers) {
  const W = {};
  let at = 0;
  for (const [name, size] of facts.arrays) W[name] = numbers.subarray(at, (at += size));
  return W;
}

const networks = [];
const networkOf = (i) => (networks[i] ??= network(named(i === FINAL ? from24(bytesOf("weights")) : from16(bytesOf(`weights-${i}`)))));

// Random numbers (mulberry32), the same in every visit: a page that is opened again shows the same samples.
let seed = 20140610;
function random() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
}
const normal = () => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
const noise = () => Float32Array.from({ length: n }, normal);
const uniforms = () => Float32Array.from({ length: facts.uniform }, random);
const draw = () => ({ z: noise(), uniform: uniforms() });

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const norm = (a) => Math.sqrt(dot(a, a));
const mix = (a, b, s, t) => a.map((v, i) => s * v + t * b[i]);

function walked(a, b, t, path) {
  if (path === "linear") return mix(a, b, 1 - t, t);
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / (norm(a) * norm(b) || 1))));
  if (angle < 1e-4) return mix(a, b, 1 - t, t);
  return mix(a, b, Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle));
}

// ---------------------------------------------------------------- state

const view = VIEWS[facts.view](facts);
const state = { ...draw(), label: 0, checkpoint: FINAL, a: draw(), b: draw(), u: null, v: null, path: "spherical", many: [] };
const generate = (z, label = state.label, uniform = state.uniform) => networkOf(state.checkpoint)(z, label, uniform);

function newDirections() {
  if (n === 1) return void ([state.u, state.v] = [Float32Array.of(1), Float32Array.of(0)]);
  if (n === 2) return void ([state.u, state.v] = [Float32Array.of(1, 0), Float32Array.of(0, 1)]);
  const u = noise(), v = noise();
  state.u = u.map((x) => x / norm(u));
  const rest = mix(v, state.u, 1, -dot(v, state.u));
  state.v = rest.map((x) => x / norm(rest));
}

// Pictures that are not needed at once are drawn by tasks, between the frames. A task with the same key replaces another.
const tasks = new Map();
let waiting = false;
function later(key, steps) {
  tasks.delete(key);
  tasks.set(key, steps);
  if (waiting) return;
  waiting = true;
  document.querySelector("main").setAttribute("aria-busy", "true");
  requestAnimationFrame(work);
}
function work() {
  const end = performance.now() + 12;
  while (tasks.size && performance.now() < end) {
    const [key, steps] = tasks.entries().next().value;
    if (steps.next().done) tasks.delete(key);
  }
  waiting = tasks.size > 0;
  if (!waiting) document.querySelector("main").setAttribute("aria-busy", "false");
  if (waiting) requestAnimationFrame(work);
}

// ---------------------------------------------------------------- the sample, and all controls that show where it is

const typical = [Math.sqrt(Math.max(n - 0.5, 0.25)), Math.SQRT1_2]; // mean and standard deviation of the distance of noise
const farthest = Math.max(2 * Math.sqrt(n), 4);

function show() {
  const x = generate(state.z);
  view.show(x);
  const distance = norm(state.z);
  const label = facts.classes.length ? ` of ${facts.classes[state.label]}` : "";
  const said = `Generated ${view.noun}${label}, ${distance.toFixed(1)} from the origin. ${view.describe(x)}`;
  if (view.main.tagName === "CANVAS") view.main.setAttribute("aria-label", said);
  $("distance").value = distance;
  $("distance-text").textContent = distance.toFixed(2);
  const [across, up] = [dot(state.z, state.u), dot(state.z, state.v)];
  $("across").value = across;
  $("up").value = up;
  const place = (v) => 50 + (50 * Math.min(SIDE_LIMIT, Math.max(-SIDE_LIMIT, v))) / SIDE_LIMIT;
  $("knob").style.left = `${place(across)}%`;
  $("knob").style.top = `${100 - place(up)}%`;
  $("pad").classList.toggle("far", Math.max(Math.abs(across), Math.abs(up)) > SIDE_LIMIT);
  coordinates.forEach((input, i) => (input.value = state.z[i]));
  clearTimeout(show.said);
  show.said = setTimeout(() => ($("status").textContent = said), 600);
}

// z has moved: `plane` says whether it left the plane that is drawn, so that the plane must be drawn again.
function moved(z, plane = true) {
  state.z = Float32Array.from(z);
  show();
  if (plane) drawPlane();
}

function drawPlane() {
  const rest = mix(mix(state.z, state.u, 1, -dot(state.z, state.u)), state.v, 1, -dot(state.z, state.v));
  const cells = [...$("cells").children], side = Math.sqrt(cells.length);
  const order = cells.map((cell, i) => {
    const [row, column] = [Math.floor(i / side), i % side];
    const [a, b] = [((column + 0.5) / side) * 2 - 1, 1 - ((row + 0.5) / side) * 2].map((v) => v * SIDE_LIMIT);
    return { cell, a, b };
  });
  order.sort((p, q) => Math.hypot(p.a, p.b) - Math.hypot(q.a, q.b));
  later("plane", (function* () {
    for (const { cell, a, b } of order) {
      view.paint(cell, generate(mix(mix(rest, state.u, 1, a), state.v, 1, b)));
      yield;
    }
  })());
}

// ---------------------------------------------------------------- walks, and many samples

const STEPS = 9;

function tile(parent, text, action, caption) {
  const button = parent.appendChild(make("button", undefined, { type: "button", class: "tile", "aria-label": text }));
  const canvas = button.appendChild(make("canvas", undefined, { width: view.size[0], height: view.size[1] }));
  if (caption !== undefined) button.appendChild(make("small", caption));
  button.addEventListener("click", action);
  return canvas;
}

function rowsInto(parent, entries, first) {
  const box = make("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": first });
  const table = box.appendChild(make("table")), head = table.appendChild(make("thead")).appendChild(make("tr"));
  for (const name of [first, ...view.heads]) head.appendChild(make("th", undefined, { scope: "col" })).append(make("bdi", name));
  const body = table.appendChild(make("tbody"));
  for (const { name, z, label, uniform } of entries) {
    const line = body.appendChild(make("tr")), th = line.appendChild(make("th", undefined, { scope: "row" }));
    th.append(make("bdi", name));
    for (const text of view.rows(generate(z, label, uniform))) line.append(view.cell("td", text));
  }
  parent.replaceChildren(box);
}

function drawWalks() {
  const distances = [];
  const parts = ["linear", "spherical"].map((path) => [path, Array.from({ length: STEPS }, (_, i) => walked(state.a.z, state.b.z, i / (STEPS - 1), path))]);
  $("walks").replaceChildren();
  for (const [path, places] of parts) {
    if (view.rows) {
      if (path !== state.path) continue;
      const entries = places.map((z, i) => ({ name: `${i} of ${STEPS - 1}, ${norm(z).toFixed(1)}`, z, label: state.label, uniform: state.a.uniform }));
      rowsInto($("walks"), entries, "step, distance");
      continue;
    }
    const strip = $("walks").appendChild(make("div", undefined, { class: "strip" }));
    strip.style.setProperty("--count", STEPS);
    strip.append(make("span", path));
    const canvases = places.map((z, i) => tile(strip, `${path}, step ${i} of ${STEPS - 1}, ${norm(z).toFixed(1)} from the origin`, () => step(i / (STEPS - 1), path), norm(z).toFixed(1)));
    later(`walk ${path}`, (function* () {
      for (const [i, canvas] of canvases.entries()) yield view.paint(canvas, generate(places[i]));
    })());
  }
  for (const end of ["a", "b"]) {
    if (view.rows) {
      $(end).parentElement.querySelector("figcaption").textContent = `${end.toUpperCase()}: ${norm(state[end].z).toFixed(1)} from the origin`;
      continue;
    }
    $(end).replaceChildren();
    view.paint(tile($(end), `Go to ${end.toUpperCase()}`, () => moved(state[end].z)), generate(state[end].z, state.label, state[end].uniform));
  }
}

function step(t, path = state.path) {
  state.path = path;
  document.querySelector(`input[name="path"][value="${path}"]`).checked = true;
  $("step").value = t;
  $("step-text").textContent = `${Math.round(100 * t)} % of the way`;
  if (view.rows) state.uniform = state.a.uniform;
  moved(walked(state.a.z, state.b.z, t, path));
}

// The labels of many samples: a column for each class if these are few.
const columns = facts.classes.length >= 2 && facts.classes.length <= 20 ? facts.classes.length : 10;
const gridLabel = (i) => (facts.classes.length ? i % facts.classes.length : 0);

function drawMany() {
  if (!state.many.length) state.many = Array.from({ length: view.rows ? 20 : columns * 5 }, draw);
  const box = $("grid");
  if (view.whole) {
    const canvas = make("canvas", undefined, { role: "img", "aria-label": "2,000 noise vectors, and the points that the generator makes of them, in the same colours", class: "smooth" });
    box.replaceChildren(canvas);
    return void view.whole(canvas);
  }
  if (view.rows) {
    return void rowsInto(box, state.many.map((one, i) => ({ ...one, name: String(i + 1), label: gridLabel(i) })), "row");
  }
  if (!box.children.length) {
    box.className = "tiles";
    box.style.setProperty("--count", columns);
    if (facts.classes.length === columns) for (const name of facts.classes) box.append(make("bdi", name, { class: "head", title: name }));
    state.tiles = state.many.map((_, i) => tile(box, `Sample ${i + 1}: make it the sample`, () => {
      if (facts.classes.length) setLabel(gridLabel(i), false);
      moved(state.many[i].z);
      drawWalks();
      $("sample").scrollIntoView({ block: "nearest" });
    }));
  }
  later("many", (function* () {
    for (const [i, canvas] of state.tiles.entries()) yield view.paint(canvas, generate(state.many[i].z, gridLabel(i)));
  })());
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = make("a", undefined, { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

function saveGrid() {
  if (view.rows) {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = [view.heads, ...state.many.map((one, i) => view.rows(generate(one.z, gridLabel(i), one.uniform)))];
    const blob = new Blob([lines.map((line) => line.map(quoted).join(",") + "\n").join("")], { type: "text/csv" });
    const link = make("a", undefined, { href: URL.createObjectURL(blob), download: "rows.csv" });
    link.click();
    return;
  }
  if (view.whole) return save($("grid").firstChild, "points.png");
  const [W, H] = view.size, SCALE = Math.max(1, Math.round(84 / W)), GAP = 2;
  const rows = Math.ceil(state.many.length / columns), sheet = make("canvas");
  [sheet.width, sheet.height] = [columns * (SCALE * W + GAP) + GAP, rows * (SCALE * H + GAP) + GAP];
  const pen = sheet.getContext("2d"), one = make("canvas");
  pen.fillStyle = "#303030";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.imageSmoothingEnabled = false;
  state.many.forEach(({ z }, i) => {
    view.paint(one, generate(z, gridLabel(i)));
    pen.drawImage(one, GAP + (i % columns) * (SCALE * W + GAP), GAP + Math.floor(i / columns) * (SCALE * H + GAP), SCALE * W, SCALE * H);
  });
  save(sheet, "samples.png");
}

// ---------------------------------------------------------------- controls

function drawOther() {
  const { z, uniform } = draw();
  return [generate(z, state.label, uniform), z];
}

function everything() {
  view.refresh?.(drawOther);
  show();
  drawPlane();
  drawWalks();
  drawMany();
}

function setLabel(label, all = true) {
  state.label = label;
  [...$("labels").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === label)));
  if (all) {
    view.refresh?.(drawOther);
    show();
    drawPlane();
    drawWalks();
  }
}

const coordinates = Array.from({ length: n }, (_, i) => {
  const label = $("coordinates").appendChild(make("label", `z${i + 1}`));
  const input = label.appendChild(make("input", undefined, { type: "range", min: -4, max: 4, step: 0.01 }));
  input.addEventListener("input", () => {
    state.z[i] = Number(input.value);
    moved(state.z);
  });
  return input;
});

$("name").textContent = facts.name;
if (view.planeAbout) $("plane-about").textContent = view.planeAbout;
$("facts-line").textContent = facts.line;
$("sample").append(view.main);
$("coordinates-about").textContent = `${n.toLocaleString("en")} numbers, each drawn from a normal distribution with mean 0 and standard deviation 1.`;
$("distance").max = farthest;
const band = $("typical").firstChild, [mean, deviation] = typical;
band.style.left = `${(100 * Math.max(0, mean - 2 * deviation)) / farthest}%`;
band.style.width = `${(100 * Math.min(farthest - Math.max(0, mean - 2 * deviation), 4 * deviation)) / farthest}%`;
$("typical-text").textContent = `The bar marks where 95% of all noise is: around ${mean.toFixed(1)}.`;

facts.classes.forEach((name, i) => {
  const button = $("labels").appendChild(make("button", undefined, { type: "button", "aria-pressed": "false" }));
  button.append(make("bdi", name));
  button.addEventListener("click", () => setLabel(i));
});
$("labels-field").hidden = !facts.classes.length;

$("scrubber-field").hidden = !FINAL;
$("no-scrubber").hidden = !facts.noScrubber;
$("no-scrubber").textContent = facts.noScrubber;
const SCRUBBED = [...facts.checkpoints, facts.last];
$("scrubber").max = FINAL;
$("scrubber").value = FINAL;
$("scrubber").addEventListener("input", () => {
  state.checkpoint = Number($("scrubber").value);
  scrubbed();
  everything();
});
function scrubbed() {
  $("scrubber-text").textContent = SCRUBBED[state.checkpoint];
  $("scrubber").setAttribute("aria-valuetext", SCRUBBED[state.checkpoint]);
}

$("new").addEventListener("click", () => {
  state.uniform = uniforms();
  moved(noise());
});
$("redraw").hidden = !facts.uniform;
$("redraw").addEventListener("click", () => {
  state.uniform = uniforms();
  moved(state.z);
});
$("save-sample").hidden = Boolean(view.rows);
$("save-sample").addEventListener("click", () => {
  const sheet = make("canvas"), source = view.main, scale = Math.max(1, Math.round(400 / source.width));
  [sheet.width, sheet.height] = [scale * source.width, scale * source.height];
  const pen = sheet.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(source, 0, 0, sheet.width, sheet.height);
  save(sheet, "sample.png");
});
$("distance").addEventListener("input", () => {
  const now = norm(state.z) || 1, wanted = Math.max(Number($("distance").value), 1e-3);
  moved(state.z.map((v) => (v * wanted) / now));
});

// The plane: dragging, arrow keys, and a slider for each direction.
function toPlane(a, b) {
  const [da, db] = [a - dot(state.z, state.u), b - dot(state.z, state.v)];
  moved(mix(mix(state.z, state.u, 1, da), state.v, 1, db), false);
}
function dragged(event) {
  const box = $("pad").getBoundingClientRect(), limit = (v) => Math.min(1, Math.max(-1, v)) * SIDE_LIMIT;
  toPlane(limit(((event.clientX - box.left) / box.width) * 2 - 1), limit(1 - ((event.clientY - box.top) / box.height) * 2));
}
$("pad").addEventListener("pointerdown", (event) => {
  $("pad").setPointerCapture(event.pointerId);
  dragged(event);
});
$("pad").addEventListener("pointermove", (event) => {
  if ($("pad").hasPointerCapture(event.pointerId)) dragged(event);
});
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
$("pad").addEventListener("keydown", (event) => {
  if (event.key === "Home") toPlane(0, 0);
  else if (KEYS[event.key]) {
    const [a, b] = KEYS[event.key].map((v) => v * (event.shiftKey ? 0.5 : 0.1));
    toPlane(dot(state.z, state.u) + a, dot(state.z, state.v) + b);
  } else return;
  event.preventDefault();
});
for (const id of ["across", "up"]) $(id).addEventListener("input", () => toPlane(Number($("across").value), Number($("up").value)));
$("centre").addEventListener("click", () => toPlane(0, 0));
$("directions").hidden = n <= 2;
$("directions").addEventListener("click", () => {
  newDirections();
  moved(state.z);
});

for (const end of ["a", "b"]) {
  $(`set-${end}`).addEventListener("click", () => {
    state[end] = { z: state.z.slice(), uniform: state.uniform.slice() };
    drawWalks();
  });
}
$("step").addEventListener("input", () => step(Number($("step").value)));
$("step-text").textContent = "0 % of the way";
for (const input of document.querySelectorAll('input[name="path"]')) {
  input.addEventListener("change", () => {
    state.path = input.value;
    if (view.rows) drawWalks();
    step(Number($("step").value));
  });
}
$("more").addEventListener("click", () => {
  state.many = [];
  view.refresh?.(drawOther);
  drawMany();
});
$("save-grid").textContent = view.rows ? "Save as CSV" : "Save as PNG";
$("save-grid").addEventListener("click", saveGrid);

if (view.colours) {
  $("colour-field").hidden = $("legend").hidden = false;
  view.colours.forEach((name, i) => $("colour").append(make("option", name, { value: i })));
  const legend = () => $("legend").replaceChildren(...view.legend().map(([fill, text]) => {
    const entry = make("span"), mark = entry.appendChild(make("i"));
    mark.style.background = fill;
    entry.append(make("bdi", text));
    return entry;
  }));
  $("colour").value = view.colours.indexOf(view.colourStart);
  $("colour").addEventListener("change", () => {
    view.colourBy(Number($("colour").value));
    legend();
    drawPlane();
  });
  legend();
}

// ---------------------------------------------------------------- start

// The time of a sample decides how many cells the plane has. The first calls are slow, because they are not compiled yet.
function timed(count) {
  const start = performance.now();
  for (let i = 0; i < count; i++) generate(state.z);
  return (performance.now() - start) / count;
}
newDirections();
let took = Infinity;
for (let i = 0, end = performance.now() + 300; i < 4 || (i < 10 && performance.now() < end); i++) took = Math.min(took, timed(1));
const side = took > 40 ? 5 : took > 12 || view.cells ? (view.cells ?? 7) : 9;
$("cells").style.setProperty("--side", side);
for (let i = 0; i < side * side; i++) $("cells").append(make("canvas", undefined, { width: view.size[0], height: view.size[1] }));
scrubbed();
setLabel(0, false);
everything();
setTimeout(() => {
  const ms = Math.min(...Array.from({ length: 5 }, () => timed(took > 20 ? 1 : 10)));
  $("time").textContent = `${ms < 0.1 ? "less than 0.1" : ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms for ${/^[aeiou]/.test(view.noun) ? "an" : "a"} ${view.noun}`;
}, 1500);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", everything);
