"""The mark of a form that makes something which is shown once: it works one time."""

from datetime import timedelta

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from keyportal.keys.exceptions import NonceAlreadyUsed

NONCE_MEMORY = timedelta(days=7)


class SpentNonceQuerySet(models.QuerySet["SpentNonce"]):
    def spend(self, nonce: str) -> None:
        """Use up a form's mark, in the transaction of what the form does; once, or not at all."""
        if not nonce:
            return
        self.filter(spent_at__lt=timezone.now() - NONCE_MEMORY).delete()
        try:
            with transaction.atomic():
                self.create(nonce=nonce)
        except IntegrityError:
            raise NonceAlreadyUsed from None


class SpentNonce(models.Model):
    """The mark of a form that has done its work: a reload or Back can't do it again."""

    nonce = models.CharField(max_length=64, unique=True)
    spent_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects = SpentNonceQuerySet.as_manager()

    def __str__(self) -> str:
        return str(self.pk)
