// The page: what is chosen, what is drawn, which Gaussian is pointed at.

const FRAME_MS = 40; // a picture that takes longer is drawn coarsely while something moves
const REST_MS = 140; // and finely after so long without
const splats = new Splats(data);
const depthScale = { ...data.depthScale, colors: decode(data.depthScale.colors) };
const byId = (id) => document.getElementById(id);
const { width, height, k } = data;

const state = {
  picture: "render",
  mode: "nearest",
  nearest: k,
  slab: [0, k],
  layer: 1,
  layers: data.layers,
  point: null, // x, y in px: pixel pointed at
  held: false, // whether the point stays where it is
};

// --- which Gaussians ---------------------------------------------------------------------------------

/** The rank before which layer `number` of the chosen N ends; larger layers come first, as in zeroshot/layers.py. */
function layerEnd(number) {
  return number * Math.floor(k / state.layers) + Math.min(number, k % state.layers);
}

/** The depth ranks drawn, [from, to), counted from 0. */
function range() {
  if (state.mode === "nearest") return [0, state.nearest];
  if (state.mode === "slab") return state.slab;
  return [layerEnd(state.layer - 1), layerEnd(state.layer)];
}

const clamp = (value, low, high) => Math.min(Math.max(Math.round(value) || 0, low), high);

const set = {
  nearest: (value) => (state.nearest = clamp(value, 0, k)),
  slabFrom: (value) => (state.slab[0] = clamp(value, 0, state.slab[1] - 1)),
  slabTo: (value) => (state.slab[1] = clamp(value, state.slab[0] + 1, k)),
  layer: (value) => (state.layer = clamp(value, 1, state.layers)),
  layers(value) {
    state.layers = clamp(value, 1, k);
    set.layer(state.layer);
  },
};

/** Move what is drawn by `steps`: K, the slab as a whole, or the layer. */
function step(steps) {
  if (state.mode === "nearest") set.nearest(state.nearest + steps);
  if (state.mode === "layer") set.layer(state.layer + steps);
  if (state.mode === "slab") {
    const [from, to] = state.slab;
    const by = clamp(steps, -from, k - to);
    state.slab = [from + by, to + by];
  }
}

// --- drawing -----------------------------------------------------------------------------------------

const canvas = byId("render");
const context = canvas.getContext("2d", { alpha: false });
let drawer = newDrawer(location.hash);
let frame = 0; // asked for and not yet drawn
let rest = 0; // timer of the fine picture
let finest = 0; // how long the last fine picture took, ms

/** WebGL 2 on a graphics card, JavaScript elsewhere; `#renderer=webgl` and `#renderer=javascript` force one. */
function newDrawer(hash) {
  const size = [splats, width, height, depthScale];
  if (!hash.includes("renderer=javascript")) {
    try {
      const webgl = new WebGLDrawer(...size);
      if (hash.includes("renderer=webgl") || webgl.isFast(FRAME_MS)) return webgl;
    } catch (error) {
      console.info(`Drawing without WebGL: ${error.message}`);
    }
  }
  return new JavaScriptDrawer(...size);
}

/** Draw at the next frame: at once finely if that is quick, else coarsely now and finely when all is still. */
function requestDraw() {
  clearTimeout(rest);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const stride = Math.ceil(Math.sqrt(finest / FRAME_MS)) || 1;
    draw(stride);
    if (stride > 1) rest = setTimeout(() => draw(1), REST_MS);
  });
}

function draw(stride) {
  const [from, to] = range();
  if (state.picture === "render" || state.picture === "depth") {
    const begin = performance.now();
    const picture = drawNow({ from, to, stride, depth: state.picture === "depth" });
    context.imageSmoothingEnabled = stride > 1;
    context.drawImage(picture, 0, 0, width, height);
    const elapsed = performance.now() - begin;
    if (stride === 1) finest = elapsed;
    byId("drawer").textContent = `Drawn with ${drawer.name} in ${elapsed < 1 ? "<\u20091" : Math.round(elapsed)} ms.`;
    Object.assign(canvas.dataset, { shown: `${state.picture} ${from} ${to} ${stride}`, ms: elapsed.toFixed(2) });
  }
  drawMarks();
}

function drawNow(view) {
  try {
    return drawer.draw(view);
  } catch (error) {
    console.info(`Drawing without WebGL: ${error.message}`);
    drawer = new JavaScriptDrawer(splats, width, height, depthScale);
    return drawer.draw(view);
  }
}

/** Empty a canvas and make it as sharp as the screen; its context measures in CSS pixels. */
function sharp(element) {
  const ratio = devicePixelRatio;
  const size = [element.clientWidth, element.clientHeight];
  const [across, down] = size.map((side) => Math.round(side * ratio));
  if (element.width !== across || element.height !== down) [element.width, element.height] = [across, down];
  const pen = element.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, ...size);
  return [pen, ...size];
}

/** Centres, the cross and the ellipse, over the picture. */
function drawMarks() {
  const [pen, across] = sharp(byId("marks"));
  const scale = across / width;
  if (byId("show-centres").checked) drawCentres(pen, scale);
  if (!state.point) return;
  const { index } = ownerAt(state.point);
  if (index >= 0) {
    for (const deviations of [2, 1]) drawEllipse(pen, scale, index, deviations);
  }
  const [x, y] = state.point.map((place) => (place + 0.5) * scale);
  twice(pen, 1.25, () => {
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + 3 * dx, y + 3 * dy);
      pen.lineTo(x + 8 * dx, y + 8 * dy);
    }
  });
}

/** Centres of the Gaussians drawn, farthest first; as opaque, and with as large an area, as they are opaque. */
function drawCentres(pen, scale) {
  const [from, to] = range();
  pen.lineWidth = 1;
  for (let i = to - 1; i >= from; i--) {
    const opacity = splats.opacity[i];
    pen.globalAlpha = opacity;
    pen.beginPath();
    pen.arc(splats.x[i] * scale, splats.y[i] * scale, 1 + 2.5 * Math.sqrt(opacity), 0, 7);
    pen.fillStyle = state.picture === "blank" ? color(i) : "#ffffff";
    pen.strokeStyle = state.picture === "blank" ? "#8e8e93" : "#1c1c1e";
    pen.fill();
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

function drawEllipse(pen, scale, index, deviations) {
  const [long, short, angle] = splats.axes(index);
  const [x, y] = [splats.x[index] * scale, splats.y[index] * scale];
  const reach = deviations * scale;
  twice(pen, deviations === 1 ? 1.75 : 1, () => pen.ellipse(x, y, long * reach, short * reach, angle, 0, 7));
}

/** Stroke a path in black on white, which shows on any picture. */
function twice(pen, lineWidth, path) {
  pen.beginPath();
  path();
  for (const [more, style] of [[2.5, "#ffffffd0"], [0, "#1c1c1e"]]) {
    pen.lineWidth = lineWidth + more;
    pen.strokeStyle = style;
    pen.stroke();
  }
}

/** All Gaussians from near to far, a column of pixels each or for several: mean colour, and opacity as height. */
function drawDepths() {
  const [pen, across, down] = sharp(byId("depths"));
  const [from, to] = range();
  const columns = Math.min(k, Math.round(across * devicePixelRatio));
  const step = across / columns;
  for (let column = 0; column < columns; column++) {
    const [first, end] = [column, column + 1].map((place) => Math.floor((place * k) / columns));
    const sum = [0, 0, 0, 0];
    for (let i = first; i < end; i++) {
      [splats.red, splats.green, splats.blue].forEach((channel, c) => (sum[c] += channel[i] * splats.opacity[i]));
      sum[3] += splats.opacity[i];
    }
    const bar = Math.max(1, (sum[3] / (end - first)) * (down - 4));
    pen.globalAlpha = first < to && end > from ? 1 : 0.2;
    pen.fillStyle = css(sum.slice(0, 3).map((level) => level / (sum[3] || 1)));
    pen.fillRect(column * step, down - 4 - bar, step + 0.5, bar);
  }
  pen.globalAlpha = 1;
  pen.fillStyle = getComputedStyle(document.body).getPropertyValue("--accent");
  pen.fillRect((from / k) * across, down - 2, Math.max(1, ((to - from) / k) * across), 2);
}

const css = (rgb) => `rgb(${rgb.map((level) => clamp(255 * level, 0, 255)).join(" ")})`;
const color = (i) => css([splats.red[i], splats.green[i], splats.blue[i]]);

// --- words -------------------------------------------------------------------------------------------

const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "\u2212");
const depthOf = (i) => fixed(splats.depth[i] - data.distance);

/** The Gaussians drawn, in words. */
function describe() {
  const [from, to] = range();
  const count = to - from;
  const depths = count > 1 ? `, z = ${depthOf(from)} to ${depthOf(to - 1)}` : count ? `, z = ${depthOf(from)}` : "";
  if (count === k) return `all K = ${k} Gaussians${depths}`;
  if (state.mode === "nearest") return `the nearest K = ${count} of ${k} Gaussians${depths}`;
  const what = state.mode === "layer" ? `layer ${state.layer} of N = ${state.layers}, ` : "";
  const ranks = count === 1 ? `rank ${to}` : `ranks ${from + 1} to ${to}`;
  return `${what}${ranks} of K = ${k} Gaussians${depths}`;
}

/** What the picture shows, in words. */
function caption() {
  const centres = byId("show-centres").checked;
  const drawn = { render: ["Render"], depth: ["Expected depth"] }[state.picture] ?? [];
  if (centres) drawn.push(drawn.length ? "and centres" : "Centres");
  const sentences = [
    state.picture === "photograph" && "Photograph",
    drawn.length && `${drawn.join(" ")} of ${describe()}`,
    byId("show-edges").checked && `Edges at l@${byId("edges").value}`,
    byId("show-figure").checked && "Figure and ground",
    data.checkpoint,
  ];
  return sentences.filter(Boolean).join(". ") + ".";
}

// --- the Gaussian pointed at -------------------------------------------------------------------------

const ownerAt = ([x, y]) => splats.owner(x + 0.5, y + 0.5, ...range());

function inspect() {
  const { index, share } = state.point ? ownerAt(state.point) : { index: -1 };
  const title = index >= 0 ? `Gaussian ${index + 1} of ${k}` : state.point ? "No Gaussian here" : "Point at the picture";
  byId("owner").textContent = title + (state.held ? ", held" : "");
  byId("parameters").replaceChildren(...(index < 0 ? [] : parameters(index, share).flatMap(term)));
}

const centre = (i) => [
  (2 * splats.x[i]) / width - 1 - data.centre[0],
  (2 * splats.y[i]) / height - 1 - data.centre[1],
];

function parameters(i, share) {
  const [long, short, angle] = splats.axes(i);
  const list = (...values) => values.map((value) => fixed(value)).join(", ");
  const degrees = Math.round((angle * 180) / Math.PI);
  return [
    ["Share of pixel", `${Math.round(100 * share)} % at ${state.point.join(", ")}`],
    ["Centre xyz", list(...centre(i), splats.depth[i] - data.distance)],
    ["Scales", list(splats.scale_0[i], splats.scale_1[i], splats.scale_2[i])],
    ["Rotation wxyz", list(splats.quat_w[i], splats.quat_x[i], splats.quat_y[i], splats.quat_z[i])],
    ["Opacity", fixed(splats.opacity[i])],
    ["Colour", list(splats.red[i], splats.green[i], splats.blue[i]), color(i)],
    ["Footprint, 1 σ", `${fixed(long, 1)} × ${fixed(short, 1)} px, ${fixed(degrees, 0)}°`],
  ];
}

function term([name, value, swatch]) {
  const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
  dt.textContent = name;
  if (swatch) {
    const square = document.createElement("span");
    square.className = "swatch";
    square.style.background = swatch;
    dd.append(square);
  }
  dd.append(value);
  return [dt, dd];
}

// --- controls ----------------------------------------------------------------------------------------

/** Make the page say and show what `state` holds. */
function update() {
  for (const name of ["picture", "mode"]) {
    document.querySelector(`input[name=${name}][value=${state[name]}]`).checked = true;
  }
  document.querySelectorAll("[data-mode]").forEach((pane) => (pane.hidden = pane.dataset.mode !== state.mode));
  canvas.hidden = !(state.picture === "render" || state.picture === "depth");
  byId("photograph").hidden = state.picture !== "photograph";
  byId("scale").hidden = state.picture !== "depth";
  byId("layer").max = byId("layer-number").max = state.layers;
  const values = {
    nearest: state.nearest, "nearest-number": state.nearest,
    "slab-from": state.slab[0], "slab-from-number": state.slab[0] + 1,
    "slab-to": state.slab[1], "slab-to-number": state.slab[1],
    layer: state.layer, "layer-number": state.layer, layers: state.layers,
  };
  for (const [id, value] of Object.entries(values)) {
    const input = byId(id);
    if (Number(input.value) !== value) input.value = value;
    if (input.type === "range") input.ariaValueText = describe();
  }
  document.querySelectorAll(".frame > .edges").forEach((image) => {
    image.hidden = !(byId("show-edges").checked && image.dataset.layers === byId("edges").value);
  });
  byId("figure").hidden = !byId("show-figure").checked;
  byId("caption").textContent = caption();
  inspect();
  drawDepths();
  requestDraw();
}

/** Change something, then show it. */
const then = (change) => (event) => {
  change(event);
  update();
};

/** Let `id`, a slider, and `<id>-number` set something. */
function bind(id, setter, fromNumber = (value) => value) {
  byId(id).addEventListener("input", then((event) => setter(Number(event.target.value))));
  byId(`${id}-number`)?.addEventListener("change", then((event) => setter(fromNumber(Number(event.target.value)))));
}
bind("nearest", set.nearest);
bind("slab-from", set.slabFrom, (rank) => rank - 1);
bind("slab-to", set.slabTo);
bind("layer", set.layer);
byId("layers").addEventListener("change", then((event) => set.layers(Number(event.target.value))));
for (const name of ["picture", "mode"]) {
  const choose = then((event) => (state[name] = event.target.value));
  document.querySelectorAll(`input[name=${name}]`).forEach((input) => input.addEventListener("change", choose));
}
for (const id of ["show-edges", "show-figure", "show-centres"]) byId(id).addEventListener("change", update);
byId("edges").addEventListener("change", then(() => (byId("show-edges").checked = true)));

const box = byId("frame");
box.style.setProperty("--ratio", width / height);

/** Point at (x, y) px; null for nowhere. */
function point(place) {
  state.point = place && [clamp(place[0], 0, width - 1), clamp(place[1], 0, height - 1)];
  inspect();
  drawMarks();
}

function placeOf(event) {
  const { left, top } = box.getBoundingClientRect();
  const scale = width / box.clientWidth;
  return [Math.floor((event.clientX - left) * scale), Math.floor((event.clientY - top) * scale)];
}

box.addEventListener("pointermove", (event) => state.held || point(placeOf(event)));
box.addEventListener("pointerleave", () => state.held || point(null));
box.addEventListener("click", (event) => {
  state.held = !state.held;
  point(placeOf(event));
});

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
box.addEventListener("keydown", (event) => {
  const middle = [Math.floor(width / 2), Math.floor(height / 2)];
  if (MOVES[event.key]) {
    const by = event.shiftKey ? 10 : 1;
    point(state.point ? state.point.map((place, axis) => place + by * MOVES[event.key][axis]) : middle);
  } else if (event.key === "Enter") {
    state.held = !state.held;
    point(state.point ?? middle);
  } else {
    return;
  }
  event.preventDefault();
});

const toggle = (id) => () => byId(id).disabled || (byId(id).checked = !byId(id).checked);
const pick = (name, value) => () => (state[name] = value);
const SHORTCUTS = {
  1: pick("picture", "render"), 2: pick("picture", "photograph"), 3: pick("picture", "depth"), 4: pick("picture", "blank"),
  k: pick("mode", "nearest"), s: pick("mode", "slab"), l: pick("mode", "layer"),
  e: toggle("show-edges"), f: toggle("show-figure"), c: toggle("show-centres"),
  ",": (by) => step(-by), ".": (by) => step(by),
  0() {
    [state.mode, state.nearest] = ["nearest", k];
  },
  o() {
    const { index } = state.point ? ownerAt(state.point) : { index: -1 };
    if (index >= 0) [state.mode, state.slab] = ["slab", [index, index + 1]];
  },
  Escape() {
    [state.held, state.point] = [false, null];
  },
};
const KEYS_BY_PLACE = { Comma: ",", Period: "." }; // with Shift they are other characters, on each keyboard different ones
const largeStep = () => Math.max(1, Math.round((state.mode === "layer" ? state.layers : k) / 16));

let peekedFrom = null; // the picture shown before P was pressed
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=number], select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = KEYS_BY_PLACE[event.code] ?? (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (key === "p" && !event.repeat) {
    [peekedFrom, state.picture] = [state.picture, "photograph"];
  } else if (Object.hasOwn(SHORTCUTS, key)) {
    SHORTCUTS[key](event.shiftKey ? largeStep() : 1);
  } else {
    return;
  }
  update();
});
document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() !== "p" || !peekedFrom) return;
  [state.picture, peekedFrom] = [peekedFrom, null];
  update();
});

// --- begin -------------------------------------------------------------------------------------------

const scaleContext = byId("scale-colors").getContext("2d");
const scaleImage = new ImageData(256, 1);
scaleImage.data.set(opaque(depthScale.colors));
scaleContext.putImageData(scaleImage, 0, 0);
new ResizeObserver(update).observe(box);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
update();
