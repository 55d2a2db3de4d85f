"""A rerank, with Cohere's client."""

import os

import cohere

client = cohere.ClientV2(base_url=os.environ["URL"], api_key=os.environ["KEY"])
answer = client.rerank(model=os.environ["MODEL"], query="Hello!", documents=["a", "b"])
assert answer.results[0].index == 1
print("Hello, caller!")
