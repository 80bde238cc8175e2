"""Tests Ollama's interface with Ollama's own clients."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from openai import OpenAI
from running_server import TEST_TIMEOUT, Server, running

from bulletlm.runtime import Model

QUESTION = "मैत्री म्हणजे काय?"
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture
def local(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.root, timeout=TEST_TIMEOUT) as client:
        yield client


def expected(client: OpenAI, *messages: tuple[str, str], tokens: int = 12) -> str:
    given: Any = [{"role": role, "content": text} for role, text in messages]
    return str(client.chat.completions.create(model="any", messages=given, temperature=0, max_tokens=tokens).choices[0].message.content)


def test_chat(local: ollama.Client, client: OpenAI) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    answer = local.chat("anything", messages, options=GREEDY)
    assert answer.message.content == expected(client, ("system", "Be brief."), ("user", QUESTION))
    assert (answer.model, answer.message.role, answer.done, answer.done_reason) == ("seed-like:latest", "assistant", True, "length")
    assert (answer.eval_count, answer.prompt_eval_count > 0, answer.total_duration > 0) == (12, True, True)
    chunks = list(local.chat("anything", messages, options=GREEDY, stream=True))
    assert "".join(chunk.message.content for chunk in chunks) == answer.message.content
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].eval_count == 12 and chunks[-1].done_reason == "length"


def test_generate(local: ollama.Client, client: OpenAI) -> None:
    answer = local.generate("anything", QUESTION, system="Be brief.", options=GREEDY)
    assert answer.response == expected(client, ("system", "Be brief."), ("user", QUESTION))
    assert (
        "".join(chunk.response for chunk in local.generate("anything", QUESTION, system="Be brief.", options=GREEDY, stream=True))
        == answer.response
    )
    raw = local.generate("anything", "एका गावात", raw=True, options=GREEDY)
    assert raw.response == client.completions.create(model="any", prompt="एका गावात", temperature=0, max_tokens=12).choices[0].text


def test_loading_a_model(local: ollama.Client) -> None:
    """Clients send a request without a prompt to load the model, and with keep_alive 0 to unload it."""
    for answer in (local.generate("anything"), local.generate("anything", keep_alive=0), local.chat("anything")):
        assert (answer.done, answer.done_reason) == (True, "load")


def test_options(local: ollama.Client, client: OpenAI) -> None:
    text = local.generate("x", QUESTION, options={**GREEDY, "num_predict": 40}).response
    stopped = local.generate("x", QUESTION, options={**GREEDY, "num_predict": 40, "stop": [text[8:11]]})
    assert (stopped.response, stopped.done_reason) == (text[: text.index(text[8:11])], "stop")
    seeded = [local.generate("x", QUESTION, options={"seed": 7, "temperature": 1.5, "num_predict": 9}).response for _ in range(2)]
    assert seeded[0] == seeded[1]
    local.generate("x", QUESTION, options={"num_ctx": 4096, "num_thread": 2, "mirostat": 0, "num_keep": 4, "top_k": -1, "num_predict": 1})
    local.generate(
        "x", QUESTION, think=False, format="", options={"repeat_last_n": 64, "tfs_z": 1.0, "penalize_newline": True, "num_predict": 1}
    )
    assert local.generate("x", QUESTION, options={"num_predict": -1, "seed": 3}).eval_count > 0
    assert local.generate("x", QUESTION, options={"num_predict": 0}).response == ""


def test_logprobs(local: ollama.Client) -> None:
    answer = local.chat("x", [{"role": "user", "content": QUESTION}], logprobs=True, top_logprobs=2, options=GREEDY)
    assert len(answer.logprobs) == 12
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in answer.logprobs)


def test_embeddings(local: ollama.Client, client: OpenAI) -> None:
    vectors = [item.embedding for item in client.embeddings.create(model="any", input=[QUESTION, "a"], encoding_format="float").data]
    assert [list(vector) for vector in local.embed("x", [QUESTION, "a"]).embeddings] == vectors
    assert list(local.embed("x", QUESTION).embeddings[0]) == vectors[0]
    assert list(local.embeddings("x", QUESTION).embedding) == vectors[0]
    assert local.embed("x", []).embeddings == []
    assert len(local.embed("x", "word " * 2000).embeddings) == 1
    with pytest.raises(ollama.ResponseError, match="maximum context length"):
        local.embed("x", "word " * 2000, truncate=False)


def test_what_the_server_has(local: ollama.Client, model: Model) -> None:
    (listed,) = local.list().models
    assert listed.model == "seed-like:latest"
    assert listed.details.family == "llama" and listed.size > 0 and len(listed.digest) == 64
    (loaded,) = local.ps().models
    assert (loaded.model, loaded.context_length) == ("seed-like:latest", 512)
    shown = local.show("anything")
    assert shown.capabilities == ["completion", "embedding"]
    assert shown.modelinfo["llama.context_length"] == 512
    assert "temperature 0.8" in shown.parameters and "<|assistant|>" in shown.template


def test_the_version(server: Server) -> None:
    status, body, _ = server.ask("/api/version")
    assert status == 200 and [int(part) for part in body["version"].split(".")] >= [0, 6, 4]


def test_long_conversations(local: ollama.Client) -> None:
    messages = [{"role": ("user", "assistant")[number % 2], "content": "word " * 20} for number in range(41)]
    assert local.chat("x", messages, options=GREEDY).prompt_eval_count < 512


def weather(city: str) -> str:
    """A tool."""
    return city


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [weather]}, "tools: this model cannot call tools"),
        ({"format": "json"}, "format: only plain text"),
        ({"format": {"type": "object"}}, "format: only plain text"),
        ({"think": True}, "think: this model does not think"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"messages": [{"role": "user", "content": "a", "images": ["aGVsbG8="]}]}, r"messages\[0\].images: this model reads text only"),
        ({"messages": [{"role": "tool", "content": "a", "tool_name": "f"}]}, r"messages\[0\].role: this model cannot call tools"),
        ({"messages": [{"role": "user", "content": ""}]}, "message 1 is empty"),
    ],
)
def test_what_is_unsupported_is_refused_by_name(local: ollama.Client, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ollama.ResponseError, match=message) as caught:
        local.chat("x", **{"messages": [{"role": "user", "content": "hello"}], **options})
    assert caught.value.status_code == 400


@pytest.mark.parametrize(("field", "value"), [("suffix", "x"), ("template", "x"), ("context", [1, 2])])
def test_fields_of_generate_that_are_unsupported(local: ollama.Client, field: str, value: Any) -> None:
    with pytest.raises(ollama.ResponseError, match=field):
        local.generate("x", "hello", **{field: value})
    local.generate("x", "hello", **{field: type(value)()}, options={"num_predict": 1})


def test_errors_have_the_form_that_clients_expect(server: Server) -> None:
    for path, body in (("/api/nothing", None), ("/api/chat", {"messages": 5}), ("/api/chat", b"{"), ("/api/tags", b"{}")):
        status, answer, _ = server.ask(path, body)
        assert status >= 400 and isinstance(answer["error"], str), path


def test_a_key(tiny_file: Path, tmp_path: Path) -> None:
    with running(tiny_file, tmp_path / "log", env={"BULLET_API_KEY": "secret"}) as server:
        with pytest.raises(ollama.ResponseError, match="no API key"):
            ollama.Client(server.root).list()
        assert ollama.Client(server.root, headers={"Authorization": "bearer secret"}).list().models


def test_a_request_without_a_content_type(server: Server) -> None:
    """As in the examples of Ollama's documentation, where curl calls the body a form."""
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        body = json.dumps({"model": "x", "prompt": "hello", "stream": False, "options": {"num_predict": 2}}).encode()
        request = urllib.request.Request(f"{server.root}/api/generate", body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=TEST_TIMEOUT) as answer:
            assert json.loads(answer.read())["eval_count"] == 2
        assert server.ask("/api/generate", body, {"Content-Type": kind, "Origin": "https://evil.example"})[0] == 403


def test_the_client_for_javascript(server: Server, client: OpenAI) -> None:
    """Needs `npm install ollama` in a folder that NODE_PATH names."""
    script = """
const { Ollama } = require('ollama');
(async () => {
  const client = new Ollama({ host: process.argv[1] });
  const messages = [{ role: 'user', content: process.argv[2] }];
  const options = { temperature: 0, num_predict: 12 };
  const plain = await client.chat({ model: 'x', messages, options });
  let streamed = '';
  for await (const part of await client.chat({ model: 'x', messages, options, stream: true })) streamed += part.message.content;
  const generated = await client.generate({ model: 'x', prompt: process.argv[2], options });
  const embedded = await client.embed({ model: 'x', input: 'a' });
  const listed = await client.list();
  const shown = await client.show({ model: 'x' });
  let refusal = '';
  try { await client.chat({ model: 'x', messages, format: 'json' }); } catch (error) { refusal = error.message; }
  console.log(JSON.stringify({ plain: plain.message.content, streamed, generated: generated.response,
    dim: embedded.embeddings[0].length, name: listed.models[0].name, family: shown.details.family, refusal }));
})();
"""
    if not shutil.which("node") or subprocess.run(["node", "-e", "require('ollama')"], capture_output=True).returncode:
        pytest.skip("node or its package ollama is not installed")
    result = subprocess.run(["node", "-e", script, server.root, QUESTION], capture_output=True, text=True, timeout=TEST_TIMEOUT)
    assert result.returncode == 0, result.stderr
    answer = expected(client, ("user", QUESTION))
    found = json.loads(result.stdout)
    assert found.pop("refusal").startswith("format: only plain text")
    assert found == {"plain": answer, "streamed": answer, "generated": answer, "dim": 256, "name": "seed-like:latest", "family": "llama"}


def test_a_system_text_is_not_left_out_of_a_raw_prompt(local: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="put the system text into the prompt") as caught:
        local.generate("x", "एका गावात", raw=True, system="Be brief.")
    assert caught.value.status_code == 400
    local.generate("x", "एका गावात", raw=True, system="", options={"num_predict": 1})
