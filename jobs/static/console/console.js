// Refreshes the first page's figures. One request at a time, and none while nobody looks.
"use strict";

const EVERY = 5000; // milliseconds
const now = document.getElementById("now");
const stale = document.getElementById("stale");

async function refresh() {
  try {
    const answer = await fetch(now.dataset.from, { redirect: "error", signal: AbortSignal.timeout(EVERY) });
    if (!answer.ok) throw new Error(answer.status);
    now.innerHTML = await answer.text();
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}

async function run() {
  if (!document.hidden) await refresh();
  setTimeout(run, EVERY);
}

setTimeout(run, EVERY);
