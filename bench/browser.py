"""Measures a model in the browser: size of the page, time to the first token, speed in Node.js and Chromium, memory.

    python bench/browser.py                        a random model of the seed's shape
    python bench/browser.py --model FILE.bullet    another model
    python bench/browser.py --large                a random model with 26 million parameters
    python bench/browser.py --quick                few rounds, only to check that the script works

It needs Node.js, Chromium and playwright. The native engine and Node.js generate the same tokens in turns, so that other load on the
computer affects both; the figures of Node.js and the native engine use the processor time of the process beside the elapsed time,
because on a busy computer only that says something. Chromium opens the page from a file, with the network off. The exit code is 1 if a
target is missed (not with --quick), or if Node.js generates other tokens than the kernels in plain C.
"""

import argparse
import base64
import hashlib
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

import bulletlm
from bulletlm.formats.bullet.reader import open_bullet
from bulletlm.formats.convert import convert
from bulletlm.formats.html.bundle import write_npm_folder
from bulletlm.runtime import NativeEngine, Sampling
from bulletlm.runtime.native import NativeSampler, TensorBytes, available_paths
from bulletlm.runtime.random import seeded
from bulletlm.shape import ModelShape
from runtime import SEED_SHAPE, random_model

PROMPT = [1, 3, 300, 301, 302, 5, 4]
TOKENS = 128
LARGE_SHAPE = ModelShape(8000, 448, 7, 7, 7, 1792, 512)

NODE_SCRIPT = """
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { load } from "bulletlm";

const model = await load(await readFile(process.argv[2]), { simd: process.argv[3] === "simd" });
for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, maxTokens } = JSON.parse(line);
  const session = model.newSession();
  const [started, before] = [performance.now(), process.cpuUsage()];
  const ids = [];
  for await (const { id } of model.generate(prompt, { temperature: 0, maxTokens, session })) ids.push(id);
  const [wall, { user, system }] = [(performance.now() - started) / 1e3, process.cpuUsage(before)];
  session.close();
  console.log(JSON.stringify({ ids, wall, cpu: (user + system) / 1e6, memory: model.memoryBytes }));
}
"""

ASK_AT_ONCE = """
let ready = 0;
const timer = setInterval(() => {
  if (document.documentElement.dataset.ready && !ready) {
    ready = performance.now();
    document.querySelector("#question").value = "एका गावात";
    document.querySelector("#temperature").value = "0";
    document.querySelector("#maxTokens").value = "128";
    document.querySelector("#form").requestSubmit();
  }
  if (document.querySelector(".message.assistant .text")?.textContent) {
    document.title = `measured ${ready} ${performance.now()}`;
    clearInterval(timer);
  }
}, 1);
"""
"""Asks a question as soon as the model is ready; the title then has the milliseconds since the browser began to open the page."""

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
]


class Node:
    """The library in a process of its own."""

    def __init__(self, folder: Path, model: Path, module: str) -> None:
        write_npm_folder(folder / "node_modules" / "bulletlm")
        (folder / "bench.mjs").write_text(NODE_SCRIPT, encoding="utf-8")
        command = ["node", "bench.mjs", str(model.resolve()), module]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def generate(self) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"prompt": PROMPT, "maxTokens": TOKENS}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def native_generate(engine: NativeEngine) -> dict[str, Any]:
    cache, sampler = engine.new_cache(), NativeSampler(Sampling(temperature=0), seeded([0, 5]), PROMPT[:-2], engine.shape.vocab_size)
    wall, cpu = time.perf_counter(), time.process_time()
    ids = engine.generate(PROMPT, cache, sampler, (5, 2), TOKENS)
    return {"ids": ids, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def renderer_bytes(page: Any) -> int:
    """Memory of the process that shows a page, without what it shares with other processes; half of it is the browser's own."""
    session = page.context.browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    return max(psutil.Process(each["id"]).memory_full_info().uss for each in processes if each["type"] == "renderer")


def asking_copy(page_file: Path) -> Path:
    """A copy of a page with ASK_AT_ONCE in it."""
    text = page_file.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(ASK_AT_ONCE.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1).replace(
        "<meta name", f"<script>{ASK_AT_ONCE}</script>\n<meta name", 1
    )
    copy = page_file.with_name(f"asking-{page_file.name}")
    copy.write_text(text, encoding="utf-8")
    return copy


def opening_times(page_file: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of the navigation until the model is ready and until its first text is in the page.

    Each round starts a browser, waits until it is idle, and opens the page in a new tab. playwright is not used here: its debugger stops
    every worker at its start, for about 0.1 s. The HTTP interface of the browser opens the tab and reads its title without one.
    """
    copy = asking_copy(page_file)
    times = [opening_time(copy) for _ in range(rounds)]
    return {"ready": [ready for ready, _ in times], "first": [first for _, first in times]}


def opening_time(page_file: Path) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        port_file = Path(profile) / "DevToolsActivePort"
        command = [shutil.which("chromium") or "chromium", "--headless", *CHROMIUM_OPTIONS, "--remote-debugging-port=0"]
        output = subprocess.DEVNULL
        browser = subprocess.Popen([*command, f"--user-data-dir={profile}", "about:blank"], stdout=output, stderr=output)
        try:
            port = wait_for(lambda: port_file.exists() and port_file.read_text(encoding="utf-8").split("\n")[0])
            time.sleep(1)
            ask_browser(port, "PUT", f"new?{quote(page_file.as_uri())}")
            time.sleep(1)
            title = wait_for(lambda: measured_title(port))
        finally:
            browser.kill()
            browser.wait()
    _, ready, first = title.split()
    return float(ready) / 1e3, float(first) / 1e3


def wait_for(result: Callable[[], Any]) -> Any:
    """The first result that is true. Raises TimeoutError after a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := result():
            return found
        time.sleep(0.1)
    raise TimeoutError("Chromium did not answer within a minute")


def ask_browser(port: str, method: str, path: str) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/json/{path}", method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def measured_title(port: str) -> str | None:
    titles: list[str] = [target["title"] for target in ask_browser(port, "GET", "list")]
    return next((title for title in titles if title.startswith("measured ")), None)


def answers_in_chromium(page_file: Path, rounds: int) -> dict[str, list[float]]:
    """Tokens per second, and memory, of pages that are opened one by one."""
    from playwright.sync_api import sync_playwright

    results: dict[str, list[float]] = {"speed": [], "bytes": []}
    with sync_playwright() as driver:
        for _ in range(rounds):
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
            context = browser.new_context(locale="en-US")
            context.set_offline(True)
            page = context.new_page()
            empty = renderer_bytes(page)
            page.goto(page_file.as_uri())
            page.wait_for_selector("html[data-ready]")
            for name, value in (("temperature", "0"), ("maxTokens", "128")):
                page.eval_on_selector(f"#{name}", f"input => input.value = {value}")
            for count, question in enumerate(("एका गावात", "आणि?"), 1):  # the second answer is measured: first the browser compiles
                page.fill("#question", question)
                page.press("#question", "Enter")
                while page.locator(".message.assistant .copy").count() < count or page.locator("#stop").is_visible():
                    page.wait_for_timeout(50)
            words = page.inner_text("#status").replace(",", "").split()
            results["speed"].append(float(words[2]))
            results["bytes"].append(renderer_bytes(page) - empty)
            browser.close()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--large", action="store_true", help="a larger model; the targets are for the seed's shape, so none is checked")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="2 rounds; missed targets do not change the exit code")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    rows: list[tuple[str, float]] = []
    checked = not arguments.quick and not arguments.large
    bars: list[dict[str, Any]] = []

    def bar(name: str, value: float, target: float, at_least: bool) -> None:
        bars.append({"name": name, "value": value, "target": target, "pass": value >= target if at_least else value <= target})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or random_model(folder, LARGE_SHAPE if arguments.large else SEED_SHAPE)
        file = open_bullet(model)
        tensors = {tensor: TensorBytes(file.type(tensor), file.read_bytes(tensor), mapped=True) for tensor in file.tensors}
        plain = native_generate(NativeEngine(file.shape, tensors, "portable"))
        native = NativeEngine(file.shape, tensors)
        nodes = {f"node {module}": Node(folder, model, module) for module in ("simd", "scalar")}
        runs: dict[str, list[dict[str, Any]]] = {"native": [], **{name: [] for name in nodes}}
        for i in range(rounds + 2):
            for kind, results in runs.items():
                result = native_generate(native) if kind == "native" else nodes[kind].generate()
                if i >= 2:  # the first rounds warm up, and the browser's compiler runs
                    results.append(result)
        for node in nodes.values():
            node.close()
        same = all(result["ids"] == plain["ids"] for kind in nodes for result in runs[kind])
        speeds = {}
        for kind, results in runs.items():
            for clock in ("wall", "cpu"):
                speeds[kind, clock] = statistics.median(len(result["ids"]) / result[clock] for result in results)
                rows.append((f"{kind}, tokens/s ({'elapsed' if clock == 'wall' else 'processor'} time)", speeds[kind, clock]))
        rows.append(("node simd / native, processor time", speeds["node simd", "cpu"] / speeds["native", "cpu"]))
        rows.append(("node simd, memory of WebAssembly / file", runs["node simd"][-1]["memory"] / file.size))

        page = folder / "page.html"
        convert(model, page)
        size = page.stat().st_size
        rows += [("model, MB", file.size / 1e6), ("page, MB", size / 1e6)]
        figures = opening_times(page, max(1, rounds // 2)) | answers_in_chromium(page, max(1, rounds // 3))
        chromium = {kind: statistics.median(values) for kind, values in figures.items()}
        rows += [
            ("Chromium, seconds until the model is ready", chromium["ready"]),
            ("Chromium, seconds until the first token", chromium["first"]),
            ("Chromium, tokens/s (elapsed time)", chromium["speed"]),
            ("Chromium, MB that the process of the page takes", chromium["bytes"] / 1e6),
        ]
        bar("page, MB", size / 1e6, 8, False)
        bar("first token, seconds after opening", chromium["first"], 0.5, False)
        bar("node, tokens/s", speeds["node simd", "cpu"], 1390, True)
        bar("Chromium, tokens/s", chromium["speed"], 1200, True)
        bar("memory of WebAssembly / file", runs["node simd"][-1]["memory"] / file.size, 4, False)

    for label, value in rows:
        print(f"{label:<50} {value:>10,.3f}" if value < 100 else f"{label:<50} {value:>10,.0f}")
    print(f"same tokens as the kernels in plain C: {'yes' if same else 'NO'}")
    for each in bars if not arguments.large else []:
        print(f"{'ok  ' if each['pass'] else 'MISS'} {each['name']}: {each['value']:.3g} (target {each['target']:g})")
    if arguments.json:
        machine = {"machine": platform.machine(), "kernels": available_paths(), "bulletlm": bulletlm.__version__}
        result = {"machine": machine, "rows": [list(row) for row in rows], "bars": bars}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if not same or (checked and not all(each["pass"] for each in bars)) else 0


if __name__ == "__main__":
    sys.exit(main())
