"""Ids of requests."""

import re

import pytest

from keyportal.http.requests import new_request_id

pytestmark = pytest.mark.any_database


def test_request_ids_differ_and_later_ones_sort_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that calls of the same moment stand side by side in an index."""
    ids = []
    for now in (1_790_000_000.0, 1_790_000_000.1, 4_000_000_000.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        ids += sorted(new_request_id() for _ in range(3))

    assert ids == sorted(set(ids))
    assert all(re.fullmatch("req_[0-9a-f]{24}", each) for each in ids)
