"""What was done under an Idempotency-Key: the second time, the same answer, and nothing is done.

A key is reserved in a transaction of its own, so that a second request that comes meanwhile is told
so instead of waiting. The answer is written in the transaction of what was done, so that there is
both or neither. A worker that dies in between leaves a reservation without an answer: nothing was
done, and after a while the next one takes it over.

The key itself is not kept, only its digest; an API key's plaintext is in no answer that is kept.
"""

import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone

if TYPE_CHECKING:
    from keyportal.api.models import ManagementKey

KEPT = timedelta(hours=24)
ABANDONED = timedelta(minutes=2)  # No statement, and so no request, lasts for so long.


class InProgress(Exception):
    """A request with this key is being worked on."""


class UsedForAnother(Exception):
    """The key was used for another request than this one."""


class Overtaken(Exception):
    """Somebody took the reservation over: this request took far too long, and must do nothing."""


class RememberedQuerySet(models.QuerySet["Remembered"]):
    def reserve(self, key: "ManagementKey", text: str, request: bytes) -> "Remembered":
        """The row for this key: with an answer, if there was one; else reserved for the caller.

        `request` is all that makes the request what it is. Raises `InProgress` and
        `UsedForAnother`.
        """
        mark = secrets.token_hex(8)
        told = {"management_key": key, "digest": hashlib.sha256(text.encode()).digest()}
        fresh = {"fingerprint": hashlib.sha256(request).digest(), "mark": mark}
        try:
            with transaction.atomic():
                return self.create(**told, **fresh)
        except IntegrityError:
            pass
        now = timezone.now()
        free = Q(reserved_at__lt=now - KEPT) | Q(status=None, reserved_at__lt=now - ABANDONED)
        taken_over = self.filter(free, **told).update(
            **fresh, reserved_at=now, status=None, answer=""
        )
        return self._found(mark if taken_over else "", fresh["fingerprint"], told)

    def _found(self, mark: str, fingerprint: object, told: dict[str, object]) -> "Remembered":
        found = self.filter(**told).first()
        if found is None or (found.status is None and found.mark != mark):
            # Released by a request that was refused just now; asking again is the remedy too.
            raise InProgress
        if bytes(found.fingerprint) != fingerprint:
            raise UsedForAnother
        return found


class Remembered(models.Model):
    management_key = models.ForeignKey("api.ManagementKey", models.CASCADE, related_name="+")
    digest = models.BinaryField(max_length=32)
    fingerprint = models.BinaryField(max_length=32)
    mark = models.CharField(max_length=16, help_text="Of the request that reserved it.")
    reserved_at = models.DateTimeField(default=timezone.now)
    status = models.PositiveSmallIntegerField(null=True)
    answer = models.TextField(blank=True, help_text="JSON, without the plaintext of a key.")

    objects = RememberedQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["management_key", "digest"], name="remembered_unique")
        ]

    def __str__(self) -> str:
        return str(self.pk)

    def keep(self, status: int, answer: bytes) -> None:
        """In the transaction of what was done. Raises `Overtaken`, and it is undone."""
        mine = Remembered.objects.filter(pk=self.pk, mark=self.mark, status=None)
        if not mine.update(status=status, answer=answer.decode()):
            raise Overtaken

    def release(self) -> None:
        """Nothing was done, so the key may be used again."""
        Remembered.objects.filter(pk=self.pk, mark=self.mark, status=None).delete()
