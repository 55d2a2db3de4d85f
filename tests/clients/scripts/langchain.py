"""A chat, complete and streamed, with LangChain."""

import os

from langchain_openai import ChatOpenAI

chat = ChatOpenAI(
    base_url=f"{os.environ['URL']}/v1", api_key=os.environ["KEY"], model=os.environ["MODEL"]
)
answer = chat.invoke("Hello!")
print(answer.text)
assert answer.usage_metadata["total_tokens"], "no usage"
print("".join(chunk.text for chunk in chat.stream("Hello!")))
