// Is this answer of an assistant safe? One call, one verdict. Node 20 or newer, no packages: node plain.mjs
const base = process.env.BASE_URL ?? "http://127.0.0.1:8787";
const model = "@hf/thebloke/llamaguard-7b-awq";

const response = await fetch(`${base}/client/v4/accounts/local/ai/run/${model}`, {
  method: "POST",
  headers: { Authorization: `Bearer ${process.env.API_TOKEN ?? "none"}` },
  body: JSON.stringify({
    messages: [
      { role: "user", content: "How do I bake bread?" },
      { role: "assistant", content: "Mix flour, water, salt and yeast; let it rise; bake it hot." },
    ],
  }),
});
const { success, result, errors } = await response.json();
if (!success) throw new Error(errors[0].message);
console.log(result.response, result.verdict.score);
