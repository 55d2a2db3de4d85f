"""Fill a database: `python -m benchmarks.populate KEYS IN_USE`, in Keyportal's environment.

Copies the one key that is there until there are KEYS, and prints IN_USE whole keys, chosen at
random among them, a line each. The others have digests of nothing.
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
        # Each copy has the id `first + number`, so that a secret finds its key.
        first = ApiKey.objects.get().pk
        _copy(
            ApiKey,
            numbers,
            {
                "id": f"{first} + number",
                "name": "'bench ' || number",
                "public_id": f"substr('00000000' || number, {_ending(8)})",
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


def _ending(length: int) -> str:
    return f"length('00000000' || number) - {length - 1}"


def _copy(model: type[models.Model], numbers: str, changed: dict[str, str]) -> None:
    """A row for each number, like the one row that is there but for what is `changed`."""
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
    """Real keys for some of the secrets, wherever in the table they are."""
    from keyportal.keys import keystring
    from keyportal.keys.models import Secret

    chosen = random.sample(list(Secret.objects.values_list("pk", flat=True)), in_use)
    with transaction.atomic():
        for pk in chosen:
            text = keystring.generate().text
            Secret.objects.filter(pk=pk).update(digest=keystring.digest(text.encode()))
            print(text)  # noqa: T201


if __name__ == "__main__":
    django.setup()
    main(*map(int, sys.argv[1:]))
