"""See to it that the tests of the nginx configuration find an nginx, or say how to install one."""
# ruff: noqa: INP001

import os
import shutil
import subprocess
import sys


def main() -> None:
    if _is_there():
        return
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        subprocess.run([apt_get, "update"], check=False)
        subprocess.run([apt_get, "install", "-y", "nginx-light"], check=False)
    if not _is_there():
        sys.exit("apt-get install nginx-light")


def _is_there() -> bool:
    # Debian keeps it where a plain user's PATH doesn't look.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None


if __name__ == "__main__":
    main()
