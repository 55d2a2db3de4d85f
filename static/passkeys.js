// Buttons that ask the browser for a passkey. allauth's script does the asking; without JavaScript, or where
// the browser has no passkeys, the buttons stay hidden and a text says what else works.
"use strict";

const hasPasskeys = Boolean(window.PublicKeyCredential);
for (const element of document.querySelectorAll("[data-passkey]")) element.hidden = !hasPasskeys;
for (const element of document.querySelectorAll("[data-no-passkey]")) element.hidden = hasPasskeys;

const REASONS = {
  NotAllowedError: "The browser did not get a passkey. Try again, or use another way.",
  InvalidStateError: "This passkey is in your account already.",
  SecurityError: "Passkeys need https and a host name; they don’t work at this address.",
};

document.addEventListener("allauth.error", (event) => {
  event.preventDefault();
  const place = document.querySelector("[data-passkey-error]");
  place.textContent = REASONS[event.detail.exception?.name] ?? "The passkey could not be used. Try again.";
  place.hidden = false;
});
