// What HTML and HTMX can't do by themselves. Every page works without this file.
"use strict";

const dialog = document.getElementById("dialog");
const notice = document.getElementById("notice");

// The dialog: HTMX fills it, we open it, and give the focus back when it closes.

let opener = null;

// What opened the dialog may have been made anew meanwhile, under the same id.
function restoreFocus() {
  const find = (selector) => document.querySelector(selector);
  const again = opener?.isConnected ? opener : document.getElementById(opener?.id ?? "");
  (again ?? find("#create-key button") ?? find("#refresh button") ?? find(".crumb a"))?.focus();
}

function forgetSecret() {
  document.querySelector("#created, #rotated")?.replaceChildren();
}

dialog.addEventListener("close", () => {
  dialog.replaceChildren();
  restoreFocus();
});

document.body.addEventListener("dialog-close", () => dialog.close());
document.body.addEventListener("told", ({ detail }) => announce(detail.value));

document.addEventListener("htmx:beforeRequest", ({ detail }) => {
  if (detail.target !== dialog || dialog.open) return;
  opener = detail.requestConfig.triggeringEvent?.submitter ?? detail.elt.querySelector("button");
});

document.addEventListener("htmx:afterSwap", ({ detail }) => {
  if (detail.target !== dialog) return;
  if (!dialog.open) dialog.showModal();
  prepare(dialog);
  dialog.querySelector("[autofocus], input:checked")?.focus();
});

// A browser may keep the page, with the key in it, to show it again on Back.
addEventListener("pagehide", () => {
  forgetSecret();
  if (dialog.open) dialog.close();
});

// The list: its busy state, what a screen reader hears, and where the focus goes when its row is gone.

let focusWasInTable = false;

function table() {
  return document.getElementById("table");
}

function announce(text) {
  (dialog.open ? dialog : document.body).querySelector("[data-announce]").textContent = text;
}

for (const [event, busy] of [["htmx:beforeRequest", true], ["htmx:afterRequest", false]]) {
  document.addEventListener(event, ({ detail }) => {
    if (detail.target?.id === "table") table()?.setAttribute("aria-busy", busy);
  });
}

document.addEventListener("htmx:afterSettle", ({ detail }) => {
  if (detail.elt.id !== "table" || dialog.open) return;
  announce(table().querySelector(".foot span, .empty strong")?.textContent ?? "");
  if (focusWasInTable && document.activeElement === document.body) restoreFocus();
});

// Fragments are swapped in whatever their status; a sentence or a whole page never is. A page after
// a success is the sign-in page, because the session ended: go there. After a failure it is an
// error page.

// Leads to this page anew; who is signed out comes by the sign-in page.
function linkHere(label) {
  const link = document.createElement("a");
  link.href = location.pathname + location.search;
  link.textContent = label;
  return link;
}

function tell(text, label) {
  const place = (dialog.open && dialog.firstElementChild) || document.querySelector("main");
  place.prepend(notice);
  notice.textContent = text;
  if (label) notice.append(linkHere(label));
  notice.hidden = false;
}

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  focusWasInTable = Boolean(table()?.contains(document.activeElement));
  const { status, responseText } = detail.xhr;
  const isSentence = detail.xhr.getResponseHeader("content-type")?.startsWith("text/plain");
  if (!isSentence && !/^\s*<!doctype/i.test(responseText)) return;
  detail.shouldSwap = false;
  if (isSentence) tell(responseText, "Reload the page");
  else if (status < 400) location.assign(location.href);
  else tell(`That did not work (${status}).`, "Reload the page");
});

document.addEventListener("htmx:sendError", () => {
  tell("The server can’t be reached. Check your connection and try again.");
});

document.addEventListener("htmx:beforeRequest", ({ detail }) => {
  if (!isLive(detail.elt)) notice.hidden = true;
});

// What refreshes by itself rests while nobody looks, and hides no notice of something else.

function isLive(element) {
  return "live" in element.dataset;
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (isLive(event.detail.elt) && document.hidden) event.preventDefault();
});

// A deleted key's receipt is shown above the list, and can be put away.

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const url = detail.elt.dataset.receipt;
  if (url && detail.xhr.status === 204) htmx.ajax("GET", url, { target: "#receipt", swap: "outerHTML" });
});

// Clicks: a row is its Delete button, Cancel closes, Copy copies.

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = source.textContent.trim();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP, but for localhost, browsers offer only the old way.
    getSelection().selectAllChildren(source);
    if (!document.execCommand("copy")) return announce("Press Ctrl+C to copy.");
    button.focus();
  }
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function openRow(row, event) {
  if (!row || event.target.closest("a, button, input, label, summary")) return;
  // Whoever drags over a masked key wants to select it.
  if (getSelection().toString()) return;
  document.getElementById(row.dataset.opens).click();
}

// Boxes of the list: all at once, and how many are ticked.

function boxes() {
  return [...table().querySelectorAll("tbody .pick input")];
}

document.addEventListener("change", ({ target }) => {
  if (!target.closest(".pick")) return;
  if (target.closest("[data-all]")) for (const box of boxes()) box.checked = target.checked;
  const ticked = boxes().filter((box) => box.checked).length;
  const all = table().querySelector("[data-all] input");
  all.checked = ticked === boxes().length;
  all.indeterminate = ticked > 0 && !all.checked;
  announce(`${ticked} selected`);
});

function dismiss(section) {
  const place = document.createElement("div");
  place.id = section.id;
  section.replaceWith(place);
  restoreFocus();
}

document.addEventListener("click", (event) => {
  const closer = event.target.closest("[data-close]");
  const copier = event.target.closest("[data-copy]");
  const dismisser = event.target.closest("[data-dismiss]");
  if (closer && dialog.open) {
    event.preventDefault();
    // The second click of a double-click on OK must not close what the first one opened.
    if (event.detail < 2) {
      dialog.close();
      // At once, for it may show a secret: the event of the dialog comes a moment later.
      dialog.replaceChildren();
    }
  } else if (copier) copy(copier);
  else if (dismisser) dismiss(dismisser.closest("section"));
  else openRow(event.target.closest("tr[data-opens]"), event);
});

// Menus close when one looks away.

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) menu.open = false;
  }
}

document.addEventListener("click", ({ target }) => closeMenus(target.closest("details.menu")));
document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.("details.menu[open]");
  if (event.key !== "Escape" || !menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// Times come in UTC, and are shown in the viewer's zone with the distance from now on hover.

const absolute = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
const precise = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];

function distance(date) {
  const seconds = (date - Date.now()) / 1000;
  const [unit, length] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  return relative.format(Math.trunc(seconds / length), unit);
}

function prepare(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    time.textContent = ("seconds" in time.dataset ? precise : absolute).format(date);
    time.title = `${distance(date)} (${exact.format(date)})`;
  }
  for (const hidden of root.querySelectorAll("[data-copy], [data-all]")) hidden.hidden = false;
}

prepare(document);
document.addEventListener("htmx:load", ({ detail }) => prepare(detail.elt));

// The theme: automatic, light, dark, and around again. theme.js applies it before the first paint.

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  themeButton.setAttribute("aria-label", `Theme: ${theme === "auto" ? "automatic" : theme}`);
  themeButton.title = themeButton.ariaLabel;
  for (const icon of themeButton.querySelectorAll("[data-theme-icon]")) {
    icon.hidden = icon.dataset.themeIcon !== theme;
  }
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const theme = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "auto") localStorage.removeItem("theme");
    else localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  showTheme();
}

if (themeButton) {
  themeButton.hidden = false;
  themeButton.addEventListener("click", nextTheme);
  showTheme();
}
