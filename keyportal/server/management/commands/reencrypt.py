from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from allauth.mfa.models import Authenticator
from django.core.management.base import CommandError
from django.db import models, transaction

from keyportal.catalog.models import Upstream
from keyportal.database.encryption import Unreadable, decrypt, encrypt
from keyportal.teams.management.operator import OperatorCommand
from keyportal.teams.openid.stored import StoredProvider

COLUMNS: tuple[tuple[type[models.Model], str], ...] = (
    (Upstream, "encrypted_credential"),
    (Upstream, "encrypted_headers"),
    (StoredProvider, "encrypted_secret"),
)
FACTOR_FIELDS = {"secret", "seed"}
"""Of the data of an authenticator app and of recovery codes."""


class Command(OperatorCommand):
    help = (
        "Encrypt all secrets in the database with the first of KEYPORTAL_CREDENTIAL_KEYS. "
        "After that, its other keys are not needed."
    )

    def handle(self, **options: Any) -> None:
        count, lost = 0, []
        with transaction.atomic():
            for name, save, ciphertext in [*_columns(), *_factors()]:
                try:
                    save(encrypt(decrypt(ciphertext)))
                    count += 1
                except Unreadable:
                    lost.append(name)
        self.note(f"Secrets encrypted with the newest key: {count}.")
        if lost:
            raise CommandError(f"None of the keys decrypts the {', the '.join(lost)}.")


Secret = tuple[str, Callable[[str], object], str]
"""What it is, a function that saves it, and its ciphertext. The rows are locked."""


def _columns() -> Iterator[Secret]:
    for model, column in COLUMNS:
        rows = model._default_manager.exclude(**{column: ""})
        for row in rows.select_for_update(of=("self",)).order_by("pk"):
            same_row = model._default_manager.filter(pk=row.pk)
            save = partial(_update, same_row, column)
            yield f"{column.removeprefix('encrypted_')} of {row}", save, getattr(row, column)


def _update(rows: models.QuerySet[Any], column: str, value: object) -> None:
    """Without signals: the secret is the same, so nothing is audited."""
    rows.update(**{column: value})


def _factors() -> Iterator[Secret]:
    for row in Authenticator.objects.select_for_update(of=("self",)).order_by("pk"):
        for field in sorted(FACTOR_FIELDS & row.data.keys()):

            def save(ciphertext: str, row: Any = row, field: str = field) -> None:
                row.data[field] = ciphertext
                row.save(update_fields=["data"])

            yield f"second factor of {row.user}", save, row.data[field]
