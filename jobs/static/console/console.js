// Keeps the parts of a page that bear ``data-live`` (and an id) as they are on the server. The page itself is
// asked for again, one request at a time and none while nobody looks. Only what has changed is changed, so that
// the focus, a selected text, an opened fold and a playing video stay as they are.
"use strict";

const EVERY = 4000; // milliseconds
const PATIENCE = 10000;
const stale = document.getElementById("stale");

function key(node) {
  return (node.dataset && node.dataset.key) || node.id || "";
}

function alike(node, other) {
  return node.nodeName === other.nodeName && key(node) === key(other);
}

// A link into S3 is signed anew each time: what stands before its signature says whether it is another file.
function sameFile(name, value, other) {
  return (name === "src" || name === "poster") && value.split("?")[0] === other.split("?")[0];
}

function bringAttributes(node, wanted) {
  for (const { name, value } of [...wanted.attributes]) {
    const now = node.getAttribute(name);
    if (now !== value && !(now !== null && sameFile(name, now, value))) node.setAttribute(name, value);
  }
  for (const { name } of [...node.attributes]) {
    if (name !== "open" && !wanted.hasAttribute(name)) node.removeAttribute(name);
  }
}

function bringChildren(node, wanted) {
  const keys = new Set([...wanted.children].map(key).filter(Boolean));
  let at = node.firstChild;
  for (const child of [...wanted.childNodes]) {
    while (at && child.nodeType === 1 && (at.nodeType !== 1 || (key(at) && !keys.has(key(at))))) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    let found = at;
    if (key(child)) while (found && !alike(found, child)) found = found.nextSibling;
    if (!found || !alike(found, child)) {
      node.insertBefore(child, at);
      continue;
    }
    if (found !== at) node.insertBefore(found, at);
    bring(found, child);
    at = found.nextSibling;
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function bring(node, wanted) {
  if (node.isEqualNode(wanted)) return;
  if (node.nodeType !== 1) {
    node.nodeValue = wanted.nodeValue;
  } else if (!["INPUT", "SELECT", "TEXTAREA"].includes(node.nodeName)) {
    bringAttributes(node, wanted);
    bringChildren(node, wanted);
  }
}

// Rows must not move under the hand of somebody who is choosing some of them.
function rests(part) {
  return part.querySelector("input.action-select:checked") !== null;
}

async function refresh() {
  try {
    const answer = await fetch(location.href, {
      headers: { "X-Live": "1" },
      redirect: "error",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const wanted = page.getElementById(part.id);
      if (wanted && !rests(part)) bring(part, wanted);
    }
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}

let timer = 0;

async function run() {
  clearTimeout(timer);
  if (!document.hidden) await refresh();
  clearTimeout(timer);
  timer = setTimeout(run, EVERY);
}

if (document.querySelector("main [data-live]")) {
  timer = setTimeout(run, EVERY);
  document.addEventListener("visibilitychange", () => document.hidden || run());
}

// The admin's own script counts only the rows that were there when the page was loaded.
document.addEventListener("change", () => {
  const boxes = [...document.querySelectorAll("input.action-select")];
  const counter = document.querySelector(".action-counter");
  if (counter) counter.textContent = `${boxes.filter((box) => box.checked).length} of ${boxes.length} selected`;
});
document.addEventListener("click", (event) => {
  if (event.target.id !== "action-toggle") return;
  for (const box of document.querySelectorAll("input.action-select")) box.checked = event.target.checked;
});

// Copies the text of the element that ``data-copy`` names. On a page without https browsers have no clipboard
// for scripts; then the text is selected, and copied as by hand.
async function copy(button) {
  const source = document.querySelector(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
