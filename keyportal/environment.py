"""How settings are read from environment variables. A value that can't be right is refused."""

import ipaddress
import re
import socket
import struct
from collections.abc import Collection
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import parseaddr
from typing import Any
from urllib.parse import SplitResult, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from keyportal import data_folder

_env = environ.Env()
# The names of all our variables, so that a check finds misspelt ones.
VARIABLES = {"KEYPORTAL_DATA"}


def read_text(variable: str, default: str) -> str:
    """An empty variable counts as unset: `make run PORT=` and compose files set empty ones."""
    VARIABLES.add(variable)
    return str(_env.str(variable, default=default)) or default


def read_number(variable: str, default: int, *, min_value: int, max_value: int = 2**31 - 1) -> int:
    text = read_text(variable, str(default))
    # Python refuses to read thousands of digits.
    is_number = text.isascii() and text.isdigit() and len(text) < 20
    if not (is_number and min_value <= int(text) <= max_value):
        raise ImproperlyConfigured(
            f"{variable} must be a whole number from {min_value} to {max_value}, not {text!r}."
        )
    return int(text)


def words(text: str) -> list[str]:
    """Split at spaces, commas or lines. `split_words` needs models, so it can't be used here."""
    return text.replace(",", " ").split()


def read_choice(variable: str, *choices: str) -> str:
    """The first one is the default."""
    text = read_text(variable, choices[0]).lower()
    if text not in choices:
        *others, last = filter(None, choices)
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ImproperlyConfigured(f"{variable} must be {listed}, not {text!r}.")
    return text


_SWITCH = dict.fromkeys(("on", "true", "yes", "1"), True)
_SWITCH |= dict.fromkeys(("off", "false", "no", "0"), False)


def read_switch(variable: str, default: str) -> bool:
    """Other texts are refused, so that a typing error is not taken for on or off."""
    text = read_text(variable, default).lower()
    if text not in _SWITCH:
        raise ImproperlyConfigured(f"{variable} must be on or off, not {text!r}.")
    return _SWITCH[text]


def read_share(variable: str) -> float:
    """`on`, `off`, or the part of all, such as 0.01."""
    text = read_text(variable, "off").lower()
    try:
        share = float(_SWITCH.get(text, text))
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise ImproperlyConfigured(
            f"{variable} must be on, off, or a number from 0 to 1 such as 0.01, not {text!r}."
        )
    return share


def read_secret(variable: str, *, is_required: bool) -> str:
    """Return it from the environment, else from the data folder, where a start wrote it."""
    VARIABLES.add(variable)
    value = data_folder.read_secret(variable)
    if not value and is_required:
        raise ImproperlyConfigured(
            f"{variable} is not set, and {data_folder.folder() / data_folder.SECRETS[variable][0]} "
            "is missing. A start of the server makes the file. For a command, set KEYPORTAL_DATA "
            f"to the data folder of the server, or {variable} as the server has it."
        )
    return value


def read_networks(variable: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in words(read_text(variable, "")))
    except ValueError as error:
        raise ImproperlyConfigured(f"{variable}: {error}.") from error


def read_prefixes(variable: str, default: str) -> tuple[str, ...]:
    VARIABLES.add(variable)
    return tuple(_env.list(variable, default=[default]))


def read_sender(variable: str, default: str) -> str:
    """Return an address, with or without a name: `Keyportal <keys@example.com>`."""
    text = read_text(variable, default)
    name, address = parseaddr(text)
    try:
        Address(name, addr_spec=address)
        is_valid = "@" in address and text.isprintable()
    except (ValueError, IndexError, HeaderParseError):
        is_valid = False
    if not is_valid:
        raise ImproperlyConfigured(
            f"{variable} must be an address such as keys@example.com or "
            f"Keyportal <keys@example.com>, not {text!r}."
        )
    return text


def read_origins(variable: str) -> tuple[str, ...]:
    """Return origins as browsers send them: in lower case, without the scheme's usual port.

    Schemes other than http are those of apps and browser extensions, such as `tauri://localhost`.
    """
    origins = [origin.lower() for origin in words(read_text(variable, ""))]
    host = r"(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    for origin in origins:
        if not re.fullmatch(rf"\*|[a-z][a-z0-9+.-]*://{host}(?::[0-9]{{1,5}})?", origin):
            raise ImproperlyConfigured(
                f"{variable} must contain origins such as https://app.example.com, without a path "
                f"or a slash at the end, or *; not {origin!r}."
            )
    usual_port = r"^(http://.+):80$|^(https://.+):443$"
    return tuple(re.sub(usual_port, r"\1\2", origin) for origin in origins)


def read_email_url(variable: str, default: str) -> dict[str, Any]:
    """Return Django's settings for it."""
    try:
        return dict(_env.email_url_config(read_text(variable, default)))
    except (ValueError, KeyError, ImproperlyConfigured):
        raise ImproperlyConfigured(
            f"{variable} can't be read. It must look like smtp+tls://user:password@host:587."
        ) from None


def public_parts(url: str, own_names: Collection[str]) -> SplitResult:
    """Return the parts of KEYPORTAL_URL. Its path begins with none of our own names."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if url and (
        not is_valid
        or set(parts.netloc) & set("@ \\")
        or set(url) & set("?#")
        or not re.fullmatch(r"(/[\w~-][\w.~-]*)*", parts.path, re.ASCII)
    ):
        raise ImproperlyConfigured(
            "KEYPORTAL_URL must look like https://keys.example.com "
            f"or https://tools.example.com/keyportal, not {url}"
        )
    if parts.path[1:].partition("/")[0] in own_names:
        raise ImproperlyConfigured(
            f"KEYPORTAL_URL can't have the path {parts.path}, because Keyportal has an address of "
            "this name itself. Choose another one, such as /keyportal."
        )
    return parts


def authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def machine_names() -> set[str]:
    """Return the names and addresses of this machine, for a server that listens on all of them."""
    names = {socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1"}
    for name in (socket.gethostname(), socket.getfqdn()):
        try:
            names |= {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(name, None)}
        except OSError:
            continue  # In containers, the host name often can't be resolved.
    return names | _interface_addresses()


def _interface_addresses() -> set[str]:
    """Return the IPv4 addresses of the network interfaces on Linux (SIOCGIFADDR)."""
    try:
        from fcntl import ioctl
    except ImportError:
        return set()
    addresses = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # An interface without an IPv4 address.
            addresses.add(socket.inet_ntoa(answer[20:24]))
    return addresses
