"""The table of stored answers: each is found by its team only, on any worker."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from django.db import OperationalError

from keyportal.gateway import stored_responses as module
from keyportal.gateway.errors import DatabaseUnavailable, ResponseNotFound
from keyportal.gateway.metering.writer import Writer
from keyportal.gateway.relay.answer import Answer, BufferedBody, json_answer, stream_answer
from keyportal.gateway.stored_responses import Maker, StoredResponses
from keyportal.usage.models import StoredResponse
from tests.support import model_responses

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
Run = Callable[[Callable[[StoredResponses], Coroutine[Any, Any, Any]]], Any]
MAKER = Maker("public/a", 7)


@pytest.fixture
def run(transactional_db: None) -> Iterator[Run]:
    """Run a test with `StoredResponses` in an event loop."""
    writer = Writer()

    def run(test: Callable[[StoredResponses], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(test(StoredResponses(writer)))

    yield run
    writer.close()
    writer._thread.shutdown()  # Waits: an open connection would keep the database.


async def store(responses: StoredResponses, id_: str, team: str = "t", to: Maker = MAKER) -> None:
    await responses.watch(json_answer({"id": id_}), team, to)


def test_answer_is_found_by_its_team_only(run: Run) -> None:
    async def test(responses: StoredResponses) -> None:
        await store(responses, "resp_1")
        assert await responses.find("t", "resp_1") == MAKER
        for team, id_ in (("other", "resp_1"), ("t", "resp_2"), ("t", "../x"), ("t", "a" * 9999)):
            with pytest.raises(ResponseNotFound):
                await responses.find(team, id_)

    run(test)


def test_id_of_two_servers_leads_to_neither(run: Run) -> None:
    """Attack: a model server gives the id of another one's answer, and gets its next request."""

    async def test(responses: StoredResponses) -> None:
        for _ in range(2):
            await store(responses, "resp_1")
            await store(responses, "resp_1", team="other", to=Maker("public/a", 8))
        assert await responses.find("t", "resp_1") == MAKER
        await store(responses, "resp_1", to=Maker("public/a", 8))
        with pytest.raises(ResponseNotFound):
            await responses.find("t", "resp_1")

    run(test)


def test_answers_of_one_moment_are_written_together(run: Run) -> None:
    async def test(responses: StoredResponses) -> None:
        await asyncio.gather(*(store(responses, f"resp_{number}") for number in range(50)))

    run(test)
    assert StoredResponse.objects.count() == 50


def test_id_of_a_stream_is_stored_when_its_first_event_arrives(run: Run) -> None:
    async def test(responses: StoredResponses) -> None:
        answer = await responses.watch(stream_answer(model_responses.RESPONSE_STREAM), "t", MAKER)
        assert not isinstance(answer.body, bytes)
        await answer.body.next_chunk()
        assert await responses.find("t", "resp_1") == MAKER

    run(test)


@pytest.mark.any_database
def test_compressed_stream_is_not_held_back(run: Run) -> None:
    """In it no event can be found, so it would be buffered to its end."""

    class Silent(BufferedBody):
        async def next_chunk(self) -> bytes:
            return await super().next_chunk() or await asyncio.Future()

    async def test(responses: StoredResponses) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
        answer = await responses.watch(Answer(200, headers, Silent([b"compressed"])), "t", MAKER)
        assert not isinstance(answer.body, bytes)
        assert await asyncio.wait_for(answer.body.next_chunk(), 60) == b"compressed"

    run(test)


def test_answer_passes_without_a_database_and_is_stored_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("no database")

    async def test(responses: StoredResponses) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_upsert", fail)
            patch.setattr(module, "_select", fail)
            await store(responses, "resp_1")
            with pytest.raises(DatabaseUnavailable):
                await responses.find("t", "resp_1")
        await store(responses, "resp_2")
        assert await responses.find("t", "resp_1") == MAKER

    run(test)


@pytest.mark.any_database
@pytest.mark.parametrize("status", [201, 202, 400, 404, 500])
def test_other_answers_are_not_stored(run: Run, status: int) -> None:
    async def test(responses: StoredResponses) -> None:
        await responses.watch(json_answer({"id": "resp_1"})._replace(status=status), "t", MAKER)
        with pytest.raises(ResponseNotFound):
            await responses.find("t", "resp_1")

    run(test)
