// The threshold laboratory: what fmuc.records.choice computes, from the logits that the page carries.
"use strict";

const { rules, sets } = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const form = document.getElementById("laboratory");
const control = form.elements;
const series = (first, last, parts) => Array.from({ length: last - first + 1 }, (_, i) => (first + i) / parts);
const THRESHOLDS = [...series(30, 99, 100), ...series(991, 999, 1000), ...series(9991, 9999, 10000)];
const LISTED = 24; // mistakes
const percent = share => (100 * share).toFixed(1) + "\u00a0%";
const player = new Audio();

// --- the rule ---

function half(bits) { // float16
  const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
  return bits >> 15 ? -size : size;
}

function unpack(base64) {
  const view = new DataView(Uint8Array.from(atob(base64), character => character.charCodeAt(0)).buffer);
  return Float64Array.from({ length: view.byteLength / 2 }, (_, i) => half(view.getUint16(2 * i, true)));
}

function softmax(logits, temperature) { // Eq. (1)
  const largest = Math.max(...logits);
  const powers = logits.map(logit => Math.exp((logit - largest) / temperature));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map(power => power / total);
}

// Pseudo-label and score of every patch, the highest score first
function ranked(set, net, temperature, passes, spread) {
  const classes = set.classes.length, patches = set.truth.length;
  const rows = passes ? series(1, passes, 1) : [0]; // row 0: dropout off
  return set.truth.map((truth, at) => {
    const each = rows.map(row => {
      const start = (row * patches + at) * classes;
      return softmax(net.logits.subarray(start, start + classes), temperature);
    });
    const mean = set.classes.map((_, c) => each.reduce((sum, p) => sum + p[c], 0) / each.length);
    const label = mean.indexOf(Math.max(...mean));
    const variance = each.reduce((sum, p) => sum + (p[label] - mean[label]) ** 2, 0) / each.length;
    const score = mean[label] - (spread ? Math.sqrt(variance) : 0);
    return { at, truth, label, score, right: label === truth };
  }).sort((one, other) => other.score - one.score || one.at - other.at);
}

// FM keeps from the threshold on, FMUC above it
const kept = (order, rule) => order.filter(({ score }) => rule.spread ? score > rule.threshold : score >= rule.threshold);

function quality(patches) {
  const known = patches.filter(({ truth }) => truth >= 0);
  return known.length ? known.filter(({ right }) => right).length / known.length : NaN;
}

// --- the page ---

function chosen() {
  const set = sets[control.set.value], net = set.nets[control.net.value];
  if (typeof net.logits === "string") net.logits = unpack(net.logits);
  const rule = { threshold: THRESHOLDS[control.threshold.value], temperature: +control.temperature.value,
    passes: +control.passes.value, spread: control.spread.checked };
  return { set, net, rule };
}

function update() {
  const { set, net, rule } = chosen();
  const order = ranked(set, net, rule.temperature, rule.passes, rule.spread), keeps = kept(order, rule);
  const plain = ranked(set, net, 1, 0, false);
  control.shown_threshold.value = rule.threshold;
  control.shown_temperature.value = rule.temperature;
  control.shown_passes.value = rule.passes || "none";
  control.threshold.setAttribute("aria-valuetext", rule.threshold);
  summarise(keeps, plain.slice(0, keeps.length), order.length);
  draw(set, net, order, plain, keeps);
  list(set, keeps.filter(({ truth, right }) => truth >= 0 && !right));
  for (const button of document.querySelectorAll("#rules button")) {
    const same = Object.entries(rules[button.value]).every(([name, value]) => rule[name] === value);
    button.setAttribute("aria-pressed", same);
  }
}

function summarise(keeps, plain, all) {
  const wrong = patches => patches.filter(({ truth, right }) => truth >= 0 && !right).length;
  const of = patches => `<strong>${wrong(patches)}</strong> wrong ones, quality <strong>${percent(quality(patches))}</strong>`;
  document.getElementById("summary").innerHTML = keeps.length ?
    `Keeps <strong>${keeps.length}</strong> of ${all} patches, quantity <strong>${percent(keeps.length / all)}</strong>: ` +
    `${of(keeps)}. The plain softmax of the same net, keeping its surest ${plain.length}: ${of(plain)}.` :
    "Keeps nothing: there is no quality.";
}

function list(set, mistakes) {
  const name = label => set.classes[label].replaceAll("_", " ");
  document.getElementById("mistakes").replaceChildren(...mistakes.slice(0, LISTED).map(({ at, truth, label, score }) => {
    const item = document.createElement("li"), sound = set.sounds[at];
    item.textContent = `${name(truth)}, taken for ${name(label)} (${score.toFixed(4)})`;
    if (sound) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "▶" });
      button.setAttribute("aria-label", `Play: ${item.textContent}`);
      button.onclick = () => { player.src = sound; player.play(); };
      item.prepend(button);
    }
    return item;
  }));
  const more = mistakes.length > LISTED ? ` The ${LISTED} surest of ${mistakes.length} are listed.` : "";
  document.getElementById("about_sounds").innerHTML = (Object.keys(set.sounds).length ? "Press ▶ to hear one." :
    `Their sounds were not there when this page was built: <code>python -m fmuc data ${control.set.value}</code> gets them, ` +
    "then <code>make book</code>.") + more;
}

// --- the curve above the bars ---

const HEIGHT = 350, LEFT = 44, RIGHT = 12, TOP = 38, FLOOR = 230, BARS = [270, 310];
const ABOVE = [-10, 22, -24]; // where the names of the paper's rules stand, so that neighbours do not collide
const text = (x, y, content, anchor = "middle") => `<text x="${x}" y="${y}" text-anchor="${anchor}">${content}</text>`;
const line = (x1, y1, x2, y2, kind) => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" class="${kind}"/>`;

function qualities(order) { // of the surest 1, 2, ... patches
  let known = 0, right = 0;
  return order.map(patch => {
    known += patch.truth >= 0;
    right += patch.right;
    return known ? right / known : NaN;
  });
}

function draw(set, net, order, plain, keeps) {
  const svg = document.getElementById("curve"), width = svg.clientWidth;
  const lowest = Math.max(0, Math.floor(10 * quality(plain) - 1) / 10);
  const x = share => LEFT + share * (width - LEFT - RIGHT);
  const y = share => FLOOR - Math.max(0, (share - lowest) / (1 - lowest)) * (FLOOR - TOP);
  const path = (patches, kind) => `<polyline class="${kind}" points="${qualities(patches).map((share, i) =>
    `${x((i + 1) / patches.length).toFixed(1)},${y(share).toFixed(1)}`).join(" ")}"/>`;
  const cut = keeps.length / order.length;
  const bars = order.map(({ truth, right }, i) => {
    const kind = truth < 0 ? "unknown" : right ? "right" : "wrong", at = x((i + 0.5) / order.length).toFixed(1);
    return line(at, BARS[0] + (kind === "wrong" ? -10 : 0), at, BARS[1] - (kind === "wrong" ? 0 : 8), kind);
  });
  const percents = Array.from({ length: Math.round(10 * (1 - lowest)) + 1 }, (_, i) => lowest + i / 10);
  const marks = Object.entries(rules).map(([name, rule], i) => {
    const own = kept(ranked(set, net, rule.temperature, rule.passes, rule.spread), rule);
    if (!own.length) return "";
    const [cx, cy] = [x(own.length / order.length), y(quality(own))];
    return `<circle cx="${cx}" cy="${cy}" r="4.5" class="rule"/>` +
      text(cx, cy + ABOVE[i], name, cx > width - 60 ? "end" : "middle");
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.style.height = `${HEIGHT}px`;
  svg.innerHTML = `<rect class="kept" x="${LEFT}" y="${TOP}" width="${x(cut) - LEFT}" height="${BARS[1] - TOP}"/>` +
    percents.map(share => line(LEFT, y(share), width - RIGHT, y(share), "grid") +
      text(LEFT - 6, y(share) + 4, Math.round(100 * share), "end")).join("") +
    [0, 0.25, 0.5, 0.75, 1].map(share => text(x(share), BARS[1] + 16, 100 * share)).join("") +
    text(x(0.5), HEIGHT - 4, "quantity: share of patches kept (%)") + text(LEFT, FLOOR + 18, "↑ quality (%)", "start") +
    path(plain, "plain") + path(order, "own") + bars.join("") + line(x(cut), TOP, x(cut), BARS[1], "cut") +
    marks.join("") + (keeps.length ? `<circle cx="${x(cut)}" cy="${y(quality(keeps))}" r="5" class="now"/>` : "");
}

// --- controls ---

function follow(name) { // a rule of the paper
  const rule = rules[name];
  control.threshold.value = THRESHOLDS.indexOf(rule.threshold);
  control.temperature.value = rule.temperature;
  control.passes.value = rule.passes;
  control.spread.checked = rule.spread;
  update();
}

function offer(select, names) {
  select.replaceChildren(...names.map(([value, title]) => new Option(title, value)));
}

function nets() {
  const set = sets[control.set.value], last = control.net.value;
  offer(control.net, Object.entries(set.nets).map(([name, { epoch }]) => [name, `${name}, epoch ${epoch}`]));
  if (last) control.net.value = last;
  control.passes.max = set.passes;
}

function begin() {
  control.threshold.max = THRESHOLDS.length - 1;
  offer(control.set, Object.entries(sets).map(([name, { title }]) => [name, title]));
  document.getElementById("rules").append(...Object.keys(rules).map(name => {
    const button = Object.assign(document.createElement("button"), { type: "button", value: name, textContent: name });
    button.onclick = () => follow(name);
    return button;
  }));
  control.set.addEventListener("change", nets);
  form.addEventListener("input", update);
  window.addEventListener("resize", update);
  nets();
  follow("FMUC");
}

if (Object.keys(sets).length) begin();
else form.textContent = "The shipped records hold no outputs of single patches.";
