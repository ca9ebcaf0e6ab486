"""Finetunes over real sockets: create, upload, use, and every way in which that can fail."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudflare
import pytest
import requests
from adapters import write_adapter
from served import ALIAS, RUN, Served, served, write_guard_checkpoint

from guardhouse import Client
from guardhouse.server.adapters.store import FinetuneStore

FINETUNES = "/client/v4/accounts/local/ai/finetunes"
ASSETS = ("adapter_config.json", "adapter_model.safetensors")
CAKE = "how to make a cake"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard_checkpoint(tmp_path_factory.mktemp("finetunes") / "guard", quant=32)


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Served]:
    with served(checkpoint, threshold=1.0, max_loras=2) as running:
        yield running


@pytest.fixture(scope="module")
def adapters(checkpoint: Path) -> list[Path]:
    """Three that each give another score."""
    folders = [checkpoint.parent / f"adapter {seed}" for seed in range(3)]
    return [write_adapter(folder, checkpoint, seed=seed, lora_alpha=1) for seed, folder in enumerate(folders)]


def create(server: Served, name: str, **fields: Any) -> Any:
    response = server.post({"model": ALIAS, "name": name, **fields}, path=FINETUNES)
    assert response.status_code == 200, response.text
    return response.json()["result"]


def upload(server: Served, finetune: str, path: Path, name: str | None = None) -> requests.Response:
    """As wrangler does: the file's own part has a name that says nothing."""
    parts = {"file_name": (None, name or path.name), "file": ("blob", path.read_bytes())}
    return requests.post(f"{server.url}{FINETUNES}/{finetune}/finetune-assets/", files=parts, timeout=30)


def upload_all(server: Served, name: str, folder: Path) -> Any:
    finetune = create(server, name)
    for asset in ASSETS:
        response = upload(server, finetune["id"], folder / asset)
        assert response.status_code == 200, response.text
        assert response.json()["success"] is True
    return finetune


def score(server: Served, lora: str | None = None, body: Any = None) -> float:
    response = server.post({**(body or {"prompt": CAKE}), **({"lora": lora} if lora else {})})
    assert response.status_code == 200, response.text
    result: float = response.json()["result"]["verdict"]["score"]
    return result


def assert_refused(response: requests.Response, status: int, code: int, text: str) -> None:
    body = response.json()
    assert (response.status_code, body["errors"][0]["code"]) == (status, code), body
    assert body["success"] is False
    assert text in body["errors"][0]["message"]


@pytest.fixture(scope="module")
def tuned(server: Served, adapters: list[Path]) -> list[Any]:
    return [upload_all(server, f"tuned-{seed}", folder) for seed, folder in enumerate(adapters)]


def test_a_new_finetune_is_told_as_the_service_does(server: Served) -> None:
    finetune = create(server, "told", description="what for", public=True)
    assert finetune.keys() == {"id", "model", "name", "description", "public", "created_at", "modified_at"}
    assert (finetune["model"], finetune["name"], finetune["description"]) == (ALIAS, "told", "what for")
    assert finetune["created_at"] == finetune["modified_at"]
    assert requests.get(f"{server.url}{FINETUNES}/{finetune['id']}", timeout=30).json()["result"] == finetune
    listed = requests.get(f"{server.url}{FINETUNES}/", timeout=30).json()["result"]
    assert finetune in listed


def test_an_adapter_is_used_by_id_and_by_name_in_both_forms_of_input(server: Served, tuned: list[Any]) -> None:
    scores = [score(server), *(score(server, finetune["id"]) for finetune in tuned)]
    assert len(set(scores)) == 4, "the adapters change nothing"
    messages = {"messages": [{"role": "user", "content": CAKE}]}
    for finetune, expected in zip(tuned, scores[1:], strict=True):
        assert score(server, finetune["name"]) == expected
        assert score(server, finetune["name"], messages) == expected
    assert score(server) == scores[0]


def test_mixed_requests_get_what_each_gets_alone(server: Served, tuned: list[Any]) -> None:
    names = [None, *(finetune["name"] for finetune in tuned)]
    alone = [score(server, name) for name in names]
    with ThreadPoolExecutor(12) as threads:  # more adapters than are kept in memory
        together = list(threads.map(lambda index: score(server, names[index % 4]), range(48)))
    assert together == alone * 12


def test_a_stream_runs_under_the_adapter(server: Served, tuned: list[Any]) -> None:
    expected = score(server, "tuned-0")
    response = server.post({"prompt": CAKE, "lora": tuned[0]["id"], "stream": True})
    assert response.text.endswith("data: [DONE]\n\n")
    assert f'"score":{expected}' in response.text


def test_a_stored_batch_runs_under_the_adapters_that_its_inputs_name(server: Served, tuned: list[Any]) -> None:
    inputs = [{"prompt": CAKE, "lora": name} for name in ("tuned-1", "nobody's", "tuned-2")]
    queue = f"{RUN}?queueRequest=true"
    job = server.post({"requests": inputs}, path=queue).json()["result"]
    while (response := server.post({"request_id": job["request_id"]}, path=queue)).status_code == 202:
        pass
    first, second, third = response.json()["result"]["responses"]
    assert first["result"]["verdict"]["score"] == score(server, "tuned-1")
    assert second["errors"][0]["code"] == 3037
    assert third["result"]["verdict"]["score"] == score(server, "tuned-2")


def test_public_finetunes_are_listed_page_by_page(server: Served) -> None:
    for number in range(3):
        create(server, f"public-{number}", public=True)
    everything = requests.get(f"{server.url}{FINETUNES}/public?limit=50", timeout=30).json()["result"]
    assert all(finetune["public"] for finetune in everything)
    some = requests.get(f"{server.url}{FINETUNES}/public?limit=2&offset=1&orderBy=name", timeout=30).json()["result"]
    assert some == sorted(everything, key=lambda finetune: finetune["name"])[1:3]
    response = requests.get(f"{server.url}{FINETUNES}/public?limit=0", timeout=30)
    assert_refused(response, 400, 5006, "limit")


def test_the_official_sdk_creates_uploads_and_lists(server: Served, adapters: list[Path]) -> None:
    client = cloudflare.Cloudflare(base_url=f"{server.url}/client/v4", api_token="any", max_retries=0)
    finetune = client.ai.finetunes.create(account_id="local", model=ALIAS, name="by-sdk", description="", public=False)
    assert finetune is not None
    for asset in ASSETS:
        with (adapters[0] / asset).open("rb") as file:
            done = client.ai.finetunes.assets.create(finetune.id, account_id="local", file=file, file_name=asset)
        assert done.success is True
    result: Any = client.ai.run(ALIAS, account_id="local", prompt=CAKE, lora="by-sdk")
    assert result["verdict"]["score"] == score(server, "tuned-0")
    assert client.ai.finetunes.list(account_id="local") is not None
    client.ai.finetunes.public.list(account_id="local")


def test_what_is_not_there_is_3037(server: Served) -> None:
    missing = "11111111-2222-4333-8444-555555555555"
    text = f"AiError: AiError: Finetune {missing} not found ("
    assert_refused(server.post({"prompt": CAKE, "lora": missing}), 404, 3037, text)
    stream = server.post({"prompt": CAKE, "lora": missing, "stream": True})
    assert_refused(stream, 404, 3037, text)
    assert_refused(requests.get(f"{server.url}{FINETUNES}/{missing}", timeout=30), 404, 3037, "not found")
    assert_refused(requests.delete(f"{server.url}{FINETUNES}/{missing}", timeout=30), 404, 3037, "not found")


def test_what_lacks_a_file_is_3039_until_it_comes(server: Served, adapters: list[Path]) -> None:
    finetune = create(server, "half")
    ask = {"prompt": CAKE, "lora": "half"}
    assert_refused(server.post(ask), 400, 3039, "required files: adapter_config.json, adapter_model.safetensors")
    assert upload(server, finetune["id"], adapters[1] / ASSETS[1]).status_code == 200  # the weights first
    assert_refused(server.post(ask), 400, 3039, "required files: adapter_config.json")
    response = upload(server, "half", adapters[1] / ASSETS[0])  # by name
    assert response.status_code == 200
    assert response.json()["result"]["modified_at"] > finetune["modified_at"]
    assert score(server, "half") == score(server, "tuned-1")


def test_a_server_without_adapters_answers_5005(checkpoint: Path) -> None:
    with served(checkpoint, max_loras=0) as server:
        response = server.post({"prompt": CAKE, "lora": "tuned-0"})
        assert_refused(response, 405, 5005, f"The model {ALIAS} does not support LoRa inference")


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"model": "@cf/nobody/nothing"}, 5007, "No such model @cf/nobody/nothing"),
        ({"name": ""}, 5006, "'name'"),
        ({"name": 7}, 5006, "'name'"),
        ({"name": "x" * 201}, 5006, "'name'"),
        ({"public": "yes"}, 5006, "'public'"),
        ({"name": "tuned-0"}, 5006, "of that name exists"),
    ],
)
def test_what_cannot_be_created_is_refused(
    server: Served, tuned: list[Any], fields: dict[str, Any], code: int, text: str
) -> None:
    response = server.post({"model": ALIAS, "name": "new", **fields}, path=FINETUNES)
    assert_refused(response, 400, code, text)


def test_a_broken_file_is_refused_by_name_and_a_better_one_accepted(
    server: Served, checkpoint: Path, adapters: list[Path], tmp_path: Path
) -> None:
    finetune = create(server, "broken")["id"]
    bad = write_adapter(tmp_path / "dora", checkpoint, use_dora=True)
    assert_refused(upload(server, finetune, bad / ASSETS[0]), 400, 5006, "adapter_config.json: DoRA")
    (tmp_path / "pickle").write_bytes(b"PK\x03\x04" + b"\0" * 1000)
    refused = upload(server, finetune, tmp_path / "pickle", ASSETS[1])
    assert_refused(refused, 400, 5006, "adapter_model.safetensors: not a valid safetensors file")
    assert upload(server, finetune, adapters[0] / ASSETS[0]).status_code == 200
    wide = write_adapter(tmp_path / "wide", checkpoint, rank=9)
    refused = upload(server, finetune, wide / ASSETS[1])
    assert_refused(refused, 400, 5006, "lora_A.weight: expected F16 or BF16 or F32 [4, ")
    assert upload(server, finetune, adapters[0] / ASSETS[1]).status_code == 200
    assert score(server, "broken") == score(server, "tuned-0")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"file_name": (None, ASSETS[0])}, "holds no 'file'"),
        ({"file": ("blob", b"{}")}, "'file_name' must be one of"),
        ({"file": ("blob", b"{}"), "file_name": (None, "../../adapter_config.json")}, "'file_name' must be one of"),
        ({"file": ("blob", b"{}"), "file_name": (None, "pytorch_model.bin")}, "'file_name' must be one of"),
        ({"file": (None, "{}"), "file_name": (None, ASSETS[0])}, "holds no 'file'"),
    ],
)
def test_a_form_that_is_no_upload_is_refused(server: Served, tuned: list[Any], parts: Any, text: str) -> None:
    url = f"{server.url}{FINETUNES}/{tuned[0]['id']}/finetune-assets"
    assert_refused(requests.post(url, files=parts, timeout=30), 400, 5006, text)


def test_a_body_that_is_no_form_is_refused(server: Served, tuned: list[Any]) -> None:
    url = f"{server.url}{FINETUNES}/{tuned[0]['id']}/finetune-assets"
    assert_refused(requests.post(url, json={}, timeout=30), 400, 5006, "is no form")


def test_an_uploaded_file_cannot_be_replaced(server: Served, tuned: list[Any], adapters: list[Path]) -> None:
    assert_refused(upload(server, tuned[0]["id"], adapters[1] / ASSETS[1]), 400, 5006, "cannot be replaced")


def test_two_files_that_arrive_together_are_checked_together(
    server: Served, checkpoint: Path, adapters: list[Path], tmp_path: Path
) -> None:
    other = write_adapter(tmp_path, checkpoint, rank=9)
    finetune = create(server, "together")["id"]
    with ThreadPoolExecutor(2) as threads:
        files = [adapters[0] / ASSETS[0], other / ASSETS[1]]  # each is right, but not beside the other
        statuses = sorted(threads.map(lambda path: upload(server, finetune, path).status_code, files))
    assert statuses == [200, 400]


def test_what_is_deleted_is_gone(server: Served, adapters: list[Path], checkpoint: Path) -> None:
    finetune = upload_all(server, "short-lived", adapters[0])
    assert score(server, "short-lived") == score(server, "tuned-0")
    deleted = requests.delete(f"{server.url}{FINETUNES}/short-lived", timeout=30)
    assert deleted.json()["result"]["id"] == finetune["id"]
    assert_refused(server.post({"prompt": CAKE, "lora": finetune["id"]}), 404, 3037, "not found")
    assert not (checkpoint / "data" / "finetunes" / finetune["id"]).exists()
    assert create(server, "short-lived")["id"] != finetune["id"]


def test_what_a_broken_off_upload_left_is_cleared_away(tmp_path: Path) -> None:
    store = FinetuneStore(tmp_path)
    finetune = store.create(ALIAS, "mine", "", public=False)
    left, fresh = (tmp_path / finetune.id / f"staging-{word}" for word in ("left", "fresh"))
    for folder in (left, fresh):
        folder.mkdir()
        (folder / ASSETS[1]).write_bytes(b"half a file")
    os.utime(left, (0, 0))
    assert store.all() == [finetune]
    assert not left.exists()
    assert fresh.exists()


def test_finetunes_survive_a_restart_for_their_owner_alone(
    tmp_path: Path, adapters: list[Path], checkpoint: Path
) -> None:
    mask = os.umask(0)
    try:
        with served(checkpoint, data_dir=tmp_path / "data") as server:
            upload_all(server, "mine", adapters[2])
            expected = score(server, "mine")
    finally:
        os.umask(mask)
    with served(checkpoint, data_dir=tmp_path / "data") as server:
        assert score(server, "mine") == expected
        (listed,) = requests.get(f"{server.url}{FINETUNES}", timeout=30).json()["result"]
        assert listed["name"] == "mine"
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [*ASSETS, "finetune.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_an_adapter_of_another_checkpoint_is_refused_by_tensor(
    tmp_path: Path, adapters: list[Path], checkpoint: Path
) -> None:
    with served(checkpoint, data_dir=tmp_path / "data") as server:
        upload_all(server, "mine", adapters[0])
    other = write_guard_checkpoint(tmp_path / "other", hidden=96, quant=32)
    with served(other, data_dir=tmp_path / "data") as server:  # the same alias, another shape
        assert_refused(server.post({"prompt": CAKE, "lora": "mine"}), 400, 5006, "expected F16 or BF16 or F32")
        assert server.post({"prompt": CAKE}).status_code == 200
    with served(checkpoint, data_dir=tmp_path / "data", model_aliases=("@hf/another/name",)) as server:
        assert_refused(
            server.post({"prompt": CAKE, "lora": "mine"}, path=RUN.replace(ALIAS, "@hf/another/name")), 400, 5006, ALIAS
        )


def test_openais_routes_and_check_judge_under_a_finetune_too(server: Served, adapters: list[Path]) -> None:
    upload_all(server, "for-v1", adapters[0])
    plain, tuned = score(server), score(server, "for-v1")
    assert plain != tuned
    messages = [{"role": "user", "content": CAKE}]
    for lora, expected in ((None, plain), ("for-v1", tuned)):
        moderation = server.post({"input": CAKE, "lora": lora}, path="/v1/moderations").json()
        assert moderation["results"][0]["verdict"]["score"] == expected
        assert server.post({"text": CAKE, "lora": lora}, path="/v1/check").json()["score"] == expected
        chat = server.post({"messages": messages, "lora": lora}, path="/v1/chat/completions").json()
        assert chat["verdict"]["score"] == expected
    with Client(server.url) as client:
        assert client.check(CAKE, lora="for-v1").score == tuned
    unknown = server.post({"text": CAKE, "lora": "nobody"}, path="/v1/check")
    assert unknown.status_code >= 400
    assert unknown.json()["error"]["message"]
