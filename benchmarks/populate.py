"""Fills a database: `python -m benchmarks.populate KEYS IN_USE`, in Keyportal's environment.

Copies the existing key until there are KEYS, and prints IN_USE key strings, one per line, of keys
chosen at random among them. The other keys have random digests.
"""

import random
import sys

import django
from django.db import connection, models, transaction


def main(keys: int, in_use: int) -> None:
    from keyportal.keys.models import ApiKey, Secret

    with transaction.atomic():
        numbers = f"generate_series(2, {keys}) AS number"
        digest = "sha256(('none ' || number)::bytea)"
        if connection.vendor == "sqlite":
            numbers = (
                "(WITH RECURSIVE counted(number) AS (VALUES (2) UNION ALL SELECT number + 1 "  # noqa: S608
                f"FROM counted WHERE number < {keys}) SELECT number FROM counted) AS numbers"
            )
            digest = "randomblob(32)"
        # Key and secret of each copy have the same id, `first + number`.
        first = ApiKey.objects.get().pk
        _copy(
            ApiKey,
            numbers,
            {
                "id": f"{first} + number",
                "name": "'bench ' || number",
                "public_id": f"substr('00000000' || number, {_last_characters(8)})",
            },
        )
        _copy(
            Secret,
            numbers,
            {"id": f"{first} + number", "key_id": f"{first} + number", "digest": digest},
        )
    _print_keys(in_use)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _last_characters(length: int) -> str:
    return f"length('00000000' || number) - {length - 1}"


def _copy(model: type[models.Model], numbers: str, changed: dict[str, str]) -> None:
    """Insert a copy of the existing row for each number, except for the `changed` columns."""
    quote = connection.ops.quote_name
    columns = [str(field.column) for field in model._meta.concrete_fields]
    values = [changed.get(column, f"one.{quote(column)}") for column in columns]
    table = quote(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(map(quote, columns))}) "  # noqa: S608 - all ours
            f"SELECT {', '.join(values)} FROM {table} one, {numbers}"
        )


def _print_keys(in_use: int) -> None:
    """Generate key strings for `in_use` random secrets, and print them."""
    from keyportal.keys import keystring
    from keyportal.keys.models import Secret

    secret_ids = random.sample(list(Secret.objects.values_list("pk", flat=True)), in_use)
    with transaction.atomic():
        for pk in secret_ids:
            text = keystring.generate().text
            Secret.objects.filter(pk=pk).update(digest=keystring.digest(text.encode()))
            print(text)  # noqa: T201


if __name__ == "__main__":
    django.setup()
    main(*map(int, sys.argv[1:]))
