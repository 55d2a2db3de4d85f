"""Install a Chromium for the browser tests if there is none; as a last resort, say how.

The headless shell is preferred: it takes half of the processor time of the complete browser.
"""
# ruff: noqa: INP001

import os
import shutil
import subprocess
import sys

SHELL = "chromium-headless-shell"
NAMES = (SHELL, "chromium", "chromium-browser", "google-chrome")


def main() -> None:
    if shutil.which(SHELL):
        return
    _install(SHELL, update=not _is_on_path())
    if not (_is_on_path() or _playwright_has_one()):
        _install("chromium", update=False)
        if not (_is_on_path() or _playwright_has_one()):
            sys.exit(f"apt-get install {SHELL}, or chromium")


def _install(package: str, *, update: bool) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        if update:
            subprocess.run([apt_get, "update"], check=False)
        # It may fail: not every distribution has the shell, and another Chromium will do.
        subprocess.run([apt_get, "install", "-y", package], check=False)
    elif not (_is_on_path() or _playwright_has_one()):
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def _is_on_path() -> bool:
    return any(map(shutil.which, NAMES))


def _playwright_has_one() -> bool:
    """Starts it, because after the download a library of the system may still be missing."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            playwright.chromium.launch(chromium_sandbox=False).close()
        except Error:
            return False
    return True


if __name__ == "__main__":
    main()
