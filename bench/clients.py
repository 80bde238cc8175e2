"""Tests which client libraries work with `bullet serve`: a chat of 20 turns through each of them, with every second answer streamed.

    python bench/clients.py runs/demo/model.bullet
    python bench/clients.py runs/demo/model.bullet --turns 4 --only openai,ollama

Install the clients in a separate environment, because some need other package versions than those in constraints.txt:

    pip install 'bulletlm[clients]'
    npm install openai ollama ai @ai-sdk/openai      in the current folder, or in a folder that NODE_PATH lists

Every client runs in a separate process with its default settings, except for the address, the key and the model's name. It sends
the whole conversation each time, even if the conversation is longer than the model's context. The exit code is 1 if a client fails;
clients that are not installed are listed and do not count as failures.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

QUESTIONS = ("मैत्री म्हणजे काय?", "Who lived in the old house?", "शेतकऱ्याने शेतात काय पेरले?", "Tell me a short story about rain.")
TIMEOUT_SECONDS = 300
"""For one client."""

STOP_SECONDS = 60
"""For the server to end after SIGTERM."""

Ask = Callable[[str, bool], str]
"""Asks the next question of a conversation, streamed or not, and gives the answer."""


def openai_chat(root: str) -> Ask:
    from openai import OpenAI

    client, messages = OpenAI(base_url=f"{root}/v1", api_key="unused"), list[Any]()

    def ask(question: str, stream: bool) -> str:
        messages.append({"role": "user", "content": question})
        if stream:
            chunks = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
            messages.append({"role": "assistant", "content": "".join(chunk.choices[0].delta.content or "" for chunk in chunks)})
            return str(messages[-1]["content"])
        message = client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message
        messages.append(message)
        return str(message.content)

    return ask


def openai_responses(root: str) -> Ask:
    from openai import OpenAI

    client, items = OpenAI(base_url=f"{root}/v1", api_key="unused"), list[Any]()

    def ask(question: str, stream: bool) -> str:
        items.append({"role": "user", "content": question})
        if stream:
            with client.responses.stream(model="gpt-4o", input=items) as events:
                answer: Any = events.get_final_response()
        else:
            answer = client.responses.create(model="gpt-4o", input=items)
        items.extend(answer.output)
        return str(answer.output_text)

    return ask


def litellm_chat(model: str, root: str) -> Ask:
    import litellm

    messages = list[Any]()

    def ask(question: str, stream: bool) -> str:
        messages.append({"role": "user", "content": question})
        answer: Any = litellm.completion(model=model, api_base=root, api_key="unused", messages=messages, stream=stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer) if stream else answer.choices[0].message.content
        messages.append({"role": "assistant", "content": text})
        return str(text)

    return ask


def langchain_chat(model: Any) -> Ask:
    messages = list[Any]()

    def ask(question: str, stream: bool) -> str:
        messages.append(("human", question))
        if stream:
            answer = "".join(str(chunk.content) for chunk in model.stream(messages))
            messages.append(("ai", answer))
            return answer
        message = model.invoke(messages)
        messages.append(message)
        return str(message.content)

    return ask


def langchain_openai(root: str) -> Ask:
    from langchain_openai import ChatOpenAI

    return langchain_chat(ChatOpenAI(model="gpt-4o", base_url=f"{root}/v1", api_key="unused"))  # type: ignore[arg-type]


def langchain_ollama(root: str) -> Ask:
    from langchain_ollama import ChatOllama

    return langchain_chat(ChatOllama(model="llama3", base_url=root))


def llama_index_chat(model: Any) -> Ask:
    from llama_index.core.llms import ChatMessage

    messages = list[Any]()

    def ask(question: str, stream: bool) -> str:
        messages.append(ChatMessage(role="user", content=question))
        if stream:
            text = "".join(chunk.delta or "" for chunk in model.stream_chat(messages))
            messages.append(ChatMessage(role="assistant", content=text))
            return text
        messages.append(model.chat(messages).message)
        return str(messages[-1].content)

    return ask


def llama_index_openai(root: str) -> Ask:
    from llama_index.llms.openai_like import OpenAILike

    return llama_index_chat(OpenAILike(model="demo", api_base=f"{root}/v1", api_key="unused", is_chat_model=True))


def llama_index_ollama(root: str) -> Ask:
    from llama_index.llms.ollama import Ollama

    return llama_index_chat(Ollama(model="llama3", base_url=root))


def pydantic_ai_chat(kind: str, root: str) -> Ask:
    from pydantic_ai import Agent
    from pydantic_ai.models import openai as models
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{root}/v1", api_key="unused")
    agent: Any = Agent(getattr(models, kind)("gpt-4o", provider=provider), instructions="Answer briefly.")
    history = list[Any]()
    loop = asyncio.new_event_loop()

    async def streamed(question: str) -> tuple[str, list[Any]]:
        async with agent.run_stream(question, message_history=history) as result:
            text = "".join([part async for part in result.stream_text(delta=True)])
            return text, result.all_messages()

    def ask(question: str, stream: bool) -> str:
        nonlocal history
        if stream:
            text, history = loop.run_until_complete(streamed(question))
            return text
        result = loop.run_until_complete(agent.run(question, message_history=history))
        history = result.all_messages()
        return str(result.output)

    return ask


def llm_chat(root: str) -> Ask:
    folder = tempfile.mkdtemp()
    os.environ["LLM_USER_PATH"] = folder
    entry = f"- model_id: local\n  model_name: demo\n  api_base: {root}/v1\n"
    Path(folder, "extra-openai-models.yaml").write_text(entry, encoding="utf-8")
    import llm

    conversation = llm.get_model("local").conversation()

    def ask(question: str, stream: bool) -> str:
        answer: Any = conversation.prompt(question, stream=stream, key="unused")
        return "".join(answer) if stream else str(answer.text())

    return ask


def ollama_chat(root: str) -> Ask:
    import ollama

    client, messages = ollama.Client(root), list[Any]()

    def ask(question: str, stream: bool) -> str:
        messages.append({"role": "user", "content": question})
        if stream:
            text = "".join(chunk.message.content or "" for chunk in client.chat("llama3", messages, stream=True))
            messages.append({"role": "assistant", "content": text})
        else:
            messages.append(client.chat("llama3", messages).message)
        return str(messages[-1]["content"])

    return ask


NODE_CHAT = """
const questions = JSON.parse(process.argv[2]);
(async () => {
  const ask = await start(process.argv[1]);
  for (let turn = 0; turn < questions.length; turn++)
    console.log(JSON.stringify(await ask(questions[turn], turn % 2 === 1)));
})().catch(error => { console.error(String(error && error.message || error)); process.exit(1); });
"""

NODE_CLIENTS = {
    "openai": """
const OpenAI = require('openai');
async function start(root) {
  const client = new OpenAI({ baseURL: root + '/v1', apiKey: 'unused' });
  const messages = [];
  return async (question, stream) => {
    messages.push({ role: 'user', content: question });
    if (!stream) {
      const answer = await client.chat.completions.create({ model: 'gpt-4o', messages });
      messages.push(answer.choices[0].message);
    } else {
      let text = '';
      for await (const chunk of await client.chat.completions.create({ model: 'gpt-4o', messages, stream: true }))
        text += chunk.choices[0].delta.content || '';
      messages.push({ role: 'assistant', content: text });
    }
    return messages[messages.length - 1].content;
  };
}""",
    "openai responses": """
const OpenAI = require('openai');
async function start(root) {
  const client = new OpenAI({ baseURL: root + '/v1', apiKey: 'unused' });
  let previous;
  return async (question, stream) => {
    const request = { model: 'gpt-4o', input: question, previous_response_id: previous };
    const answer = stream ? await client.responses.stream(request).finalResponse() : await client.responses.create(request);
    previous = answer.id;
    return answer.output_text;
  };
}""",
    "ai": """
const { generateText, streamText } = require('ai');
const { createOpenAI } = require('@ai-sdk/openai');
async function start(root) {
  const model = createOpenAI({ baseURL: root + '/v1', apiKey: 'unused' })('gpt-4o');
  const messages = [];
  return async (question, stream) => {
    messages.push({ role: 'user', content: question });
    if (!stream) {
      const result = await generateText({ model, messages });
      messages.push(...result.response.messages);
      return result.text;
    }
    let text = '', failure;
    const result = streamText({ model, messages, onError: ({ error }) => { failure = error; } });
    for await (const part of result.textStream) text += part;
    if (failure) throw failure;
    messages.push(...(await result.response).messages);
    return text;
  };
}""",
    "ollama": """
const { Ollama } = require('ollama');
async function start(root) {
  const client = new Ollama({ host: root });
  const messages = [];
  return async (question, stream) => {
    messages.push({ role: 'user', content: question });
    if (!stream) messages.push((await client.chat({ model: 'llama3', messages })).message);
    else {
      let text = '';
      for await (const part of await client.chat({ model: 'llama3', messages, stream: true })) text += part.message.content;
      messages.push({ role: 'assistant', content: text });
    }
    return messages[messages.length - 1].content;
  };
}""",
}


class Client(NamedTuple):
    """A client library and how it is used.

    Attributes:
        package: its name at PyPI or npm.
        interface: the route that it uses.
        start: begins a conversation with the server at an address; None for the ones in NODE_CLIENTS.
    """

    package: str
    interface: str
    start: Callable[[str], Ask] | None = None


CLIENTS = {
    "openai": Client("openai", "/v1/chat/completions", openai_chat),
    "openai, responses": Client("openai", "/v1/responses", openai_responses),
    "litellm, openai": Client("litellm", "/v1/chat/completions", lambda root: litellm_chat("openai/demo", f"{root}/v1")),
    "litellm, ollama": Client("litellm", "/api/chat", lambda root: litellm_chat("ollama_chat/demo", root)),
    "langchain-openai": Client("langchain-openai", "/v1/chat/completions", langchain_openai),
    "langchain-ollama": Client("langchain-ollama", "/api/chat", langchain_ollama),
    "llama-index, openai-like": Client("llama-index-llms-openai-like", "/v1/chat/completions", llama_index_openai),
    "llama-index, ollama": Client("llama-index-llms-ollama", "/api/chat", llama_index_ollama),
    "pydantic-ai": Client("pydantic-ai-slim", "/v1/chat/completions", lambda root: pydantic_ai_chat("OpenAIChatModel", root)),
    "pydantic-ai, responses": Client("pydantic-ai-slim", "/v1/responses", lambda root: pydantic_ai_chat("OpenAIResponsesModel", root)),
    "llm": Client("llm", "/v1/chat/completions", llm_chat),
    "ollama": Client("ollama", "/api/chat", ollama_chat),
    "openai (npm)": Client("openai", "/v1/chat/completions"),
    "openai responses (npm)": Client("openai", "/v1/responses"),
    "ai (npm), openai provider": Client("@ai-sdk/openai", "/v1/responses"),
    "ollama (npm)": Client("ollama", "/api/chat"),
}


def questions(turns: int) -> list[str]:
    return [f"{QUESTIONS[turn % len(QUESTIONS)]} ({turn + 1})" for turn in range(turns)]


def chat(name: str, root: str, turns: int) -> None:
    """Chat through one Python client, and print each answer as a line of JSON."""
    start = CLIENTS[name].start
    assert start is not None
    ask = start(root)
    for turn, question in enumerate(questions(turns)):
        print(json.dumps(ask(question, turn % 2 == 1)), flush=True)


class Result(NamedTuple):
    """The result of a client: "works", "not installed" or "FAILS"; and the answers, or the reason."""

    outcome: str
    turns: int
    empty: int
    version: str
    detail: str


def run_client(name: str, root: str, turns: int) -> Result:
    client = CLIENTS[name]
    version = python_version(client.package) if client.start else npm_version(client.package)
    if version is None:
        return Result("not installed", 0, 0, "", "")
    if client.start:
        command = [sys.executable, __file__, "--client", name, "--url", root, "--turns", str(turns)]
    else:
        script = NODE_CLIENTS[name.split(" (npm)")[0]] + NODE_CHAT
        command = ["node", "-e", script, root, json.dumps(questions(turns))]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return Result("FAILS", 0, 0, version, f"no end within {TIMEOUT_SECONDS} s")
    answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('"')]
    if result.returncode or len(answers) != turns:
        reason = (result.stderr.strip().splitlines() or ["no answer"])[-1]
        return Result("FAILS", len(answers), answers.count(""), version, reason[:200])
    return Result("works", len(answers), answers.count(""), version, "")


def python_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def npm_version(package: str) -> str | None:
    if not shutil.which("node"):
        return None
    script = f"console.log(JSON.parse(require('fs').readFileSync(require.resolve.paths('{package}').concat(module.paths)"
    script += f".map(folder => folder + '/{package}/package.json').find(require('fs').existsSync))).version)"
    result = subprocess.run(["node", "-e", script], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


@contextmanager
def server_of(model: Path) -> Iterator[str]:
    """Start a server with its default options and return its address."""
    command = [sys.executable, "-m", "bulletlm", "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"(http://\S+)/v1", process.stdout.readline())
            if not found:
                sys.exit("the server did not start")
            yield found[1]
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a .bullet file")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--only", help="names of clients, separated by commas; a client is run if its name contains one of them")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        chat(options.client, options.url, options.turns)
        return
    if options.model is None:
        parser.error("name a model file")
    chosen = [name for name in CLIENTS if not options.only or any(part in name for part in options.only.split(","))]
    failed = False
    with server_of(options.model) as root:
        print(f"{'client':28} {'version':10} {'interface':22} {'turns':>5} {'empty':>5} {'seconds':>7}  result")
        for name in chosen:
            started = time.monotonic()
            result = run_client(name, root, options.turns)
            seconds = time.monotonic() - started
            failed |= result.outcome == "FAILS"
            line = f"{name:28} {result.version:10} {CLIENTS[name].interface:22} {result.turns:5} {result.empty:5} {seconds:7.1f}  "
            print(line + " ".join(filter(None, [result.outcome, result.detail])), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
