// Brings the page up to date every two seconds: asks for it again and exchanges what has changed.
"use strict";

const PERIOD_MS = 2000;
const connection = document.getElementById("connection");

function selecting() {
  const selection = window.getSelection();
  return selection && !selection.isCollapsed;
}

function exchange(fresh) {
  document.title = fresh.title;
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const shown = document.getElementById(part.id);
    if (shown && shown.innerHTML !== part.innerHTML) shown.innerHTML = part.innerHTML;
  }
}

async function update() {
  if (!document.hidden && !selecting()) {
    try {
      const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (!answer.ok) throw new Error(String(answer.status));
      exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
      document.body.classList.remove("stale");
      if (connection.textContent) connection.textContent = "";
    } catch {
      document.body.classList.add("stale");
      const said = "No answer; figures as of ";
      if (connection.textContent !== said) connection.textContent = said;
    }
  }
  setTimeout(update, PERIOD_MS);
}

setTimeout(update, PERIOD_MS);
