"""See to it that the tests find the proxies that they run, or say how to install them."""
# ruff: noqa: INP001

import os
import shutil
import subprocess
import sys

PACKAGES = {"nginx": "nginx-light", "caddy": "caddy"}


def main() -> None:
    missing = _missing()
    if not missing:
        return
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        subprocess.run([apt_get, "update"], check=False)
        subprocess.run([apt_get, "install", "-y", *missing], check=False)
    if missing := _missing():
        sys.exit(f"apt-get install {' '.join(missing)}")


def _missing() -> list[str]:
    # Debian keeps nginx where a plain user's PATH doesn't look.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [package for name, package in PACKAGES.items() if not shutil.which(name, path=path)]


if __name__ == "__main__":
    main()
