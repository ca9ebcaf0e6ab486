# Runs worker.mjs in workerd with its AI binding pointed at Guardhouse:  workerd serve workerd.capnp
# Other addresses:  workerd serve workerd.capnp --socket-addr http=127.0.0.1:9000 --external-addr guardhouse=10.0.0.5:8787
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    (name = "guardhouse", external = (
      address = "127.0.0.1:8787",
      # A server with API keys:  http = (injectRequestHeaders = [(name = "Authorization", value = "Bearer …")])
      http = (),
    )),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8080", http = (), service = "main")],
);

const worker :Workerd.Worker = (
  modules = [(name = "worker.mjs", esModule = embed "worker.mjs")],
  compatibilityDate = "2026-04-01",
  # What a deployed Worker has as `[ai] binding = "AI"`: workerd's own wrapper, with Guardhouse in the place of the service.
  bindings = [(name = "AI", wrapped = (
    moduleName = "cloudflare-internal:ai-api",
    innerBindings = [(name = "fetcher", service = "guardhouse")],
  ))],
);
