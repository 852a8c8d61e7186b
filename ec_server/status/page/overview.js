// Keeps the overview current: asks every two seconds for the parts that have changed, by their hashes.
"use strict";

const PERIOD_MS = 2000;
const connection = document.getElementById("connection");
const devices = document.getElementById("devices");
const rows = document.getElementById("rows");
const hashes = new Map();
let query = new URLSearchParams(devices.dataset.query);

function span(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  for (const [size, word] of units) if (seconds >= size) return `${Math.floor(seconds / size)} ${word} ago`;
  return "now";
}

function showAges(now) {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const seconds = now - Number(time.dataset.ago);
    const said = seconds < 10 ? "now" : span(seconds);
    if (time.textContent !== said) time.textContent = said;
  }
}

function selecting() {
  const selection = window.getSelection();
  return selection && !selection.isCollapsed;
}

function exchangeRow(id, html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  const fresh = made.content.firstElementChild;
  const shown = document.getElementById(id);
  if (shown) shown.replaceWith(fresh);
  return fresh;
}

function apply(answer) {
  for (const [id, hash] of answer.parts) {
    if (hashes.get(id) === hash) continue;
    const part = document.getElementById(id);
    if (part && hash in answer.html) part.innerHTML = answer.html[hash];
    hashes.set(id, hash);
  }
  const wanted = new Set(answer.rows.map(([id]) => id));
  for (const row of [...rows.children]) if (!wanted.has(row.id)) { hashes.delete(row.id); row.remove(); }
  answer.rows.forEach(([id, hash], index) => {
    let row = document.getElementById(id);
    if (hashes.get(id) !== hash && hash in answer.html) { row = exchangeRow(id, answer.html[hash]); hashes.set(id, hash); }
    if (row && rows.children[index] !== row) rows.insertBefore(row, rows.children[index] || null);
  });
  document.title = answer.title;
  document.getElementById("clock").textContent = answer.clock;
  for (const id of ["table", "search"]) document.getElementById(id).hidden = !answer.any_device;
  showAges(answer.now);
}

async function update() {
  if (document.hidden || selecting()) return;
  try {
    const asked = new URLSearchParams(query);
    asked.set("have", [...new Set(hashes.values())].join("."));
    const answer = await fetch(`/api/page?${asked}`, { cache: "no-store", signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error(String(answer.status));
    apply(await answer.json());
    document.body.classList.remove("stale");
    if (connection.textContent) connection.textContent = "";
  } catch {
    document.body.classList.add("stale");
    const said = "No answer; figures as of ";
    if (connection.textContent !== said) connection.textContent = said;
  }
}

async function keepCurrent() {
  await update();
  setTimeout(keepCurrent, PERIOD_MS);
}

let typed = 0;
document.getElementById("q").addEventListener("input", (event) => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    query.set("q", event.target.value);
    query.set("page", "1");
    history.replaceState(null, "", `/?${query}`);
    update();
  }, 150);
});

devices.addEventListener("click", (event) => {
  const link = event.target.closest("thead a, nav a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  query = new URL(link.href).searchParams;
  history.replaceState(null, "", link.href);
  document.getElementById("q").value = query.get("q") || "";
  for (const head of document.querySelectorAll("thead th")) {
    const key = new URL(head.firstElementChild.href).searchParams.get("sort");
    if (key === (query.get("sort") || "urgency")) head.setAttribute("aria-sort", "ascending");
    else head.removeAttribute("aria-sort");
  }
  update();
});

keepCurrent();
