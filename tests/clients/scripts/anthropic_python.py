"""Messages, token counts and models, with Anthropic's client."""

import os

from anthropic import Anthropic

url, key, model = (os.environ[name] for name in ("URL", "KEY", "MODEL"))
client = Anthropic(base_url=url, api_key=key)
request = {
    "model": model,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello!"}],
}

print(client.messages.create(**request).content[0].text)
with client.messages.stream(**request) as stream:
    print(stream.get_final_text())
del request["max_tokens"]
assert client.messages.count_tokens(**request).input_tokens
assert model in [served.id for served in client.models.list(limit=1)]
