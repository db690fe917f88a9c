"""How vLLM must be started so that graft can serve adapters through it: its arguments and environment, as of vLLM 0.32."""

from typing import Any

from graft_api import dataplane as plane
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.podtemplate import PodTemplate
from graft_api.serverpod import TMP, variables

Manifest = dict[str, Any]

DEFAULT_COMMAND = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
PARALLEL = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp")
"""Whoever says one of these knows how to spread over GPUs."""

SERVING_ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    # With one of these, a request that names a path or a repository makes vLLM load it, unverified. VLLM_PLUGINS itself is
    # left alone: it also chooses the plugin of the hardware.
    "VLLM_LORA_RESOLVER_CACHE_DIR": "",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST": "",
    # vLLM listens on loopback; with a key of its own it would refuse agent and door.
    "VLLM_API_KEY": "",
    # A host that `gateway.allowedMediaHosts` lets through must not send vLLM on to another one.
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}
"""Of every vLLM that graft serves adapters through, whoever made its Deployment."""

OWN_ENVIRONMENT = {
    # What serves was checked by its digest: nothing may be fetched beside it.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
} | SERVING_ENVIRONMENT
"""Wins over the user's variables."""

DEFAULT_ENVIRONMENT = {
    "HOME": TMP,
    # PyTorch asks for a name, and images know no user 65532.
    "USER": "graft",
    "XDG_CACHE_HOME": f"{TMP}/.cache",
    "XDG_CONFIG_HOME": f"{TMP}/.config",
}
"""The user's variables win: a claim for compile caches is a good idea."""


def server_arguments(spec: ModelEndpointSpec) -> list[str]:
    """
    Return vLLM's arguments: the user's, then graft's.

    In this order because vLLM takes abbreviations, and the last one wins: `--hos=0.0.0.0` gets past a list of names, not past this.
    """
    user = list(spec.server.args or [])
    parallel = spec.server.gpus > 1 and not any(flag_of(argument) in PARALLEL for argument in user)
    return [
        *user,
        *(["--tensor-parallel-size", str(spec.server.gpus)] if parallel else []),
        *["--dtype", spec.server.dtype],
        *["--model", plane.MODEL_DIRECTORY],
        *loopback_arguments(),
        *lora_arguments(spec),
    ]


def loopback_arguments() -> list[str]:
    """Return where vLLM listens, and what it calls the base model."""
    return ["--host", "127.0.0.1", "--port", str(plane.SERVER_PORT), "--served-model-name", plane.BASE_NAME]


def lora_arguments(spec: ModelEndpointSpec) -> list[str]:
    """Return the room for adapters. As many on the CPU side as in the batch: an evicted adapter would be read from disk again."""
    slots = str(spec.slots())
    return ["--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots, "--max-lora-rank", str(served_rank(spec))]


def served_rank(spec: ModelEndpointSpec) -> int:
    """Return the highest rank that adapters may have."""
    return spec.rank()


def flag_of(argument: str) -> str:
    """Return an argument's name as vLLM understands it: without the value, and with hyphens."""
    name = argument.partition("=")[0]
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name


def server_environment(spec: ModelEndpointSpec) -> list[Manifest]:
    """Return vLLM's environment, each name once: server-side apply refuses a name that is there twice."""
    template = spec.server.pod_template or PodTemplate()
    user = {variable.name: variable.to_json() for variable in template.env or []}
    before = {item["name"]: item for item in variables(DEFAULT_ENVIRONMENT)}
    after = {item["name"]: item for item in variables(OWN_ENVIRONMENT)}
    return list((before | user | after).values())
