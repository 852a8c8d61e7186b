// Draws power over the span of the page, finer as one zooms in, and a second's waveform with its harmonics.
"use strict";

const chart = document.getElementById("power");
const note = document.getElementById("power-note");
const device = encodeURIComponent(chart.dataset.device);
const POINTS = 1000;
const SECONDS = 60;
const MOST_RUNS = 100; // each is drawn as three lines
let shown = "";

function epoch(text) {
  const [y, mo, d, h, mi, s] = [[0, 4], [4, 6], [6, 8], [8, 10], [10, 12], [12, 14]].map(([a, b]) => Number(text.slice(a, b)));
  return Date.UTC(y, mo - 1, d, h, mi, s) / 1000;
}

function moment(seconds) {
  return new Date(seconds * 1000).toISOString().replace(/[-:T]/g, "").slice(0, 14);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(more) {
  return {
    margin: { l: 64, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    xaxis: { gridcolor: colour("--rule"), type: "date" }, yaxis: { gridcolor: colour("--rule"), title: { text: "W" }, zeroline: false },
    showlegend: false, hovermode: "x", dragmode: "zoom", ...more,
  };
}

const CONFIG = { displayModeBar: false, responsive: true };

function iso(microseconds) {
  const seconds = Math.floor(microseconds / 1e6);
  return new Date(seconds * 1000).toISOString().slice(0, 19) + "." + String(microseconds % 1e6).padStart(6, "0");
}

async function fetched(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.json()).error || String(answer.status));
  return answer;
}

// Runs of steps without a gap: a line across one would show power that was never recorded.
function runs(steps, apart) {
  const between = steps.slice(1).map((step, i) => step[0] - steps[i][0]).sort((a, b) => a - b);
  const most = 2.5 * Math.max(apart, between[between.length >> 1] || 0);
  const found = [];
  steps.forEach((step, i) => (i && step[0] - steps[i - 1][0] <= most ? found.at(-1).push(step) : found.push([step])));
  return found.length > MOST_RUNS ? [steps] : found;
}

function band(steps) {
  const times = [], low = [], mean = [], high = [];
  for (const [time, lowest, middle, highest] of steps) {
    times.push(iso(time)); low.push(lowest); mean.push(middle); high.push(highest);
  }
  const line = { width: 0 };
  return [
    { x: times, y: high, name: "highest", line, hovertemplate: "%{y:.1f} W highest<extra></extra>", mode: "lines" },
    { x: times, y: low, name: "lowest", line, fill: "tonexty", fillcolor: colour("--band"), hovertemplate: "%{y:.1f} W lowest<extra></extra>", mode: "lines" },
    { x: times, y: mean, name: "mean", line: { color: colour("--link"), width: 1.5 }, hovertemplate: "%{y:.1f} W mean<extra></extra>", mode: "lines" },
  ];
}

async function power(from, to) {
  const start = Math.floor(from), stop = Math.max(start + 1, Math.ceil(to));
  if (stop - start <= 1) return waveform(start);
  note.textContent = "Reading …";
  const path = `/api/devices/${device}/power?from=${moment(start)}&to=${moment(stop)}&points=${POINTS}&seconds=${SECONDS}`;
  const steps = await (await fetched(path)).json();
  shown = `${start}-${stop}`;
  if (!steps.length) return say("Nothing is stored in this span.", []);
  const apart = stop - start > SECONDS ? (stop - start) * 1e6 / SECONDS : 0;
  const more = stop - start > SECONDS ? ` From at most ${SECONDS} of its seconds, evenly spread; zoom in for more.` : "";
  return say(`Lowest, mean and highest of ${steps.length} steps.${more} Drag to zoom, double-click to zoom out.`, runs(steps, apart).flatMap(band));
}

async function waveform(second) {
  const path = `/api/devices/${device}/samples?from=${moment(second)}&to=${moment(second + 1)}`;
  const lines = (await (await fetched(path)).text()).trimEnd().split("\n").slice(1);
  shown = `${second}-${second + 1}`;
  if (!lines.length) return say("Nothing is stored in this second.", []);
  const x = [], y = [];
  for (const line of lines) { const comma = line.indexOf(","); x.push(line.slice(0, 26)); y.push(Number(line.slice(comma + 1))); }
  const trace = { x, y, mode: lines.length > 500 ? "lines" : "lines+markers", line: { color: colour("--link"), width: 1 }, hovertemplate: "%{y} W<extra></extra>" };
  return say(`${lines.length.toLocaleString("en")} samples, as stored.`, [trace]);
}

function say(text, traces) {
  note.textContent = text;
  return Plotly.react(chart, traces, layout({}), CONFIG);
}

function failed(error) {
  note.textContent = `No chart: ${error.message}`;
}

function harmonics() {
  const place = document.getElementById("harmonics");
  const table = document.querySelector("details table");
  if (!place) return;
  if (!table) { place.hidden = true; return; }
  const x = [], y = [];
  for (const row of table.tBodies[0].rows) { x.push(parseFloat(row.cells[1].textContent)); y.push(parseFloat(row.cells[2].textContent)); }
  const axis = { gridcolor: colour("--rule"), title: { text: "Hz" }, dtick: 100 };
  Plotly.newPlot(place, [{ x, y, type: "bar", marker: { color: colour("--link") }, hovertemplate: "%{x} Hz: %{y:.2f} W<extra></extra>" }], layout({ xaxis: axis }), CONFIG);
}

function begin() {
  const from = epoch(chart.dataset.from), to = epoch(chart.dataset.to);
  const whole = () => power(from, Math.max(from + 1, to)).catch(failed);
  whole().then(() => {
    let waiting = 0;
    chart.on("plotly_relayout", (change) => {
      clearTimeout(waiting);
      if (change["xaxis.autorange"]) { waiting = setTimeout(whole, 150); return; }
      const left = change["xaxis.range[0]"], right = change["xaxis.range[1]"];
      if (!left || !right) return;
      const a = Date.parse(left.replace(" ", "T") + "Z") / 1000, b = Date.parse(right.replace(" ", "T") + "Z") / 1000;
      if (`${Math.floor(a)}-${Math.max(Math.floor(a) + 1, Math.ceil(b))}` === shown) return;
      waiting = setTimeout(() => power(a, b).catch(failed), 250);
    });
  });
  harmonics();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { whole(); harmonics(); });
}

begin();
