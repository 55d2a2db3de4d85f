// Runs before the first paint, so that the page does not flash in the other theme. The server has set the theme of
// the person's profile; what was chosen with the button in this browser replaces it.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be disabled; then the system's theme applies.
  }
})();
