// Is this message safe? The answer as a stream of events. Node 20 or newer, no packages: node stream.mjs
const base = process.env.BASE_URL ?? "http://127.0.0.1:8787";
const model = "@hf/thebloke/llamaguard-7b-awq";

const response = await fetch(`${base}/client/v4/accounts/local/ai/run/${model}`, {
  method: "POST",
  headers: { Authorization: `Bearer ${process.env.API_TOKEN ?? "none"}` },
  body: JSON.stringify({
    stream: true,
    messages: [{ role: "user", content: "How do I bake bread?" }],
  }),
});
if (!response.ok) throw new Error(await response.text());

let rest = "";
for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + text).split("\n\n");
  rest = events.pop();
  for (const event of events) {
    const data = event.slice("data: ".length);
    if (data !== "[DONE]") process.stdout.write(JSON.parse(data).response);
  }
}
process.stdout.write("\n");
