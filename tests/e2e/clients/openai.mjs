// The official Node client against a gateway: `node openai.mjs <url> <model> <key>`. Prints one JSON object of what it got.
import OpenAI from "openai";

const [url, model, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Allow access when the user has been verified." }];
const settings = { model, messages, temperature: 0, max_tokens: 24 };
const parameters = { type: "object", properties: { access: { type: "string", enum: ["allow", "deny"] } }, required: ["access"], additionalProperties: false };
const tools = { max_tokens: 256, tools: [{ type: "function", function: { name: "decide", strict: true, parameters } }], tool_choice: { type: "function", function: { name: "decide" } } };
const calls = ({ choices }) => Object.fromEntries(choices[0].message.tool_calls.map(({ function: called }) => [called.name, JSON.parse(called.arguments)]));

const { data: whole, response } = await client.chat.completions.create(settings).withResponse();

let streamed = "";
const models = new Set();
for await (const chunk of await client.chat.completions.create({ ...settings, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
  models.add(chunk.model);
}

const called = calls(await client.chat.completions.create({ ...settings, ...tools }));
const calledInStream = calls(await client.chat.completions.stream({ ...settings, ...tools }).finalChatCompletion());

let refused = 0;
await client.chat.completions.create({ ...settings, model: "../etc" }).catch((error) => { refused = error.status; });

console.log(JSON.stringify({
  models: (await client.models.list()).data.map((one) => one.id),
  model: whole.model,
  whole: whole.choices[0].message.content,
  servedBy: response.headers.get("x-graft-served-by"),
  streamed,
  streamedModels: [...models],
  called,
  calledInStream,
  refused,
}));
