// A Worker that asks a guard through its AI binding. Nothing in it knows whether Cloudflare or Guardhouse answers.
//   /?text=…        the verdict, as JSON
//   /stream?text=…  the same as server-sent events
//   /models         what the binding says it can run
const MODEL = "@hf/thebloke/llamaguard-7b-awq";

export default {
  async fetch(request, env) {
    const { pathname, searchParams } = new URL(request.url);
    const messages = [{ role: "user", content: searchParams.get("text") ?? "How do I bake bread?" }];
    try {
      if (pathname === "/models") return Response.json(await env.AI.models({ search: "llamaguard" }));
      if (pathname === "/stream") {
        const stream = await env.AI.run(MODEL, { messages, stream: true });
        return new Response(stream, { headers: { "content-type": "text/event-stream" } });
      }
      return Response.json(await env.AI.run(MODEL, { messages }));
    } catch (error) {
      // No verdict is no pass: the caller gets an error, never "safe".
      return Response.json({ error: error.message, requestId: env.AI.lastRequestId }, { status: 502 });
    }
  },
};
