/* The same question as code: curl, Python, JavaScript, a Worker, the OpenAI SDK.
 *
 * Knows: how each language quotes text.
 * Never knows: elements. A key is never written into code; the snippets read it from the environment.
 */

/**
 * `body` is what /v1/check gets, `messages` what routes get that know no policy.
 * @typedef {{role: string, content: string}[]} Messages
 * @typedef {{base: string, path: string, model: string, body: {messages: Messages, policy?: string, threshold?: number},
 *   messages: Messages, needsKey: boolean}} Call
 */

/** @type {{id: string, title: string, write: (call: Call) => string}[]} */
export const SNIPPETS = [
  { id: "curl", title: "curl", write: curl },
  { id: "python", title: "Python", write: python },
  { id: "javascript", title: "JavaScript", write: javascript },
  { id: "worker", title: "Worker", write: worker },
  { id: "openai", title: "OpenAI SDK", write: openai },
];

/** @param {Call} call */
function curl({ base, path, body, needsKey }) {
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $GUARDHOUSE_KEY"` : "";
  return `curl ${shell(base + path)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(JSON.stringify(body))}`;
}

/** @param {Call} call */
function python({ base, body, needsKey }) {
  const { messages, policy, threshold } = body;
  const key = needsKey ? `, os.environ["GUARDHOUSE_KEY"]` : "";
  const options = [
    policy === undefined ? "" : `    policy=${literal(policy)},\n`,
    threshold === undefined ? "" : `    threshold=${threshold},\n`,
  ].join("");
  return `${needsKey ? "import os\n\n" : ""}from guardhouse import Client

guard = Client(${literal(base)}${key})
verdict = guard.check(
    ${list(messages, 4)},
${options})
print(verdict.flagged, verdict.score, verdict.codes)`;
}

/** @param {Call} call */
function javascript({ base, path, body, needsKey }) {
  const { messages, policy, threshold } = body;
  const key = needsKey ? `\n    authorization: \`Bearer \${process.env.GUARDHOUSE_KEY}\`,` : "";
  const options = [
    policy === undefined ? "" : `    policy: ${literal(policy)},\n`,
    threshold === undefined ? "" : `    threshold: ${threshold},\n`,
  ].join("");
  return `const response = await fetch(${literal(base + path)}, {
  method: "POST",
  headers: {
    "content-type": "application/json",${key}
  },
  body: JSON.stringify({
    messages: ${list(messages, 4)},
${options}  }),
});
if (!response.ok) throw new Error(await response.text());
const verdict = await response.json();
console.log(verdict.flagged, verdict.score, verdict.codes);`;
}

/** @param {Call} call */
function worker({ model, messages }) {
  return `export default {
  async fetch(request, env) {
    const { response, verdict } = await env.AI.run(${literal(model)}, {
      messages: ${list(messages, 6)},
    });
    return Response.json({ response, verdict });
  },
};`;
}

/** @param {Call} call */
function openai(call) {
  const { base, needsKey } = call;
  const key = needsKey ? `os.environ["GUARDHOUSE_KEY"]` : `"unused"`;
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(`${base}v1`)}, api_key=${key})
${call.messages.length > 1 ? completion(call) : moderation(call)}`;
}

/** @param {Call} call */
function moderation({ messages }) {
  return `result = client.moderations.create(input=${literal(messages[0].content)}).results[0]
print(result.flagged, result.category_scores)`;
}

/**
 * The moderations API knows neither conversations nor policies; chat completions do.
 * @param {Call} call
 */
function completion({ model, messages }) {
  return `completion = client.chat.completions.create(
    model=${literal(model)},
    messages=${list(messages, 4)},
)
print(completion.choices[0].message.content)`;
}

/**
 * A list of messages, one a line. JSON's strings are Python's and JavaScript's, too.
 * @param {Messages} messages
 * @param {number} indent
 */
function list(messages, indent) {
  const margin = " ".repeat(indent);
  const lines = messages.map(({ role, content }) => `${margin}    {"role": ${literal(role)}, "content": ${literal(content)}},\n`);
  return `[\n${lines.join("")}${margin}]`;
}

/** @param {string} text */
function literal(text) {
  return JSON.stringify(text).replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029").replaceAll("\u007f", "\\u007f");
}

/**
 * Single quotes keep everything but themselves.
 * @param {string} text
 */
function shell(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
