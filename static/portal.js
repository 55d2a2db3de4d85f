// What HTML and HTMX can't do. Every page works without this file.
"use strict";

const dialog = document.getElementById("dialog");
const notice = document.getElementById("notice");

// The dialog: HTMX fills it, this script opens it and restores the focus when it closes.

let opener = null;

// The button that opened the dialog may have been replaced by one with the same id.
function restoreFocus() {
  const find = (selector) => document.querySelector(selector);
  const again = opener?.isConnected ? opener : document.getElementById(opener?.id ?? "");
  (again ?? find("[data-create] button") ?? find("#refresh button") ?? find(".crumb a"))?.focus();
}

function forgetSecret() {
  document.querySelector("#created, #rotated")?.replaceChildren();
}

dialog.addEventListener("close", () => {
  dialog.replaceChildren();
  restoreFocus();
});

document.body.addEventListener("dialog-close", () => dialog.close());
document.body.addEventListener("show-message", ({ detail }) => announce(detail.value));

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

// A browser may keep the page, with the key string in it, and show it again on Back.
addEventListener("pagehide", () => {
  forgetSecret();
  if (dialog.open) dialog.close();
});

// The list: its busy state, announcements for screen readers, and the focus when its row is deleted.

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

// Fragments are swapped in, whatever their status; plain text and whole pages are not. A whole page
// with a success status is the sign-in page, because the session ended: reload. With an error
// status it is an error page.

// A link that reloads this page; a user who is signed out gets the sign-in page.
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
  else tell(`Something went wrong (${status}).`, "Reload the page");
});

document.addEventListener("htmx:sendError", () => {
  tell("The server can’t be reached. Check your connection and try again.");
});

document.addEventListener("htmx:beforeRequest", ({ detail }) => {
  if (!isLive(detail.elt)) notice.hidden = true;
});

// Elements that refresh automatically pause while the page is hidden, and don't hide a notice.

function isLive(element) {
  return "live" in element.dataset;
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (isLive(event.detail.elt) && document.hidden) event.preventDefault();
});

// The receipt of a deleted key is shown above the list and can be dismissed.

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const url = detail.elt.dataset.receipt;
  if (url && detail.xhr.status === 204) htmx.ajax("GET", url, { target: "#receipt", swap: "outerHTML" });
});

// Clicks: a row acts as its Delete button, Cancel closes the dialog, Copy copies.

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = source.textContent.trim();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP, other than localhost, browsers offer only the old API.
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
  // Dragging over a masked key selects its text; it must not open the dialog.
  if (getSelection().toString()) return;
  document.getElementById(row.dataset.opens).click();
}

// Checkboxes of the list: select all, and announce how many are selected.

function boxes() {
  return [...table().querySelectorAll("tbody .pick input")];
}

document.addEventListener("change", ({ target }) => {
  if (!target.closest("#table .pick")) return;
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
    // The second click of a double-click on OK must not close the dialog that the first one opened.
    if (event.detail < 2) {
      dialog.close();
      // Not in the close event, which comes later: the dialog may show a secret.
      dialog.replaceChildren();
    }
  } else if (copier) copy(copier);
  else if (dismisser) dismiss(dismisser.closest("section"));
  else openRow(event.target.closest("tr[data-opens]"), event);
});

// On a narrow screen the navigation scrolls horizontally: bring the current entry into view.

const currentEntry = document.querySelector(".sidebar [aria-current]");
if (currentEntry) {
  const list = currentEntry.closest("ul");
  list.scrollLeft = currentEntry.offsetLeft - (list.clientWidth - currentEntry.offsetWidth) / 2;
}

// Menus close on a click elsewhere and on Escape.

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

// Times are shown in the time zone of the profile, else in the browser's, with the relative time as a tooltip.

const { timeZone } = document.documentElement.dataset;
const absolute = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short", timeZone });
const precise = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium", timeZone });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long", timeZone });
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

// The theme cycles: automatic, light, dark. theme.js applies it before the first paint.

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
    // "auto" is stored only where the profile says something else.
    if (theme === "auto" && !("chosen" in document.documentElement.dataset)) localStorage.removeItem("theme");
    else localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  showTheme();
}

// A theme that is saved in the profile holds from then on, also in this browser.
document.addEventListener("submit", ({ target }) => {
  try {
    if ("savesTheme" in target.dataset) localStorage.removeItem("theme");
  } catch {
    // Without storage there is nothing to remove.
  }
});

if (themeButton) {
  themeButton.hidden = false;
  themeButton.addEventListener("click", nextTheme);
  showTheme();
}
