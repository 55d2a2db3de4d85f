"""Install a Chromium for the browser tests if there is none; as a last resort, say how."""
# ruff: noqa: INP001

import os
import shutil
import subprocess
import sys

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def main() -> None:
    if _is_on_path() or _playwright_has_one():
        return
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        subprocess.run([apt_get, "update"], check=False)
        subprocess.run([apt_get, "install", "-y", "chromium"], check=False)
    else:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    if not (_is_on_path() or _playwright_has_one()):
        sys.exit("apt-get install chromium")


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
