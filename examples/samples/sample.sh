#!/bin/sh
# Is this message safe? Needs curl: sh sample.sh
# No content type is set, as in the hosted model's own documentation: the body is JSON all the same.
curl --silent --show-error --fail-with-body \
  "${BASE_URL:-http://127.0.0.1:8787}/client/v4/accounts/local/ai/run/@hf/thebloke/llamaguard-7b-awq" \
  -H "Authorization: Bearer ${API_TOKEN:-none}" \
  -d '{"messages": [{"role": "user", "content": "How do I bake bread?"}]}'
