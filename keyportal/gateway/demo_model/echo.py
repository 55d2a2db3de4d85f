"""What the built-in upstream says to one request, and what that counts as; in no shape yet."""

from collections.abc import Iterator

import msgspec

# Answers are made in the event loop, where others wait.
ECHOED_WORDS = 256
GREETING = (
    "This is Keyportal's built-in loopback, not a language model. "
    "Your call arrived and was admitted. You said:"
)


class Part(msgspec.Struct):
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class Echo:
    """A greeting and the last thing said, in `limit` words at most. A word counts as a token."""

    def __init__(self, said: list[str], limit: int | None) -> None:
        last = said[-1] if said else ""
        words = GREETING.split() + last.split(maxsplit=ECHOED_WORDS)[:ECHOED_WORDS]
        self._words = words[:limit]
        self.text = " ".join(self._words)
        self.is_cut = len(self._words) < len(words)
        self.prompt_tokens = count_words(said)
        self.completion_tokens = len(self._words)

    def pieces(self) -> Iterator[str]:
        """The text in pieces of a word, as a stream brings it."""
        for position, word in enumerate(self._words):
            yield f" {word}" if position else word


def count_words(said: list[str]) -> int:
    return sum(len(text.split()) for text in said)
