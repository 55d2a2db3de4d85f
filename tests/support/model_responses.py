"""Responses of model servers at each endpoint, complete and streamed, with their token usage."""

import json
from typing import Any

WORDS = ["Hello", ",", " caller", "!"]
TEXT = "".join(WORDS)
PROMPT, CACHED, COMPLETION = 11, 3, 7
SPEECH = bytes(range(256)) * 40  # Binary: not valid UTF-8.

OPENAI_USAGE = {
    "prompt_tokens": PROMPT,
    "completion_tokens": COMPLETION,
    "total_tokens": PROMPT + COMPLETION,
    "prompt_tokens_details": {"cached_tokens": CACHED},
}
RESPONSES_USAGE = {
    "input_tokens": PROMPT,
    "input_tokens_details": {"cached_tokens": CACHED},
    "output_tokens": COMPLETION,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": PROMPT + COMPLETION,
}
# Anthropic counts cached tokens separately from the other input tokens.
ANTHROPIC_USAGE = {
    "input_tokens": PROMPT - CACHED,
    "cache_read_input_tokens": CACHED,
    "output_tokens": COMPLETION,
}

CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": OPENAI_USAGE,
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "tiny",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": RESPONSES_USAGE,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "tiny",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": ANTHROPIC_USAGE,
}
FULL_RESPONSES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
    "/v1/messages/count_tokens": {"input_tokens": PROMPT},
    "/v1/embeddings": {
        "object": "list",
        "model": "tiny",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
        "usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT},
    },
    "/v1/moderations": {
        "id": "modr-1",
        "model": "tiny",
        "results": [{"flagged": True, "categories": {}, "category_scores": {}}],
    },
    "/v1/rerank": {
        "id": "rerank-1",
        "model": "tiny",
        "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
        "usage": {"total_tokens": PROMPT},
    },
    "/v1/images/generations": {
        "created": 1,
        "data": [{"b64_json": "aW1hZ2U="}],
        "usage": {"input_tokens": PROMPT, "output_tokens": COMPLETION, "total_tokens": 18},
    },
    "/v1/audio/transcriptions": {
        "text": TEXT,
        "usage": {"type": "tokens", **RESPONSES_USAGE},
    },
    "/v1/audio/translations": {"text": TEXT},
}
for _name in ("edits", "variations"):
    FULL_RESPONSES[f"/v1/images/{_name}"] = FULL_RESPONSES["/v1/images/generations"]


def data_event(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def named_event(content: dict[str, Any]) -> bytes:
    """An event with an `event:` line, as OpenAI's Responses API and Anthropic send it."""
    return f"event: {content['type']}\n".encode() + data_event(content)


def _chat_chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return CHAT | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


CHAT_USAGE_EVENT = data_event(
    CHAT | {"object": "chat.completion.chunk", "choices": [], "usage": OPENAI_USAGE}
)
# Some servers add `"usage": null` to every chunk when the request asks for usage.
CHAT_EVENTS = [data_event(_chat_chunk({"content": word})) for word in WORDS]
CHAT_STREAM = [
    *CHAT_EVENTS,
    data_event(_chat_chunk({}, "stop")),
    CHAT_USAGE_EVENT,
    b"data: [DONE]\n\n",
]
_IN_PROGRESS = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
_ITEM = {"output_index": 0, "item": RESPONSE["output"][0] | {"content": []}}
_PART = {"part": {"type": "output_text", "text": "", "annotations": []}}
_POSITION = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
RESPONSE_STREAM = [
    named_event({"type": "response.created", "sequence_number": 0, "response": _IN_PROGRESS}),
    named_event({"type": "response.output_item.added", "sequence_number": 0, **_ITEM}),
    named_event(
        {"type": "response.content_part.added", "sequence_number": 0, **_POSITION, **_PART}
    ),
    *(
        named_event(
            {"type": "response.output_text.delta", "sequence_number": n, "delta": word, **_POSITION}
        )
        for n, word in enumerate(WORDS, 1)
    ),
    named_event(
        {
            "type": "response.output_item.done",
            "sequence_number": 8,
            "output_index": 0,
            "item": RESPONSE["output"][0],
        }
    ),
    named_event({"type": "response.completed", "sequence_number": 9, "response": RESPONSE}),
]
MESSAGE_STREAM = [
    named_event(
        {
            "type": "message_start",
            "message": MESSAGE
            | {"content": [], "stop_reason": None, "usage": ANTHROPIC_USAGE | {"output_tokens": 1}},
        }
    ),
    named_event(
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        }
    ),
    named_event({"type": "ping"}),
    *(
        named_event(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
        )
        for word in WORDS
    ),
    named_event({"type": "content_block_stop", "index": 0}),
    named_event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": COMPLETION},
        }
    ),
    named_event({"type": "message_stop"}),
]
TRANSCRIPT_STREAM = [
    *(data_event({"type": "transcript.text.delta", "delta": word}) for word in WORDS),
    data_event(
        {
            "type": "transcript.text.done",
            "text": TEXT,
            "usage": {"type": "tokens", **RESPONSES_USAGE},
        }
    ),
]
STREAM_RESPONSES = {
    "/v1/chat/completions": CHAT_STREAM,
    "/v1/responses": RESPONSE_STREAM,
    "/v1/messages": MESSAGE_STREAM,
    "/v1/audio/transcriptions": TRANSCRIPT_STREAM,
}
