"""Install the programs that tests run, if they are missing; as a last resort, say how."""
# ruff: noqa: INP001

import os
import shutil
import subprocess
import sys

# And promtool, which reads rules for Prometheus.
PACKAGES = {
    "nginx": "nginx-light",
    "caddy": "caddy",
    "pgbouncer": "pgbouncer",
    "promtool": "prometheus",
}


def main() -> None:
    missing = _missing()
    if not missing:
        return
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        subprocess.run([apt_get, "update"], check=False)
        subprocess.run([apt_get, "install", "-y", "--no-install-recommends", *missing], check=False)
    if missing := _missing():
        sys.exit(f"apt-get install {' '.join(missing)}")


def _missing() -> list[str]:
    # On Debian, nginx and pgbouncer are in /usr/sbin, which is not on the PATH of a plain
    # user.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [package for name, package in PACKAGES.items() if not shutil.which(name, path=path)]


if __name__ == "__main__":
    main()
