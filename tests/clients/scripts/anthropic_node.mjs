// Messages, complete and streamed, with Anthropic's client for JavaScript.
import Anthropic from "@anthropic-ai/sdk";

const { URL: baseURL, KEY: apiKey, MODEL: model } = process.env;
const client = new Anthropic({ baseURL, apiKey });
const request = { model, max_tokens: 100, messages: [{ role: "user", content: "Hello!" }] };
console.log((await client.messages.create(request)).content[0].text);
console.log(await client.messages.stream(request).finalText());
