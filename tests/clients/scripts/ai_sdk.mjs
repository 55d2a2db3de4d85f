// Text, complete and streamed, with Vercel's AI SDK.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const { URL: url, KEY: apiKey, MODEL: model } = process.env;
const provider = createOpenAICompatible({ name: "keyportal", baseURL: `${url}/v1`, apiKey });
console.log((await generateText({ model: provider(model), prompt: "Hello!" })).text);
console.log(await streamText({ model: provider(model), prompt: "Hello!" }).text);
