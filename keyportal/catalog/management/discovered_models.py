"""Serves the models that a model server lists, and says how to serve those it can't."""

import re
import shlex
from collections.abc import Iterator

from django.core.exceptions import ValidationError
from django.db import transaction

from keyportal.catalog.models import NameTaken, ServedModel, Upstream
from keyportal.catalog.servers.discovery import BareList, escaped
from keyportal.teams.models import Team

# Attack: a server lists thousands of names. In one transaction, they would lock SQLite for so long
# that the gateway refuses calls.
NAMES_PER_TRANSACTION = 250
MAX_REASONS = 20  # How many skipped ids are explained.
MAX_ID_LENGTH = 200  # As in `Route.upstream_model`.
MAX_SUGGESTION_LENGTH = 100


def serve_all(
    ids: list[str], team: Team | None, upstream: Upstream, *, advice: str = ""
) -> tuple[list[str], list[str]]:
    """Serve the upstream's models with these ids. Returns their names, and why others are skipped.

    It is no single transaction: what is stored before an error stays. `advice` is what to do with
    an id that can't be a name; by default the command that serves it under another name.
    """
    valid, skipped = {}, []
    for id_ in ids:
        name = f"{_prefix(team)}/{id_}"
        try:
            ServedModel(name=name, team=team).clean_fields(exclude=["team"])
            valid[name] = id_
        except ValidationError as error:
            command = _command(id_, team, upstream)
            what_to_do = advice or (f"Give it a name: {command}" if command else "")
            reason = f"Skipped '{escaped(id_)}': {' '.join(error.messages)} {what_to_do}"
            skipped.append(reason.rstrip())
    names = list(valid)
    for start in range(0, len(names), NAMES_PER_TRANSACTION):
        part = {name: valid[name] for name in names[start : start + NAMES_PER_TRANSACTION]}
        with transaction.atomic():
            taken = ServedModel.objects.serve_many(part, team=team, upstream=upstream)
        skipped += [f"Skipped '{valid.pop(name)}': {NameTaken(name)}" for name in sorted(taken)]
    return list(valid), skipped


def explain(skipped: list[str]) -> Iterator[str]:
    """The reasons to print: not thousands of them."""
    yield from skipped[:MAX_REASONS]
    if len(skipped) > MAX_REASONS:
        yield f"Skipped {len(skipped) - MAX_REASONS} more."


def advice_for(bare_list: BareList, team: Team | None, upstream: Upstream) -> str:
    """What an operator can do with a server that returns a bare list."""
    commands = [_command(id_, team, upstream) for id_ in bare_list.ids[:MAX_REASONS]]
    advice = "Run this command again without --discover. Then add the models that you need:"
    return "\n".join([f"{bare_list} {advice}", *filter(None, commands)])


def _prefix(team: Team | None) -> str:
    return team.slug if team else "public"


def _command(id_: str, team: Team | None, upstream: Upstream) -> str:
    """The command that serves this id under a valid name; empty if it can't be typed or stored."""
    if not id_.isprintable() or len(id_) > MAX_ID_LENGTH:
        return ""
    parts = re.sub(r"[^A-Za-z0-9._:@+/-]+", "-", id_).split("/")
    valid = "/".join(part for part in parts if part.strip("."))[:MAX_SUGGESTION_LENGTH]
    command = ["manage.py", "add_model", f"{_prefix(team)}/{valid or 'NAME'}"]
    command += ["--upstream", upstream.name, "--upstream-model", id_]
    return shlex.join(command + (["--team", team.slug] if team else []))
