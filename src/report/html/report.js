// Draws the parts of a report that move: curves, the slider over snapshots, heat maps, graph, text.
// The numbers are in the element #data, as JSON; matrices are float32 in base64, one string a frame.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent, text) {
  const el = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value);
  if (text !== undefined) el.textContent = text;
  if (parent) parent.append(el);
  return el;
}

function html(name, attributes, parent, text) {
  const el = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) el.setAttribute(key, value);
  if (text !== undefined) el.textContent = text;
  if (parent) parent.append(el);
  return el;
}

// A number with five digits.
function short(x) {
  if (x === null || Number.isNaN(x)) return "none";
  const size = Math.abs(x);
  return x === 0 || (size >= 1e-3 && size < 1e6) ? String(Number(x.toPrecision(5))) : x.toExponential(3);
}

function floats(text) {
  return new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

// Round numbers from lo to hi, about `count` of them.
function ticks(lo, hi, count) {
  const raw = (hi - lo) / count, power = 10 ** Math.floor(Math.log10(raw));
  const by = [1, 2, 5, 10].find((m) => m * power >= raw) * power, out = [];
  for (let k = Math.ceil(lo / by); k * by <= hi + by * 1e-9; k++) out.push(Number((k * by).toPrecision(12)));
  return out;
}

// ---- Curves ----

function chart(el, data, run) {
  const hidden = new Set();
  let log = false, at = null, now = null;
  const legend = html("div", {}, el);
  const box = svg("svg", { tabindex: 0, role: "img", "aria-label": `${data.title}: curves; arrow keys read values` }, el);
  const tip = html("output", { class: "tip" }, el);
  const mode = html("button", { class: "mode", "aria-pressed": false, type: "button" }, legend, "log steps");
  mode.onclick = () => { log = !log; mode.setAttribute("aria-pressed", log); draw(); };
  data.series.forEach((s, i) => {
    const button = html("button", { "aria-pressed": true, type: "button" }, legend);
    const swatch = svg("svg", { class: "swatch", viewBox: "0 0 18 8" }, button);
    svg("path", { d: "M0 4H18", class: `curve c${i % 7}` + (s.dashed ? " dashed" : "") }, swatch);
    button.append(s.name);
    button.onclick = () => {
      if (!hidden.delete(i)) hidden.add(i);
      button.setAttribute("aria-pressed", !hidden.has(i));
      draw();
    };
  });
  const xs = [...new Set(data.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const [L, R, T, B, H] = [52, 14, 8, 34, 250];
  const f = (x) => (log ? Math.log1p(x) : x);
  let px, py, width;

  function draw() {
    width = Math.max(el.clientWidth, 200);
    box.replaceChildren();
    for (const [k, v] of Object.entries({ width, height: H, viewBox: `0 0 ${width} ${H}` })) box.setAttribute(k, v);
    const shown = data.series.filter((_, i) => !hidden.has(i));
    const ys = shown.flatMap((s) => s.points.map((p) => p[1])).filter((y) => y !== null);
    let [lo, hi] = data.range || [Math.min(...ys), Math.max(...ys)];
    if (!data.range) for (const [, y] of data.levels) [lo, hi] = [Math.min(lo, y), Math.max(hi, y)];
    if (!(hi > lo)) [lo, hi] = [(lo || 0) - 0.5, (lo || 0) + 0.5];
    // Below the lowest of several levels there is room for its name.
    if (!data.range) [lo, hi] = [lo - (hi - lo) * (data.levels.length > 1 ? 0.1 : 0.04), hi + (hi - lo) * 0.04];
    const [x0, x1] = [xs.length ? xs[0] : 0, xs.length > 1 ? xs[xs.length - 1] : (xs[0] || 0) + 1];
    px = (x) => L + ((f(x) - f(x0)) / (f(x1) - f(x0))) * (width - L - R);
    py = (y) => T + ((hi - y) / (hi - lo)) * (H - T - B);
    for (const y of ticks(lo, hi, 5)) {
      svg("path", { d: `M${L} ${py(y)}H${width - R}`, class: "grid" }, box);
      svg("text", { x: L - 6, y: py(y) + 4, "text-anchor": "end" }, box, String(y));
    }
    const decades = [0, ...Array.from({ length: 16 }, (_, k) => 10 ** k)].filter((x) => x >= x0 && x <= x1);
    for (const x of log && decades.length > 1 ? decades : ticks(x0, x1, width / 90)) {
      svg("path", { d: `M${px(x)} ${H - B}v4`, class: "axis" }, box);
      svg("text", { x: px(x), y: H - B + 16, "text-anchor": x === x1 ? "end" : "middle" }, box, x.toLocaleString("en"));
    }
    svg("path", { d: `M${L} ${T}V${H - B}H${width - R}`, class: "axis" }, box);
    svg("text", { x: (L + width - R) / 2, y: H - 4, "text-anchor": "middle" }, box, data.x);
    const turned = `translate(11 ${(T + H - B) / 2}) rotate(-90)`;
    svg("text", { transform: turned, "text-anchor": "middle" }, box, data.y);
    const levels = data.levels.filter(([, y]) => y >= lo && y <= hi).sort((a, b) => a[1] - b[1]);
    for (const [, y] of levels) svg("path", { d: `M${L} ${py(y)}H${width - R}`, class: "level" }, box);
    data.series.forEach((s, i) => {
      if (hidden.has(i)) return;
      let d = "", pen = "M";
      for (const [x, y] of s.points) {
        if (y === null) { pen = "M"; continue; }
        d += `${pen}${px(x).toFixed(1)} ${py(Math.min(Math.max(y, lo), hi)).toFixed(1)}`;
        pen = "L";
      }
      svg("path", { d, class: `curve c${i % 7}` + (s.dashed ? " dashed" : "") }, box);
    });
    let above = Infinity;
    for (const [name, y] of levels) {
      // Names of neighbouring lines move apart; at the top there is room below alone.
      const near = levels.some(([, other]) => other > y && py(y) - py(other) < 15) && above === Infinity;
      const room = py(y) + 14 < H - B;
      const place = py(y) < T + 10 || (near && room) ? py(y) + 13 : Math.min(py(y) - 4, above - 12);
      above = place;
      svg("text", { x: width - R - 2, y: place, "text-anchor": "end", class: "halo" }, box, `${name} ${short(y)}`);
    }
    if (now !== null && now >= x0 && now <= x1) svg("path", { d: `M${px(now)} ${T}V${H - B}`, class: "now" }, box);
    read();
  }

  // The values at one step, beside a line through them.
  function read() {
    box.querySelector(".cross")?.remove();
    tip.textContent = "";
    if (at === null || !xs.length) return;
    const x = xs[at];
    svg("path", { d: `M${px(x)} ${T}V${H - B}`, class: "cross" }, box);
    const lines = data.series.filter((_, i) => !hidden.has(i)).map((s) => {
      const point = s.points.find((p) => p[0] === x);
      return point ? `${s.name}: ${short(point[1])}` : "";
    });
    tip.textContent = [`${data.x} ${x.toLocaleString("en")}`, ...lines.filter(Boolean)].join("\n");
    const left = px(x) + 10 + tip.offsetWidth > width ? px(x) - 10 - tip.offsetWidth : px(x) + 10;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${box.getBoundingClientRect().top - el.getBoundingClientRect().top + T}px`;
  }
  box.onpointermove = box.onpointerdown = (e) => {
    const x = e.clientX - box.getBoundingClientRect().left;
    at = xs.reduce((best, v, i) => (Math.abs(px(v) - x) < Math.abs(px(xs[best]) - x) ? i : best), 0);
    read();
  };
  box.onpointerleave = box.onblur = () => { at = null; read(); };
  box.onkeydown = (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10 }[e.key];
    if (e.key === "Escape") { at = null; read(); }
    if (!by) return;
    e.preventDefault();
    at = Math.min(Math.max((at ?? (by > 0 ? -1 : xs.length)) + by, 0), xs.length - 1);
    read();
  };
  run?.addEventListener("step", (e) => { now = e.detail.step; draw(); });
  new ResizeObserver(() => { if (el.clientWidth !== width) draw(); }).observe(el);
  draw();
}

// ---- Heat maps ----

const UNIT = [[68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [34, 168, 132],
  [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37]];
const SIGNED = [[33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247], [253, 219, 199],
  [244, 165, 130], [214, 96, 77], [178, 24, 43]];

function color(table, t) {
  const at = Math.min(Math.max(t, 0), 1) * (table.length - 1), i = Math.min(Math.floor(at), table.length - 2);
  return table[i].map((a, c) => a + (table[i + 1][c] - a) * (at - i));
}

function map(el, data, run) {
  const canvas = el.querySelector("canvas"), out = el.querySelector("output"), context = canvas.getContext("2d");
  const [rows, cols] = [canvas.height, canvas.width], ends = el.querySelectorAll(".bar b"), cache = [];
  let frame = 0, at = null, own = false;
  const values = () => (cache[frame] ??= floats(data.frames[frame]));
  function draw() {
    const image = context.createImageData(cols, rows), most = Math.max(...values().map((v) => Math.abs(v) || 0));
    const [lo, hi] = own && data.signed && most > 0 ? [-most, most] : data.range;
    ends.forEach((end, i) => (end.textContent = short([lo, hi][i])));
    values().forEach((v, i) => {
      if (Number.isNaN(v)) return;
      const [r, g, b] = color(data.signed ? SIGNED : UNIT, (v - lo) / (hi - lo));
      image.data.set([r, g, b, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    read();
  }
  function read() {
    if (!at) { out.textContent = ""; return; }
    const side = (of, i, word) => `${of.label || word} ${of.names[i]}`;
    const where = `${side(data.rows, at[0], "row")}, ${side(data.cols, at[1], "column")}`;
    out.textContent = `${where}: ${short(values()[at[0] * cols + at[1]])}`;
  }
  canvas.onpointermove = canvas.onpointerdown = (e) => {
    const r = canvas.getBoundingClientRect();
    const cell = (x, n) => Math.min(Math.max(Math.floor(x * n), 0), n - 1);
    at = [cell((e.clientY - r.top) / r.height, rows), cell((e.clientX - r.left) / r.width, cols)];
    read();
  };
  canvas.onpointerleave = canvas.onblur = () => { at = null; read(); };
  canvas.onkeydown = (e) => {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (!by) return;
    e.preventDefault();
    at = at ? [Math.min(Math.max(at[0] + by[0], 0), rows - 1), Math.min(Math.max(at[1] + by[1], 0), cols - 1)] : [0, 0];
    read();
  };
  run.addEventListener("step", (e) => { ({ frame, own } = e.detail); draw(); });
}

// ---- The learned graph ----

const STATUS = ["right", "wrong", "missed"];

function graph(el, learned, run) {
  const { x0, by, y, k } = Object.fromEntries(Object.entries(el.dataset).map(([key, v]) => [key, Number(v)]));
  const group = el.querySelector(".learned"), out = el.querySelector("output");
  run.addEventListener("step", (e) => {
    group.replaceChildren();
    const edges = learned[e.detail.frame];
    for (const [child, parent, attention, head, status] of edges) {
      const rx = ((child - parent) * by) / 2;
      const d = `M${x0 + child * by} ${y}A${rx} ${rx * k} 0 0 1 ${x0 + parent * by} ${y}`;
      const path = svg("path", { d, class: STATUS[status] }, group);
      svg("title", {}, path, `from ${child} to ${parent}: attention ${short(attention)}, head ${head + 1}`);
    }
    const count = (status) => edges.filter((edge) => edge[4] === status).length;
    out.textContent = `${count(0)} of ${count(0) + count(2)} edges found, ${count(1)} others`;
  });
}

// ---- Attention on a text ----

function text(el, data, run) {
  const line = el.querySelector(".tokens"), out = el.querySelector("output"), choice = el.querySelector("select");
  const tokens = [...line.children], cache = {};
  let frame = 0, query = Number(line.dataset.query);
  function draw() {
    const look = Number(choice.value);
    const pattern = (cache[`${look} ${frame}`] ??= floats(data[look].frames[frame]));
    const row = pattern.subarray(query * tokens.length, query * tokens.length + query + 1);
    tokens.forEach((token, i) => {
      token.classList.toggle("query", i === query);
      token.style.background = i <= query ? `rgba(0, 130, 200, ${row[i] * 0.85})` : "";
      token.title = i <= query ? `${token.textContent} at ${i}: ${short(row[i])}` : "";
    });
    const best = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3).filter((i) => row[i] > 0);
    const seen = best.map((i) => `${tokens[i].textContent} at ${i} (${short(row[i])})`);
    out.textContent = `${tokens[query].textContent} at ${query} attends to ${seen.join(", ")}`;
  }
  const choose = (e) => { const i = tokens.indexOf(e.target); if (i >= 0) { query = i; draw(); } };
  line.onclick = choose;
  line.onpointerover = (e) => { if (e.pointerType === "mouse") choose(e); };
  line.onkeydown = (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by) return;
    e.preventDefault();
    query = Math.min(Math.max(query + by, 0), tokens.length - 1);
    draw();
  };
  choice.onchange = draw;
  run.addEventListener("step", (e) => { frame = e.detail.frame; draw(); });
}

// ---- Putting them together ----

for (const section of document.querySelectorAll("section.part")) {
  const part = DATA[section.dataset.part];
  section.querySelectorAll(".chart").forEach((el) => chart(el, part.charts[el.dataset.chart], section));
  section.querySelectorAll(".map").forEach((el) => map(el, part.maps[el.dataset.map], section));
  section.querySelectorAll(".arcs").forEach((el) => graph(el, part.learned, section));
  section.querySelectorAll(".sample").forEach((el) => text(el, part.looks, section));
  const slider = section.querySelector(".step input");
  if (!slider) continue;
  slider.closest(".step").hidden = false;
  const said = section.querySelector(".step output"), scale = section.querySelector(".step button");
  const move = () => {
    const frame = Number(slider.value), step = part.steps[frame];
    said.textContent = `step ${step.toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", said.textContent);
    section.dispatchEvent(new CustomEvent("step", { detail: { frame, step, own: scale?.getAttribute("aria-pressed") === "true" } }));
  };
  slider.oninput = move;
  if (scale) scale.onclick = () => { scale.setAttribute("aria-pressed", scale.getAttribute("aria-pressed") !== "true"); move(); };
  move();
}
