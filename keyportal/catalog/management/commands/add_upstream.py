from argparse import BooleanOptionalAction
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.headers import CredentialHeader
from keyportal.catalog.management import discovered_models
from keyportal.catalog.models import Upstream
from keyportal.catalog.servers import discovery
from keyportal.teams.management.operator import OperatorCommand, get_team, read_environment

OPTIONS = (
    "credential_header",
    "connect_timeout",
    "first_byte_timeout",
    "read_timeout",
    "ca_file",
    "client_certificate_file",
)
FIELDS = (
    *("base_url", "encrypted_credential", "encrypted_headers", "takes_stream_options"),
    *OPTIONS,
)


class Command(OperatorCommand):
    help = """Add a model server, or change the one with this name. With --discover, serve each
    model that it lists, and print their names, one per line. They can be called at once."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument(
            "url", help="as for an OpenAI client; without a path, /v1 is added; or loopback:"
        )
        credential = parser.add_mutually_exclusive_group()
        credential.add_argument(
            "--credential-env", metavar="VARIABLE", help="environment variable with its API key"
        )
        credential.add_argument("--no-credential", action="store_true", help="delete its API key")
        parser.add_argument(
            "--credential-header", choices=CredentialHeader.values, help="where the API key goes"
        )
        headers = parser.add_mutually_exclusive_group()
        headers.add_argument(
            "--headers-env",
            metavar="VARIABLE",
            help="environment variable with headers it needs, one `Name: value` a line",
        )
        headers.add_argument("--no-headers", action="store_true", help="delete these headers")
        parser.add_argument(
            "--stream-options",
            action=BooleanOptionalAction,
            default=None,
            help="whether streams are asked for their usage with stream_options",
        )
        parser.add_argument("--discover", action="store_true", help="serve the models it lists")
        parser.add_argument("--team", metavar="SLUG", help="serve them to this team; default: all")
        parser.add_argument("--connect-timeout", type=float, metavar="SECONDS")
        parser.add_argument("--first-byte-timeout", type=float, metavar="SECONDS")
        parser.add_argument("--read-timeout", type=float, metavar="SECONDS")
        parser.add_argument("--ca-file", metavar="PATH", help="the only CAs to trust; '': none")
        parser.add_argument(
            "--client-certificate-file", metavar="PATH", help="certificate and key; '': none"
        )

    def handle(self, **options: Any) -> None:
        if options["team"] and not options["discover"]:
            raise CommandError("--team applies to discovered models: add --discover.")
        team = get_team(options["team"]) if options["team"] else None
        upstream = _upstream_from(options)
        try:
            # Before the transaction: nothing is locked while the server answers, and nothing is
            # stored if it fails.
            ids = discovery.model_ids(upstream) if options["discover"] else []
        except discovery.BareList as error:
            advice = discovered_models.advice_for(error, team, upstream)
            raise CommandError(f"Nothing was changed: {advice}") from None
        except (discovery.DiscoveryFailed, CredentialUnreadable) as error:
            raise CommandError(f"Nothing was changed: {error}") from None
        is_new = upstream.pk is None
        with transaction.atomic():
            upstream.save(update_fields=None if is_new else FIELDS)
        self.note(f"{'Added' if is_new else 'Changed'} {upstream}: {upstream.base_url}")
        served, skipped = discovered_models.serve_all(ids, team, upstream)
        for name in served:
            self.stdout.write(name)
        for reason in discovered_models.explain(skipped):
            self.note(reason)
        if options["discover"] and not served:
            self.note("No model was added.")


def _upstream_from(options: dict[str, Any]) -> Upstream:
    """The new or changed upstream, not yet saved."""
    upstream = Upstream.objects.filter(name=options["name"], team=None).first() or Upstream(
        name=options["name"]
    )
    upstream.base_url = discovery.normalize_base_url(options["url"])
    if options["credential_env"]:
        upstream.credential = _check_credential(read_environment(options["credential_env"]))
    elif options["no_credential"]:
        upstream.credential = ""
    if options["headers_env"]:
        upstream.headers = read_environment(options["headers_env"])
    elif options["no_headers"]:
        upstream.headers = ""
    if options["stream_options"] is not None:
        upstream.takes_stream_options = options["stream_options"]
    for field in OPTIONS:
        if options[field] is not None:
            setattr(upstream, field, options[field])
    upstream.full_clean()
    return upstream


def _check_credential(credential: str) -> str:
    if not (credential.isascii() and credential.isprintable()) or " " in credential:
        raise CommandError("The credential contains spaces or characters that a header can't have.")
    return credential
