"""Headers that go with each call to a model server: its credential, and those an operator adds."""

import re
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import models

MAX_TEXT_LENGTH = 4000  # Characters of all headers that an operator adds.

_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)")
# What the HTTP client writes itself, and what concerns the connection and not the call.
_RESERVED = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type"}
    | {"expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization"}
    | {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"x-client-request-id", "x-request-id"}
)


class CredentialHeader(models.TextChoices):
    """The header in which a model server gets its credential."""

    AUTHORIZATION = "authorization", "Authorization: Bearer"
    X_API_KEY = "x-api-key", "x-api-key"
    API_KEY = "api-key", "api-key"

    def names(self) -> set[str]:
        """Local servers read Authorization on Anthropic's endpoints too, Anthropic's x-api-key."""
        return {self.value, "x-api-key"} if self is self.AUTHORIZATION else {self.value}

    def header(self, credential: str) -> tuple[bytes, bytes]:
        scheme = "Bearer " if self is self.AUTHORIZATION else ""
        return self.value.encode(), f"{scheme}{credential}".encode()


class ServerHeaders(NamedTuple):
    """The headers that are the same in each call to one server."""

    usual: tuple[tuple[bytes, bytes], ...] = ()
    anthropic: tuple[tuple[bytes, bytes], ...] = ()
    """Instead of `usual` at Anthropic's endpoints."""
    added_names: frozenset[bytes] = frozenset()
    """Names of an operator's headers, in lower case. A caller's header of such a name is dropped.
    """


def parse(text: str) -> dict[str, str]:
    """The headers in a text of lines `Name: value`, by their names in lower case.

    Raises `ValidationError`, which does not contain any value: values are secrets. Attack: a line
    break in a value adds another header, and a wrong Content-Length another request.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ValidationError(f"The headers are longer than {MAX_TEXT_LENGTH} characters.")
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise ValidationError(
                f"Line {number} of the headers is not `Name: value` in visible ASCII characters."
            )
        name = match[1].lower()
        if name in _RESERVED or name in headers:
            reason = "is set twice" if name in headers else "can't be set here"
            raise ValidationError(f"The header {match[1]} {reason}.")
        headers[name] = match[2]
    return headers


def validate(text: str) -> None:
    """Raises `ValidationError`, as `parse` does."""
    parse(text)


def combine(added: dict[str, str], credential: str, credential_header: str) -> ServerHeaders:
    """The headers of each call to a server.

    `credential_header` is a value of `CredentialHeader`. Raises `ValidationError` if it is not, or
    if two headers have the same name.
    """
    usual = [(name.encode(), value.encode()) for name, value in added.items()]
    names = frozenset(name for name, _ in usual)
    anthropic = list(usual)
    if credential_header not in CredentialHeader:
        raise ValidationError("The credential's header is none of those that can be chosen.")
    if credential:
        carrier = CredentialHeader(credential_header)
        if twice := sorted(carrier.names() & added.keys()):
            raise ValidationError(
                f"The header {twice[0]} is sent with the credential, so it can't be set here too."
            )
        usual.append(carrier.header(credential))
        anthropic = [*usual]
        if carrier is CredentialHeader.AUTHORIZATION:
            anthropic.append((b"x-api-key", credential.encode()))
    return ServerHeaders(tuple(usual), tuple(anthropic), names)
