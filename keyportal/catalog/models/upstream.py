"""Model servers (upstreams)."""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from keyportal.catalog import credentials, headers
from keyportal.catalog.addresses import is_metadata_address
from keyportal.catalog.headers import CredentialHeader, ServerHeaders
from keyportal.catalog.tls import tls_context
from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import Team

HELD = "The operators have switched off this model server. Only they switch it on again."
BUILT_IN_URL = "loopback:"  # The base URL of the built-in demo model, which needs no server.


def validate_base_url(url: str) -> None:
    """Allow http(s) URLs with a host and without user, fragment or metadata address.

    Loopback and private addresses are allowed, because model servers have them.
    """
    if url == BUILT_IN_URL:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValidationError(f"{url} is not a URL: {error}.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
        raise ValidationError(f"{url} is not an http:// or https:// URL with a host.")
    if parts.username or parts.password or parts.fragment:
        raise ValidationError("A base URL can't have a user, password or fragment.")
    if is_metadata_address(parts.hostname):
        raise ValidationError(
            "Link-local and cloud metadata addresses are not allowed: they are never model servers."
        )


def validate_absolute_path(path: str) -> None:
    """A relative path would depend on the folder in which the server was started."""
    if not Path(path).is_absolute():
        raise ValidationError(f"{path} is not an absolute path.")


class Upstream(models.Model):
    """A model server that speaks the OpenAI protocol."""

    name = models.CharField(max_length=64, validators=[require_no_key])
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        editable=False,
        related_name="servers",
        help_text="The team whose admins have added it, for models of the team only.",
    )
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[validate_base_url, require_no_key],
        help_text="As for an OpenAI client, such as http://127.0.0.1:8001/v1.",
    )
    encrypted_credential = models.TextField(blank=True, editable=False)
    credential_header = models.CharField(
        max_length=16,
        choices=CredentialHeader,
        default=CredentialHeader.AUTHORIZATION,
        help_text="The header in which this model server expects its credential.",
    )
    encrypted_headers = models.TextField(blank=True, editable=False)
    takes_stream_options = models.BooleanField(
        "takes stream_options",
        default=True,
        help_text="Streams are asked for their usage with stream_options. Without it, the usage "
        "of streams is estimated if the server doesn't report it by itself.",
    )
    connect_timeout = models.FloatField(
        default=5,
        validators=[MinValueValidator(0.1), MaxValueValidator(60)],
        help_text="Seconds until a connection must be open.",
    )
    first_byte_timeout = models.FloatField(
        default=600,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds until the answer must begin.",
    )
    read_timeout = models.FloatField(
        default=600,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds for which the server may send nothing once its answer has begun.",
    )
    ca_file = models.CharField(
        "CA file",
        max_length=500,
        blank=True,
        validators=[validate_absolute_path],
        help_text="Path of a PEM file on this server. Only the CAs in it are trusted for this "
        "model server. Empty: those that the system trusts.",
    )
    client_certificate_file = models.CharField(
        max_length=500,
        blank=True,
        validators=[validate_absolute_path],
        help_text="Path of a PEM file on this server with a certificate and its private key, if "
        "the model server asks for one.",
    )
    sends_keepalive = models.BooleanField(
        "keep-alive comments",
        default=True,
        help_text="While a stream of this server is silent, send comments to the caller, so that "
        "no proxy closes the connection. Turn it off if a client can't read comments.",
    )
    is_active = models.BooleanField(
        default=True,
        help_text="A server that is switched off gets no new calls. Running calls end as usual.",
    )
    is_off_by_team = models.BooleanField(default=False, editable=False)
    """Whether its team has switched it off, and may switch it on again."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "model server"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team", "name"], name="upstream_unique"),
            models.UniqueConstraint(
                fields=["name"], condition=models.Q(team=None), name="upstream_of_all_unique"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def full_name(self) -> str:
        """The only one of this name, for logs and pages that show servers of several teams."""
        return f"{self.team.slug}/{self.name}" if self.team else self.name

    def clean(self) -> None:
        # The database's constraints are not checked in forms, which have no field for the team.
        same_name = Upstream.objects.filter(team=self.team, name=self.name).exclude(pk=self.pk)
        if same_name.exists():
            raise ValidationError({"name": "Model server with this Name already exists."})
        self.check_team_address()
        self._require_secrets_again()
        self._check_certificate_files()
        # If a stored secret can't be decrypted, the server is not used, and the log says why.
        with contextlib.suppress(credentials.CredentialUnreadable):
            _ = self.server_headers

    def switch(self, *, is_active: bool, by_team: bool) -> None:
        """Raises `ValidationError` if its team may not switch it on. Call it under the lock."""
        if by_team and is_active:
            self.check_team_address()
            if self.is_held:
                raise ValidationError(HELD)
        # Attack: a team switches off once more what the operators have switched off.
        is_held = self.is_held
        self.is_active = is_active
        self.is_off_by_team = by_team and not is_active and not is_held
        self.save(update_fields=["is_active", "is_off_by_team"])

    @property
    def is_held(self) -> bool:
        """Whether the operators have switched it off, so that its team can't switch it on."""
        return not (self.is_active or self.is_off_by_team)

    def check_team_address(self) -> None:
        """Refuse a server of a team that the operators don't allow. Of its addresses, only one that
        is typed as such is judged here, and all when a connection is opened.
        """
        if self.team_id is None:
            return
        if not settings.TEAM_SERVERS:
            raise ValidationError("The operators have switched off model servers of teams.")
        parts = urlsplit(self.base_url)
        if parts.scheme != "https":
            raise ValidationError({"base_url": "The model server of a team needs https://."})
        if not settings.TEAM_SERVERS.allows_name(parts.hostname or ""):
            raise ValidationError(
                {"base_url": f"The operators don't allow teams to add {parts.hostname}."}
            )
        # Attack: a path tells which files this machine has, and names another server's key.
        if self.ca_file or self.client_certificate_file:
            raise ValidationError("The model server of a team can't have certificate files.")

    def _require_secrets_again(self) -> None:
        """If the base URL changes. Attack: the new server would get the old server's secrets."""
        stored = Upstream.objects.filter(pk=self.pk).exclude(base_url=self.base_url).first()
        for secret, name in (
            ("encrypted_credential", "credential"),
            ("encrypted_headers", "headers"),
        ):
            if stored and getattr(self, secret) == getattr(stored, secret) != "":
                raise ValidationError(
                    f"The base URL of {self} changes: enter its {name} again, or delete them, so "
                    f"that nothing is sent to another server by accident."
                )

    def _check_certificate_files(self) -> None:
        """Refuse files that can't be used, and files without https, which would not be used."""
        files = (self.ca_file, self.client_certificate_file)
        if not any(files):
            return
        if urlsplit(self.base_url).scheme != "https":
            raise ValidationError("Certificate files are used with https:// only.")
        try:
            tls_context(*files)
        except (OSError, ValueError) as error:
            raise ValidationError(str(error)) from error

    @property
    def fingerprint(self) -> str:
        """A hash of the settings that decide whether calls to this server succeed.

        The circuit breaker's state is stored by it, so a server whose settings change starts anew.
        """
        secrets = (self.encrypted_credential, self.encrypted_headers, str(self.credential_header))
        files = (self.ca_file, self.client_certificate_file)
        others = (self.base_url, *secrets, *files, self.takes_stream_options)
        timeouts = (self.connect_timeout, self.first_byte_timeout, self.read_timeout)
        values = (self.pk, *others, *map(float, timeouts))
        return hashlib.sha256(repr(values).encode()).hexdigest()

    @property
    def credential(self) -> str:
        """The decrypted bearer token for this server; empty for none.

        Raises `credentials.CredentialUnreadable` if no configured key decrypts it.
        """
        return credentials.decrypt(self.encrypted_credential)

    @credential.setter
    def credential(self, plaintext: str) -> None:
        self.encrypted_credential = credentials.encrypt(plaintext)

    @property
    def headers(self) -> str:
        """The decrypted headers of an operator, one `Name: value` a line.

        Raises `credentials.CredentialUnreadable`.
        """
        return credentials.decrypt(self.encrypted_headers)

    @headers.setter
    def headers(self, text: str) -> None:
        self.encrypted_headers = credentials.encrypt(text)

    @property
    def server_headers(self) -> ServerHeaders:
        """What goes with each call. Raises `ValidationError` or `CredentialUnreadable`."""
        added = headers.parse(self.headers)
        return headers.combine(added, self.credential, self.credential_header)
