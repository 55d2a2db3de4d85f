// Runs before the first paint, so that the page does not flash in the other theme. "auto" stores nothing.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be disabled; then the system's theme applies.
  }
})();
