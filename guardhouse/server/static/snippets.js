/* The same question as code: curl, Python, JavaScript, a Worker, the OpenAI SDK.
 *
 * Knows: how each language quotes text.
 * Never knows: elements. A key is never written into code; the snippets read it from the environment.
 */

/** @typedef {{base: string, path: string, model: string, messages: {role: string, content: string}[], needsKey: boolean}} Call */

/** @type {{id: string, title: string, write: (call: Call) => string}[]} */
export const SNIPPETS = [
  { id: "curl", title: "curl", write: curl },
  { id: "python", title: "Python", write: python },
  { id: "javascript", title: "JavaScript", write: javascript },
  { id: "worker", title: "Worker", write: worker },
  { id: "openai", title: "OpenAI SDK", write: openai },
];

/** @param {Call} call */
function curl({ base, path, messages, needsKey }) {
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $GUARDHOUSE_KEY"` : "";
  return `curl ${shell(base + path)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(JSON.stringify({ messages }))}`;
}

/** @param {Call} call */
function python({ base, path, messages, needsKey }) {
  const key = needsKey ? `\n    headers={"Authorization": f"Bearer {os.environ['GUARDHOUSE_KEY']}"},` : "";
  return `${needsKey ? "import os\n\n" : ""}import requests

response = requests.post(
    ${literal(base + path)},${key}
    json={"messages": ${list(messages, 4)}},
    timeout=30,
)
response.raise_for_status()
verdict = response.json()["result"]["verdict"]
print(verdict["flagged"], verdict["score"], verdict["codes"])`;
}

/** @param {Call} call */
function javascript({ base, path, messages, needsKey }) {
  const key = needsKey ? `\n    authorization: \`Bearer \${process.env.GUARDHOUSE_KEY}\`,` : "";
  return `const response = await fetch(${literal(base + path)}, {
  method: "POST",
  headers: {
    "content-type": "application/json",${key}
  },
  body: JSON.stringify({ messages: ${list(messages, 2)} }),
});
if (!response.ok) throw new Error(await response.text());
const { verdict } = (await response.json()).result;
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
function openai({ base, model, messages, needsKey }) {
  const key = needsKey ? `os.environ["GUARDHOUSE_KEY"]` : `"unused"`;
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(`${base}v1`)}, api_key=${key})
completion = client.chat.completions.create(
    model=${literal(model)},
    messages=${list(messages, 4)},
)
print(completion.choices[0].message.content)`;
}

/**
 * A list of messages, one a line. JSON's strings are Python's and JavaScript's, too.
 * @param {{role: string, content: string}[]} messages
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
