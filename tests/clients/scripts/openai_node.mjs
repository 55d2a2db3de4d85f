// Chat completions and responses, with OpenAI's client for JavaScript.
import OpenAI from "openai";

const { URL: url, KEY: apiKey, MODEL: model } = process.env;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey });
const messages = [{ role: "user", content: "Hello!" }];
console.log((await client.chat.completions.create({ model, messages })).choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
console.log(text);
console.log((await client.responses.create({ model, input: "Hello!" })).output_text);
