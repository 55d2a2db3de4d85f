"""One-use form nonces: a form that shows a secret once can be submitted once."""

from datetime import timedelta

from django.db import IntegrityError, models, transaction
from django.utils import timezone

from keyportal.keys.exceptions import NonceAlreadyUsed

NONCE_MEMORY = timedelta(days=7)


class SpentNonceQuerySet(models.QuerySet["SpentNonce"]):
    def spend(self, nonce: str) -> None:
        """Record the nonce in the transaction of the form's action. An empty nonce is ignored.

        Raises `NonceAlreadyUsed`.
        """
        if not nonce:
            return
        self.filter(spent_at__lt=timezone.now() - NONCE_MEMORY).delete()
        try:
            with transaction.atomic():
                self.create(nonce=nonce)
        except IntegrityError:
            raise NonceAlreadyUsed from None


class SpentNonce(models.Model):
    """The nonce of a submitted form. A reload or the Back button cannot submit it again."""

    nonce = models.CharField(max_length=64, unique=True)
    spent_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects = SpentNonceQuerySet.as_manager()

    def __str__(self) -> str:
        return str(self.pk)
