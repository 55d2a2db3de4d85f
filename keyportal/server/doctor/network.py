"""The mail server, and Keyportal itself at its public address."""

import json
import ssl
from collections.abc import Iterator
from http.client import HTTPException
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import get_connection

import keyportal
from keyportal.catalog.servers.fetch import fetch
from keyportal.http.fetch import Reply
from keyportal.server.doctor.findings import Finding, ok, problem


def mail() -> Iterator[Finding]:
    """Connect and sign in, and send nothing."""
    backend = get_connection(settings.OUTBOX_EMAIL_BACKEND)
    if "smtp" not in settings.OUTBOX_EMAIL_BACKEND:
        yield ok("mail", "It is not sent: EMAIL_URL names no mail server.")
        return
    try:
        backend.open()
        backend.close()
    except (OSError, SMTPException) as error:
        text = f"The mail server in EMAIL_URL can't be used: {' '.join(str(error).split())}."
        yield problem("mail", text)
    else:
        yield ok("mail", "The mail server accepts connections.")


def public_address() -> Iterator[Finding]:
    name, url = "public address", settings.PUBLIC_URL
    if not url:
        yield problem(name, "KEYPORTAL_URL is not set. Set it to the address that people use.")
        return
    try:
        reply = _get(f"{url}/healthz")
        version = json.loads(reply.body)["version"]
        refusal = _get(f"{url}/v1/models").status
    except (OSError, HTTPException) as error:
        text = f"{url} can't be reached from here: {error}. Is the server running? Check the proxy."
        yield problem(name, text)
    except (ValueError, KeyError, TypeError):
        text = f"{url}/healthz is not answered by Keyportal. Check the proxy and KEYPORTAL_URL."
        yield problem(name, text)
    else:
        if refusal == 426:
            text = (
                f"{url} is https, but requests seem to arrive by http. Set "
                "KEYPORTAL_TRUSTED_PROXIES to the proxy, and let it send X-Forwarded-Proto."
            )
            yield problem(name, text)
        elif version != keyportal.__version__:
            text = (
                f"{url} serves version {version}, and this is {keyportal.__version__}. Restart it."
            )
            yield problem(name, text)
        else:
            yield ok(name, f"{url} serves this version.")


def _get(url: str) -> Reply:
    return fetch(url, {"accept": "application/json"}, ssl.create_default_context())
