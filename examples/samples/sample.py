"""Is this message safe? Needs `pip install requests`: python sample.py"""

import os

import requests

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8787")
MODEL = "@hf/thebloke/llamaguard-7b-awq"

response = requests.post(
    f"{BASE_URL}/client/v4/accounts/local/ai/run/{MODEL}",
    headers={"Authorization": f"Bearer {os.environ.get('API_TOKEN', 'none')}"},
    json={"messages": [{"role": "user", "content": "How do I bake bread?"}]},
    timeout=60,
)
response.raise_for_status()
print(response.json()["result"]["response"])
