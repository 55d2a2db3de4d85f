"""A chat, complete and streamed, with LlamaIndex."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

chat = OpenAILike(
    api_base=f"{os.environ['URL']}/v1",
    api_key=os.environ["KEY"],
    model=os.environ["MODEL"],
    is_chat_model=True,
)
messages = [ChatMessage(role="user", content="Hello!")]
print(chat.chat(messages).message.content)
print("".join(chunk.delta or "" for chunk in chat.stream_chat(messages)))
