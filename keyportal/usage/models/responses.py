"""Answers that model servers store, so that later requests for them reach the same server."""

from typing import ClassVar

from django.db import models

MAX_RESPONSE_ID = 512  # Those of LiteLLM, which contain others, have about 300 characters.


class StoredResponse(models.Model):
    """The id of an answer of `/v1/responses`, its team, and the model server that stores it.

    The answer itself is only there. An id is unique for one model server only: if a team has the
    same id from two, it has two rows, and the id leads to neither.
    """

    team_slug = models.CharField(max_length=64)
    response_id = models.CharField(max_length=MAX_RESPONSE_ID)
    model = models.CharField(max_length=200, help_text="The name of the served model.")
    upstream_id = models.BigIntegerField()
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team_slug", "response_id", "model", "upstream_id"],
                name="storedresponse_unique",
            )
        ]

    def __str__(self) -> str:
        return self.response_id
