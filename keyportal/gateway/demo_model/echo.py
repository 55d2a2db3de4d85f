"""The text that the demo model replies, and its token counts, before any response format."""

from collections.abc import Iterator

import msgspec

# A limit, because answers are made in the event loop, while other calls wait.
MAX_ECHOED_WORDS = 256
GREETING = (
    "This is Keyportal's built-in echo, not a language model. "
    "Your call arrived and was admitted. You said:"
)


class ContentPart(msgspec.Struct):
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[ContentPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class Echo:
    """A greeting and the last input, in at most `limit` words. A word counts as a token."""

    def __init__(self, inputs: list[str], limit: int | None) -> None:
        last = inputs[-1] if inputs else ""
        words = GREETING.split() + last.split(maxsplit=MAX_ECHOED_WORDS)[:MAX_ECHOED_WORDS]
        self._words = words[:limit]
        self.text = " ".join(self._words)
        self.is_cut = len(self._words) < len(words)
        self.prompt_tokens = count_words(inputs)
        self.completion_tokens = len(self._words)

    def pieces(self) -> Iterator[str]:
        """The text word by word, for a stream."""
        for position, word in enumerate(self._words):
            yield f" {word}" if position else word


def count_words(texts: list[str]) -> int:
    return sum(len(text.split()) for text in texts)
