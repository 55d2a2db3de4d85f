// Runs before the first paint, so that a chosen theme never flashes. "auto" is the absence of one.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be switched off; then the system's theme holds.
  }
})();
