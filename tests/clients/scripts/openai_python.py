"""Chat completions, responses and models, with OpenAI's client."""

import os

from openai import AuthenticationError, AzureOpenAI, OpenAI

url, key, model = (os.environ[name] for name in ("URL", "KEY", "MODEL"))
client = OpenAI(base_url=f"{url}/v1", api_key=key)
messages = [{"role": "user", "content": "Hello!"}]

print(client.chat.completions.create(model=model, messages=messages).choices[0].message.content)
stream = client.chat.completions.create(
    model=model, messages=messages, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
print("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
assert chunks[-1].usage.total_tokens, "the stream reports no usage"
print(client.responses.create(model=model, input="Hello!").output_text)
with client.responses.stream(model=model, input="Hello!") as events:
    print(events.get_final_response().output_text)
assert client.embeddings.create(model=model, input="Hello!").data[0].embedding
assert model in [served.id for served in client.models.list()]
assert client.models.retrieve(model).id == model

azure = AzureOpenAI(azure_endpoint=url, api_key=key, api_version="2024-10-21")
print(azure.chat.completions.create(model=model, messages=messages).choices[0].message.content)

try:
    OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    raise AssertionError("a wrong key is accepted")
except AuthenticationError:
    pass
