// Runs worker.mjs in miniflare with its AI binding pointed at Guardhouse:  node miniflare.mjs
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("./", import.meta.url));

/** Miniflare's options: `ai` is what a deployed Worker has as `[ai] binding = "AI"`, sent to Guardhouse instead. */
export function options(guardhouse = "http://127.0.0.1:8787", port = 8080) {
  return {
    host: "127.0.0.1",
    port,
    modules: true,
    modulesRoot: HERE,
    scriptPath: HERE + "worker.mjs",
    compatibilityDate: "2026-04-01",
    ai: { binding: "AI", remoteProxyConnectionString: new URL(guardhouse) },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { Miniflare } = await import("miniflare");
  const miniflare = new Miniflare(options(process.env.GUARDHOUSE_URL));
  console.log(`Worker on ${await miniflare.ready}`);
}
