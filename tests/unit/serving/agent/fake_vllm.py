"""A server with vLLM's answers and quirks, as tried on 0.32: what it accepts silently, what it says to duplicates, what it forgets."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import adapter_world
from aiohttp import web


class FakeVllm:
    """`share` of a name: how much of the package's effect it shows (0: matches nothing, and vLLM says no word about it)."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.share: dict[str, float] = {}
        self.refused: set[str] = set()
        self.up = True
        self.base_shift = 0.0
        self.in_flight = 0
        self.longest = 10**6
        """Prompt, in tokens."""
        self.weights: list[str] = []
        """What the workers hold, used longest ago first. Unloading a name leaves its weights here."""
        self.room = 10**6
        self.read_again: list[str] = []
        """Served from the disk, in an engine step."""
        self.calls: list[tuple[str, str]] = []
        self.url = ""
        self._table: dict[tuple[tuple[int, ...], int], tuple[float, float]] = {}
        for probe in adapter_world.PROBES["probes"]:  # type: ignore[attr-defined]
            for place, token in enumerate(probe["continuationTokenIds"]):
                prompt = (*probe["promptTokenIds"], *probe["continuationTokenIds"][:place])
                self._table[prompt, token] = (probe["baseLogprobs"][place], probe["adapterLogprobs"][place])

    def restart(self) -> None:
        """Everything that was loaded is gone."""
        self.loaded.clear()
        self.weights.clear()

    def names(self, call: str) -> list[str]:
        return [name for made, name in self.calls if made == call]

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.up else 503)

    async def _models(self, _: web.Request) -> web.Response:
        if not self.up:
            return web.Response(status=503)
        cards = [{"id": "base", "root": "/graft/model", "parent": None}]
        cards += [{"id": name, "root": path, "parent": "base"} for name, path in self.loaded.items()]
        return web.json_response({"object": "list", "data": cards})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert set(body) == {"lora_name", "lora_path"}, "never load_inplace"
        name, path = body["lora_name"], body["lora_path"]
        self.calls.append(("load", name))
        if name in self.loaded:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not Path(path).is_dir():  # noqa: ASYNC240
            return _error(404, "No adapter found")
        if name in self.refused:
            return _error(500, "Call to add_lora method failed: expected target modules")
        self.loaded[name] = path
        self._use(name)
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.calls.append(("unload", name))
        return web.Response(text="Success") if self.loaded.pop(name, None) else _error(404, "cannot be found")

    def _use(self, name: str) -> None:
        if name in self.weights:
            self.weights.remove(name)
        self.weights = [*self.weights, name][-self.room :]

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert "prompt_logprobs" not in body, "kills the engine on CPU"
        model = body["model"]
        if model != "base" and model not in self.loaded:
            return _error(404, "The model does not exist")
        if model != "base":
            self.read_again += [model] if model not in self.weights else []
            self._use(model)
        if "allowed_token_ids" not in body:
            self.calls.append(("touch", model))
            return web.json_response({"choices": [{"index": 0, "text": "x"}]})
        assert body["cache_salt"]
        if max(map(len, body["prompt"])) > self.longest:
            return _error(400, "This model's maximum context length is exceeded")
        (token,) = body["allowed_token_ids"]
        choices = [
            {"index": index, "logprobs": {"token_logprobs": [self._logprob(model, tuple(prompt), token)], "tokens": [f"token_id:{token}"]}}
            for index, prompt in enumerate(body["prompt"])
        ]
        return web.json_response({"choices": choices[::-1]})

    def _logprob(self, model: str, prompt: tuple[int, ...], token: int) -> float:
        base, adapter = self._table[prompt, token]
        share = 0.0 if model == "base" else self.share.get(model, 1.0)
        return base + share * (adapter - base) + self.base_shift

    async def _metrics(self, _: web.Request) -> web.Response:
        text = f'vllm:num_requests_running{{engine="0"}} {self.in_flight}.0\nvllm:num_requests_waiting{{engine="0"}} 0.0\n'
        return web.Response(text=text + 'vllm:num_requests_waiting_by_reason{reason="capacity"} 7.0\n')

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeVllm"]:
        application = web.Application()
        application.router.add_get("/health", self._health)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/v1/load_lora_adapter", self._load)
        application.router.add_post("/v1/unload_lora_adapter", self._unload)
        application.router.add_post("/v1/completions", self._completions)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def _error(status: int, message: str) -> web.Response:
    body: dict[str, Any] = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    return web.json_response(body, status=status)
