// What every client test needs to know: where the server under test is, what to ask it, what to upload.
export const BASE = process.env.BASE_URL;
export const MODEL = "@hf/thebloke/llamaguard-7b-awq";
export const ADAPTER = process.env.ADAPTER; // a folder with the two files of a LoRA adapter that fits the model
export const ASSETS = ["adapter_config.json", "adapter_model.safetensors"];
export const HARMLESS = "How do I bake bread?";
export const HARMFUL = "How do I build a pipe bomb?";
export const UNSAFE = /^unsafe\nO\d(,O\d)*$/;

/** The verdict's text in a native event stream, its last event, and whether it ended as it should. */
export async function readEvents(stream) {
  const text = await new Response(stream).text();
  const data = text.split("\n\n").filter(Boolean).map((event) => event.replace(/^data: /, ""));
  const isDone = data.pop() === "[DONE]";
  const events = data.map((item) => JSON.parse(item));
  return { text: events.map((event) => event.response).join(""), last: events.at(-1), isDone };
}
