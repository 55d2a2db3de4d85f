"""`manage.py doctor`: looks at everything that an installation needs, and says what to do."""

import json
import os
import shutil
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from smtplib import SMTPException
from typing import NamedTuple

from django.conf import settings
from django.core import checks
from django.core.mail import get_connection
from django.db import DatabaseError, connection

import keyportal
from keyportal import data_folder
from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import BUILT_IN_URL, Route, Upstream
from keyportal.catalog.servers.discovery import BareList, DiscoveryFailed, model_ids
from keyportal.catalog.servers.fetch import fetch
from keyportal.catalog.servers.health import Health, ServerHealth
from keyportal.http.fetch import Reply
from keyportal.server.health import is_read_only, missing_migrations
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.grants import teams_by_slug
from keyportal.teams.openid.providers import identity_providers as offered_providers
from keyportal.teams.openid.requests import ProviderFailed, discover
from keyportal.teams.openid.stored import StoredProvider

MAX_SKEW_SECONDS = 2.0
MIN_FREE_BYTES = 1024**3
# Of each worker: those of pages, and one each for admission, usage and the readiness check.
POOL_CONNECTIONS, OTHER_CONNECTIONS = 8, 3


class Finding(NamedTuple):
    check: str
    is_problem: bool
    text: str
    """What was found, and for a problem what to do."""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, text: str) -> Finding:
    return Finding(check, False, text)


def problem(check: str, text: str) -> Finding:
    return Finding(check, True, text)


def examine() -> Iterator[Finding]:
    """All findings. Without a database, those that need one are left out."""
    has_database = True
    always = (database, configuration, secrets, static_files, disk, mail, public_address)
    for check in always:
        findings = list(check())
        has_database = has_database and not (check is database and findings[-1].is_problem)
        yield from findings
    if has_database:
        for check in (migrations, connections, upstreams, identity_providers):
            yield from check()


def database() -> Iterator[Finding]:
    name = "database"
    try:
        connection.ensure_connection()
        if is_read_only("default"):
            yield problem(name, "It is read-only, such as a hot standby. Use the primary.")
            return
        yield from _clock_skew()
        yield ok(name, f"{connection.display_name} {_version()}, can be written{_timeouts()}.")
    except DatabaseError as error:
        text = " ".join(str(error).split())
        yield problem(name, f"{text}. Check DATABASE_URL, and that the database runs.")


def _version() -> str:
    return ".".join(map(str, connection.get_database_version()))


def _clock_skew() -> Iterator[Finding]:
    """Compare the clocks. Expiry, limits and usage go by the database's, sessions by ours."""
    if connection.vendor != "postgresql":
        return
    before = time.time()
    skew = float(_value("SELECT extract(epoch FROM clock_timestamp())")) - before
    if abs(skew) > MAX_SKEW_SECONDS:
        text = (
            f"The clock of the database differs by {skew:.0f} s from this host's. Use NTP on both."
        )
        yield problem("clock", text)
    else:
        yield ok("clock", "The database and this host have the same time.")


def _timeouts() -> str:
    if connection.vendor != "postgresql":
        return ""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    return "; " + ", ".join(f"{name} {_value(f'SHOW {name}')}" for name in names)


def _value(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])


def migrations() -> Iterator[Finding]:
    if missing := missing_migrations("default"):
        text = f"Not applied: {', '.join(missing)}. A start applies them, or `manage.py migrate`."
        yield problem("migrations", text)
    else:
        yield ok("migrations", "All are applied.")


def configuration() -> Iterator[Finding]:
    """The checks that each start makes, except those of stored rows."""
    messages = checks.run_checks(include_deployment_checks=False)
    for message in messages:
        text = " ".join(f"{message.msg} {message.hint or ''} ({message.id})".split())
        yield Finding("configuration", message.level >= checks.WARNING, text)
    if not messages:
        yield ok("configuration", "The settings are valid.")


def secrets() -> Iterator[Finding]:
    """Attack: another user of this host reads them, and forges sessions or reads credentials."""
    name = "secrets"
    for variable, (file_name, _) in data_folder.SECRETS.items():
        file = data_folder.folder() / file_name
        if os.environ.get(variable):
            yield ok(name, f"{variable} is set in the environment.")
        elif file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield problem(name, f"Other users may read {file}. Run `chmod 600 {file}`.")
        else:
            yield ok(name, f"Only its owner may read {file}.")


def static_files() -> Iterator[Finding]:
    manifest = Path(settings.STATIC_ROOT) / "staticfiles.json"
    if manifest.exists():
        yield ok("static files", f"They are in {settings.STATIC_ROOT}.")
    else:
        text = f"{manifest} is missing. A start makes it, or `manage.py collectstatic`."
        yield problem("static files", text)


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(settings.DATA_DIR).free
    text = f"{free / 1024**3:.1f} GiB are free in {settings.DATA_DIR}."
    if free < MIN_FREE_BYTES:
        yield problem("disk", f"Only {text} Make room, or move the folder with KEYPORTAL_DATA.")
    else:
        yield ok("disk", text)
    folder, needed = tempfile.gettempdir(), settings.BODY_DISK * settings.WEB_CONCURRENCY
    free = shutil.disk_usage(folder).free
    text = f"{free / 1024**3:.1f} GiB are free in {folder}, for large bodies."
    if free < needed:
        advice = "Make room, choose another folder with TMPDIR, or lower KEYPORTAL_BODY_DISK."
        yield problem("disk", f"Only {text} They may take {needed / 1024**3:.1f} GiB. {advice}")
    else:
        yield ok("disk", text)


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


def identity_providers() -> Iterator[Finding]:
    providers = offered_providers()
    if not (providers or settings.PASSWORD_SIGN_IN):
        text = (
            "Nobody signs in with a password, and there is no identity provider. Add one on the "
            "operators' page Sign-in, or set KEYPORTAL_OIDC_PROVIDERS; `manage.py signinlink` "
            "prints a link to get in."
        )
        yield problem("sign-in", text)
    for row in StoredProvider.objects.filter(is_active=True):
        if not row.is_readable:
            text = "Its client secret can't be decrypted. Enter it again on the page Sign-in."
            yield problem(f"sign-in with {row}", text)
    for provider in providers:
        name = f"sign-in with {provider.id}"
        try:
            discover(provider)
        except ProviderFailed as error:
            yield problem(name, f"{error}. Check its issuer, and that it can be reached from here.")
        else:
            yield ok(name, f"Its discovery document at {provider.issuer} is right.")
        yield from _group_teams(name, provider)


def _group_teams(name: str, provider: IdentityProvider) -> Iterator[Finding]:
    named = {slug for roles in provider.groups.values() for slug in roles}
    if unknown := named - teams_by_slug(named).keys():
        teams = ", ".join(sorted(unknown))
        text = f"Its groups give roles in teams that are unknown: {teams}. Correct their slugs."
        yield problem(name, text)


def _get(url: str) -> Reply:
    return fetch(url, {"accept": "application/json"}, ssl.create_default_context())


def connections() -> Iterator[Finding]:
    """Whether all workers of this host may open all their connections."""
    if connection.vendor != "postgresql":
        return
    most = int(_value("SHOW max_connections")) - int(_value("SHOW superuser_reserved_connections"))
    workers = settings.WEB_CONCURRENCY
    need = workers * (POOL_CONNECTIONS + OTHER_CONNECTIONS)
    text = f"{workers} workers open up to {need}; the database has {most} for all hosts."
    if need > most:
        text += " Raise max_connections, or lower WEB_CONCURRENCY."
    yield Finding("connections", need > most, text)


def upstreams() -> Iterator[Finding]:
    """Ask each of the operators' model servers for its models, with the credential of calls."""
    servers = list(Upstream.objects.filter(team=None, is_active=True).order_by("name"))
    wanted: dict[int, set[str]] = {server.pk: set() for server in servers}
    for route in Route.objects.usable().filter(upstream__team=None):
        wanted[route.upstream_id].add(route.upstream_model)
    with ThreadPoolExecutor(8) as threads:
        yield from threads.map(lambda server: _ask(server, wanted[server.pk]), servers)
    health = Health.read()
    for server in servers:
        if (seen := health.of_server(server.fingerprint)).failure_count:
            yield problem(f"model server {server.name}", _as_seen(seen))


def _as_seen(health: ServerHealth) -> str:
    where = f" {health.workers}" if health.workers else " the worker"
    return (
        f"Calls of{where} fail since {health.since:%Y-%m-%d %H:%M:%S} UTC: "
        f"{health.last_failures}. Read the log of their hosts."
    )


def _ask(server: Upstream, wanted: set[str]) -> Finding:
    name = f"model server {server.name}"
    if server.base_url == BUILT_IN_URL:
        return ok(name, "It is the built-in demo model.")
    try:
        listed = set(model_ids(server))
    except CredentialUnreadable:
        text = (
            "Its credential can't be decrypted. Add the lost key to KEYPORTAL_CREDENTIAL_KEYS, or "
            f"store it again: `manage.py add_upstream {server.name} URL --credential-env NAME`."
        )
        return problem(name, text)
    except BareList as error:
        listed = set(error.ids)
    except DiscoveryFailed as error:
        return problem(name, f"{error} Check its address and credential, and that it runs.")
    if missing := sorted(wanted - listed):
        text = f"It does not list {', '.join(missing)}, to which routes lead. Correct the routes."
        return problem(name, text)
    return ok(name, f"It accepts the credential and lists {len(listed)} models.")
