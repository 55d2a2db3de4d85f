"""`iexact` and `icontains` that ignore the case of all letters, on every database.

SQLite's LIKE ignores the case of A to Z only, and so does PostgreSQL in a database with the locale
C. Every query that ignores case uses these lookups: sign-in, the search of keys, Django's admin,
allauth. PostgreSQL before version 17 still goes by the locale of its database.
"""

from typing import Any

from django.db.backends.signals import connection_created
from django.db.models import CharField, TextField
from django.db.models.lookups import IContains, IExact
from django.dispatch import receiver

Sql = tuple[str, list[Any]]
POSTGRESQL_WITH_C_UTF8 = 170_000


@receiver(connection_created)
def add_casefold(connection: Any, **_: object) -> None:
    if connection.vendor == "sqlite":
        connection.connection.create_function("CASEFOLD", 1, _casefold, deterministic=True)


def _casefold(value: object) -> str | None:
    return None if value is None else str(value).casefold()


class _IgnoresCase:
    postgresql_operator = "LIKE"

    def as_sqlite(self: Any, compiler: Any, connection: Any) -> Sql:
        if not self.rhs_is_direct_value():
            return self.as_sql(compiler, connection)  # type: ignore[no-any-return]  # of the lookup
        text, text_parameters = self.process_lhs(compiler, connection)
        pattern, parameters = self.process_rhs(compiler, connection)
        sql = rf"CASEFOLD({text}) LIKE CASEFOLD({pattern}) ESCAPE '\'"
        return sql, [*text_parameters, *parameters]

    def as_postgresql(self: Any, compiler: Any, connection: Any) -> Sql:
        if not self.rhs_is_direct_value() or connection.pg_version < POSTGRESQL_WITH_C_UTF8:
            return self.as_sql(compiler, connection)  # type: ignore[no-any-return]  # of the lookup
        text, text_parameters = compiler.compile(self.lhs)
        value, parameters = self.process_rhs(compiler, connection)
        upper = "UPPER(({})::text COLLATE pg_c_utf8)"
        sql = f"{upper.format(text)} {self.postgresql_operator} {upper.format(value)}"
        return sql, [*text_parameters, *parameters]


@CharField.register_lookup
@TextField.register_lookup
class ExactIgnoringCase(_IgnoresCase, IExact):
    postgresql_operator = "="


@CharField.register_lookup
@TextField.register_lookup
class ContainsIgnoringCase(_IgnoresCase, IContains):
    def as_sqlite(self, compiler: Any, connection: Any) -> Sql:
        """For ASCII, SQLite's own LIKE is enough, and eight times as fast."""
        if self.rhs_is_direct_value() and str(self.rhs).isascii():
            sql, parameters = self.as_sql(compiler, connection)
            return sql, [*parameters]
        return super().as_sqlite(compiler, connection)
