"""The built-in upstream at `/responses` and `/messages`, whose streams are made of named events."""

import secrets
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec

from keyportal.gateway.answer import Answer, json_answer, stream_answer
from keyportal.gateway.echo import Echo, Message, Part, count_words

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Event = dict[str, object]


class Response(msgspec.Struct):
    """OpenAI's newer way to ask. What refers to earlier answers isn't known here."""

    model: str
    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: AtLeastOne | None = None
    stream: bool = False

    def said(self) -> list[str]:
        given = [self.input] if isinstance(self.input, str) else [m.text() for m in self.input]
        return [self.instructions or "", *given]


class Prompt(msgspec.Struct):
    """What Anthropic's `/messages` and `/messages/count_tokens` have in common."""

    model: str
    messages: list[Message]
    system: str | list[Part] = ""

    def said(self) -> list[str]:
        system = Message("system", self.system).text()
        return [system, *(message.text() for message in self.messages)]


class Conversation(Prompt, kw_only=True):
    max_tokens: AtLeastOne
    stream: bool = False


def response(body: bytes) -> Answer:
    request = msgspec.json.decode(body, type=Response)
    echo = Echo(request.said(), request.max_output_tokens)
    begun = _response(request.model)
    if not request.stream:
        return json_answer(_completed(begun, echo))
    events = enumerate(_response_events(begun, echo))
    return stream_answer(_named(event | {"sequence_number": number}) for number, event in events)


def _response(model: str) -> Event:
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _item(begun: Event, text: str | None) -> Event:
    """The one message of an answer; before its text is there, it has no content yet."""
    return {
        "id": f"msg_{str(begun['id']).removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "content": [] if text is None else [_text_part(text)],
    }


def _text_part(text: str) -> Event:
    return {"type": "output_text", "text": text, "annotations": []}


def _completed(begun: Event, echo: Echo) -> Event:
    usage = {
        "input_tokens": echo.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": echo.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": echo.prompt_tokens + echo.completion_tokens,
    }
    ended: Event = {"status": "completed"}
    if echo.is_cut:
        ended = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return begun | ended | {"output": [_item(begun, echo.text)], "usage": usage}


def _response_events(begun: Event, echo: Echo) -> Iterator[Event]:
    at = {"item_id": _item(begun, None)["id"], "output_index": 0, "content_index": 0}
    whole = _completed(begun, echo)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.output_item.added", "output_index": 0, "item": _item(begun, None)}
    yield {"type": "response.content_part.added", **at, "part": _text_part("")}
    for piece in echo.pieces():
        yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **at, "text": echo.text, "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": _text_part(echo.text)}
    item = _item(begun, echo.text)
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def messages(body: bytes) -> Answer:
    request = msgspec.json.decode(body, type=Conversation)
    echo = Echo(request.said(), request.max_tokens)
    begun: Event = {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": echo.prompt_tokens, "output_tokens": 0},
    }
    if request.stream:
        return stream_answer(map(_named, _message_events(begun, echo)))
    usage = {"input_tokens": echo.prompt_tokens, "output_tokens": echo.completion_tokens}
    content = [{"type": "text", "text": echo.text}]
    return json_answer(begun | {"content": content, "stop_reason": _reason(echo), "usage": usage})


def _reason(echo: Echo) -> str:
    return "max_tokens" if echo.is_cut else "end_turn"


def _message_events(begun: Event, echo: Echo) -> Iterator[Event]:
    yield {"type": "message_start", "message": begun}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in echo.pieces():
        delta = {"type": "text_delta", "text": piece}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _reason(echo), "stop_sequence": None},
        "usage": {"output_tokens": echo.completion_tokens},
    }
    yield {"type": "message_stop"}


def count_tokens(body: bytes) -> Answer:
    said = msgspec.json.decode(body, type=Prompt).said()
    return json_answer({"input_tokens": count_words(said)})


def _named(event: Event) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))
