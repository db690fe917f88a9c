"""A tiny random model, its data and a run manifest: everything that a real run needs, in seconds."""

import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from graft_api import resolve
from graft_api.artifact import attempt_folder
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.run import RunManifest
from graft_api.schema import parse

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_model(folder: Path) -> None:
    """Write a llama of 2 layers and 64 hidden units with a byte-level tokenizer."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    tokens = [AddedToken(token, special=True) for token in special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([], trainers.BpeTrainer(vocab_size=260, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_key(path: Path) -> None:
    """Write a P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def rows(count: int = 200) -> list[dict[str, Any]]:
    """Return conversations: the answer is the first letter of the question, in capitals."""
    return [
        {"messages": [{"role": "user", "content": f"{'abcd'[i % 4]}{i}"}, {"role": "assistant", "content": "ABCD"[i % 4]}]}
        for i in range(count)
    ]


def write_rows(path: Path, items: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@dataclass
class World:
    """A folder with a model, data and a key; a run of it."""

    root: Path
    model: Path
    name: str = "job"
    changes: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    uid: str = "uid-1"
    """Another one: the job was deleted and created again."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.data.exists() or write_rows(self.data, rows())
        self.key.exists() or make_key(self.key)
        self.output = self.output or (self.root / "out").as_uri()

    @property
    def data(self) -> Path:
        return self.root / "data.jsonl"

    @property
    def key(self) -> Path:
        return self.root / "key.pem"

    @property
    def run_folder(self) -> Path:
        return Path(self.manifest().run_uri.removeprefix("file://"))

    def spec(self) -> dict[str, Any]:
        """Return the spec as a user writes it."""
        spec: dict[str, Any] = {
            "domain": "letters",
            "baseModel": {"uri": self.model.as_uri()},
            "method": "qlora",
            "lora": {"rank": 8, "alpha": 16, "dropout": "0"},
            "training": {
                "epochs": 1, "learningRate": "1e-2", "batchSize": 8, "gradientAccumulation": 1, "maxLength": 64, "seed": 3,
                "logEverySteps": 2,
                "checkpoints": {"everySteps": 6, "keep": 2},
            },
            "dataset": {
                "sources": [{"uri": self.data.as_uri()}], "minExamples": 50,
                "holdout": {"fraction": "0.1"}, "validation": {"fraction": "0.1"},
            },
            "evaluation": {
                "suites": [{"name": "letters", "scorer": {"exact": {}}, "accept": {"max": "0.9"}}],
                "generation": {"maxNewTokens": 4, "batchSize": 32},
            },
            "output": {"uri": self.output},
            "signing": {"secretRef": {"name": "signing-key"}},
        }  # fmt: skip
        for path, value in self.changes.items():
            _set(spec, path.split("."), value)
        return spec

    def manifest(self, reporting: dict[str, Any] | None = None) -> RunManifest:
        resolved = resolve.resolve(parse(FineTuneJobSpec, self.spec()))
        value = {
            "job": {"namespace": "default", "name": self.name, "uid": self.uid},
            "specHash": resolve.spec_hash(resolved),
            "runUri": resolve.run_uri(resolved, "default", self.name),
            "spec": resolved.to_json(),
        }
        return parse(RunManifest, value | ({"reporting": reporting} if reporting else {}))

    def arguments(self, work: str = "work", reporting: dict[str, Any] | None = None) -> list[str]:
        """Write run.json; return the options of `graft-trainer`."""
        folder = self.root / work
        folder.mkdir(exist_ok=True)
        run = folder / "run.json"
        run.write_text(json.dumps(self.manifest(reporting).to_json()))
        token = folder / "token"
        token.write_text("secret-token")
        return [
            "--run", str(run), "--work", str(folder), "--signing-key", str(self.key), "--token", str(token),
            "--termination-log", str(folder / "termination.json"), "--credentials", str(self.root / "credentials"),
        ]  # fmt: skip

    def container(
        self, command: str, work: str = "work", reporting: dict[str, Any] | None = None, patch: "Callable[[], None] | None" = None
    ) -> "Ended":
        """Run one container to its end."""
        return Forked(self, command, work, reporting, patch).wait()

    def pod(self, work: str = "work", reporting: dict[str, Any] | None = None, **patches: "Callable[[], None]") -> "Ended":
        """Run a pod's containers until one fails; `train=patch` patches that container."""
        for command in ("preflight", "train", "publish"):
            ended = self.container(command, work, reporting, patches.get(command))
            if ended.code:
                return ended
        return ended

    def committed(self) -> dict[str, Any]:
        """Return commit.json."""
        return json.loads((self.run_folder / "commit.json").read_text())

    def attempt(self, number: int) -> Path:
        """Return the folder of this job's attempt."""
        return self.run_folder / attempt_folder(number, self.uid)

    def artifacts(self) -> list[Path]:
        """Return the folders of complete artifacts that commit.json can name."""
        return sorted(path.parent for path in self.run_folder.glob("attempt-*/artifact/manifest.json"))

    def metrics(self) -> dict[str, Any]:
        """Return the committed artifact's training metrics."""
        folder = (self.run_folder / self.committed()["manifest"]).parent
        return json.loads((folder / "training_metrics.json").read_text())


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    output: str
    termination: dict[str, Any]


class Forked:
    """
    A container as a forked process: the libraries are imported once for all tests, yet each container can be killed and paused.

    `patch` runs in the child and replaces what the test wants to fail.
    """

    def __init__(self, world: World, command: str, work: str, reporting: dict[str, Any] | None, patch: "Callable[[], None] | None") -> None:
        self.log = world.root / work / f"{command}.log"
        self.termination = world.root / work / "termination.json"
        argv = ["graft-trainer", command, *world.arguments(work, reporting)]
        self.termination.unlink(missing_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            _child(argv, self.log, patch)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        written = self.termination.is_file() and self.termination.stat().st_size
        return Ended(code, self.log.read_text(), json.loads(self.termination.read_text()) if written else {})


def _child(argv: list[str], log: Path, patch: "Callable[[], None] | None") -> None:
    try:
        with log.open("w") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        warnings.resetwarnings()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logging.getLogger().handlers.clear()
        sys.argv = argv
        if patch:
            patch()
        from graft_trainer.main import main

        main()
    except BaseException:  # noqa: BLE001 - the edge of a forked process
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(99)


def kill_self(*_: Any, **__: Any) -> None:
    """kill -9, from within."""
    os.kill(os.getpid(), signal.SIGKILL)


def _set(spec: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        spec = spec.setdefault(name, {})
    spec[path[-1]] = value
