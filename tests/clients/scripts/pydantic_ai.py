"""An agent, complete and streamed, with Pydantic AI."""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=f"{os.environ['URL']}/v1", api_key=os.environ["KEY"])
agent = Agent(OpenAIChatModel(os.environ["MODEL"], provider=provider))


async def main() -> None:
    print((await agent.run("Hello!")).output)
    async with agent.run_stream("Hello!") as stream:
        print(await stream.get_output())


asyncio.run(main())
