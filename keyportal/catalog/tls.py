"""TLS to model servers: which certificates are trusted, and the one that we show."""

import ssl
from functools import lru_cache
from pathlib import Path


def tls_context(ca_file: str, client_certificate_file: str) -> ssl.SSLContext:
    """A context that trusts only `ca_file`, or without it what the system and SSL_CERT_FILE name.

    The files are read again when they have changed on the disk, as renewed certificates do. Raises
    `OSError` if a file can't be read or is not what it should be.
    """
    files = tuple(filter(None, (ca_file, client_certificate_file)))
    try:
        changed = tuple(Path(file).stat().st_mtime_ns for file in files)
        return _context(ca_file, client_certificate_file, changed)
    except OSError as error:
        raise OSError(None, f"{' or '.join(files)} can't be used: {error}") from None


@lru_cache(128)
def _context(
    ca_file: str, client_certificate_file: str, _changed: tuple[int, ...]
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    if client_certificate_file:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(client_certificate_file, password="")
    return context
