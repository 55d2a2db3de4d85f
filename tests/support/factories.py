"""Answers as model servers write them, at each endpoint, with what each says it used."""

import json
from typing import Any

WORDS = ["Hello", ",", " caller", "!"]
TEXT = "".join(WORDS)
PROMPT, CACHED, COMPLETION = 11, 3, 7
SPEECH = bytes(range(256)) * 40  # Binary, and no valid text in any encoding.

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
# Anthropic counts what came from its cache beside the rest.
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
WHOLE: dict[str, dict[str, Any]] = {
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
}


def data(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def named(content: dict[str, Any]) -> bytes:
    """As OpenAI's newer streams and Anthropic's write an event: its type comes before it."""
    return f"event: {content['type']}\n".encode() + data(content)


def _chat_chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return CHAT | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}


CHAT_USAGE_EVENT = data(
    CHAT | {"object": "chat.completion.chunk", "choices": [], "usage": OPENAI_USAGE}
)
# Some servers say `"usage": null` in every chunk once they are asked for usage.
CHAT_EVENTS = [data(_chat_chunk({"content": word})) for word in WORDS]
CHAT_STREAM = [
    *CHAT_EVENTS,
    data(_chat_chunk({}, "stop")),
    CHAT_USAGE_EVENT,
    b"data: [DONE]\n\n",
]
_BEGUN = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
_ITEM = {"output_index": 0, "item": RESPONSE["output"][0] | {"content": []}}
_PART = {"part": {"type": "output_text", "text": "", "annotations": []}}
_PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
RESPONSE_STREAM = [
    named({"type": "response.created", "sequence_number": 0, "response": _BEGUN}),
    named({"type": "response.output_item.added", "sequence_number": 0, **_ITEM}),
    named({"type": "response.content_part.added", "sequence_number": 0, **_PLACE, **_PART}),
    *(
        named({"type": "response.output_text.delta", "sequence_number": n, "delta": word, **_PLACE})
        for n, word in enumerate(WORDS, 1)
    ),
    named({"type": "response.completed", "sequence_number": 9, "response": RESPONSE}),
]
MESSAGE_STREAM = [
    named(
        {
            "type": "message_start",
            "message": MESSAGE
            | {"content": [], "stop_reason": None, "usage": ANTHROPIC_USAGE | {"output_tokens": 1}},
        }
    ),
    named(
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        }
    ),
    named({"type": "ping"}),
    *(
        named(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
        )
        for word in WORDS
    ),
    named({"type": "content_block_stop", "index": 0}),
    named(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": COMPLETION},
        }
    ),
    named({"type": "message_stop"}),
]
TRANSCRIPT_STREAM = [
    *(data({"type": "transcript.text.delta", "delta": word}) for word in WORDS),
    data(
        {
            "type": "transcript.text.done",
            "text": TEXT,
            "usage": {"type": "tokens", **RESPONSES_USAGE},
        }
    ),
]
STREAMED = {
    "/v1/chat/completions": CHAT_STREAM,
    "/v1/responses": RESPONSE_STREAM,
    "/v1/messages": MESSAGE_STREAM,
    "/v1/audio/transcriptions": TRANSCRIPT_STREAM,
}
