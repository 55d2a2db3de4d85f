"""The version of the catalog, by which workers know whether they must read it again."""

import secrets

from django.db import models


class CatalogVersion(models.Model):
    """One row with a random number, changed with the catalog, so that workers read it again.

    It changes in the same transaction as the catalog. It is not a counter: after a restored backup
    a counter would reach an old number again, with another catalog.
    """

    version = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.version)


def change_version() -> None:
    CatalogVersion.objects.update_or_create(pk=1, defaults={"version": secrets.randbits(62)})
