"""Mail to the owners of keys that call a model which is going away."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby

from django.conf import settings
from django.utils import timezone

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.notifications.emails import build_messages, send
from keyportal.teams.models import User
from keyportal.usage.models import UsageDay

RECENT = timedelta(days=30)


def tell_callers(model: ServedModel) -> int:
    """Write one mail to each owner, with their keys that called the model in the last 30 days.

    Call it in the transaction that marks the model. Returns the number of mails.
    """
    messages = [
        message
        for owner, keys in _callers(model)
        for message in build_messages("operators/email/retirement", [owner], _context(model, keys))
    ]
    send(messages)
    return len(messages)


def _callers(model: ServedModel) -> Iterator[tuple[User, list[ApiKey]]]:
    since = timezone.now() - RECENT
    used = UsageDay.objects.filter(model=model.name, start__gte=since).values("public_id")
    keys = ApiKey.objects.filter(public_id__in=used, owner__is_active=True)
    sorted_keys = keys.select_related("owner", "team").order_by("owner_id", "name")
    for owner, group in groupby(sorted_keys, key=lambda key: key.owner):
        if owner.mail_address:
            yield owner, [*group]


def _context(model: ServedModel, keys: list[ApiKey]) -> dict[str, object]:
    return {
        "model": model.name,
        "retires_on": model.retires_on.isoformat() if model.retires_on else "",
        "successor": model.successor.name if model.successor else "",
        "keys": [f"{key.name} ({key.public_id}) of the team {key.team.name}" for key in keys],
        "url": settings.PUBLIC_URL,
    }
