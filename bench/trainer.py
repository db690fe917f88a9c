"""
The trainer beside plain TRL: `make bench-trainer`.

One job, the example's, twice in the same run: through `graft-trainer run` with everything that it does around training, and
as the shortest TRL script with the same hyperparameters on the same rows. Prints seconds per stage and ratios; writes
`bench/results/trainer.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from graft_api import resolve
from graft_api.finetunejob import FineTuneJob
from graft_api.schema import parse

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "dsl"
RESULTS = ROOT / "bench" / "results" / "trainer.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer)
        return
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as temporary:
        folder = Path(temporary)
        subprocess.run([sys.executable, "-m", "world", "--out", str(folder)], cwd=EXAMPLE, check=True)
        ours = run_graft(folder)
        theirs = run_peer(folder)
    show(ours, theirs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"graft": ours, "plainTrl": theirs, "ratios": ratios(ours, theirs)}, indent=2) + "\n")


def run_graft(folder: Path) -> dict[str, Any]:
    """Run the job as the pod does; return seconds."""
    job = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text().replace("s3://graft-demo/", f"{folder.as_uri()}/"))
    job["spec"].pop("credentials", None)
    spec = resolve.resolve(parse(FineTuneJob, job).spec)
    work, key = folder / "work", folder / "key.pem"
    work.mkdir()
    run = {"job": {"namespace": "bench", "name": "dsl", "uid": "bench"}, "specHash": resolve.spec_hash(spec)}
    run |= {"runUri": resolve.run_uri(spec, "bench", "dsl"), "spec": spec.to_json()}
    (work / "run.json").write_text(json.dumps(run))
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)], check=True)
    command = [
        sys.executable,
        "-m",
        "graft_trainer.main",
        "run",
        "--run",
        str(work / "run.json"),
        "--work",
        str(work),
        "--signing-key",
        str(key),
    ]
    began = time.monotonic()
    subprocess.run(command, check=True)
    whole = time.monotonic() - began
    result = json.loads((work / "termination.json").read_text())["result"]
    metrics = json.loads((Path(result["artifact"]["uri"].removeprefix("file://")) / "training_metrics.json").read_text())
    return {
        "whole": whole,
        "stages": result["stageSeconds"],
        "loop": last(metrics["log"], "train_runtime"),
        "loss": last(metrics["log"], "train_loss"),
        "steps": metrics["steps"],
        "evaluation": result["evaluation"],
    }


def run_peer(folder: Path) -> dict[str, Any]:
    """Run plain TRL in a process of its own; return seconds."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, __file__, "--peer", str(folder)], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured | {"whole": time.monotonic() - began}


def peer(folder: Path) -> None:
    """TRL as its documentation shows it, with the job's hyperparameters."""
    began = time.monotonic()
    # Here, since the imports are part of what is measured.
    import torch  # noqa: PLC0415
    from datasets import load_dataset  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    imported = time.monotonic()
    torch.set_num_threads(max(1, min(8, len(os.sched_getaffinity(0)) - 1)))
    spec = json.loads((folder / "work/run.json").read_text())["spec"]
    training, lora = spec["training"], spec["lora"]
    names = {"train": "train.jsonl", "validation": "validation.jsonl"}
    files = {name: str(folder / "work/data" / file) for name, file in names.items()}
    rows = load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
    rows = rows.map(lambda row: {"completion": [{"role": "assistant", "content": row["completion"]}]})
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "base", quantization_config=four_bit, dtype=torch.bfloat16)
    gpu = torch.cuda.is_available()
    every = training["checkpoints"]["everySteps"]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "peer"), num_train_epochs=training["epochs"], learning_rate=float(training["learningRate"]),
            lr_scheduler_type=training["scheduler"], warmup_steps=float(training["warmupRatio"]), optim=training["optimizer"],
            per_device_train_batch_size=training["batchSize"], per_device_eval_batch_size=training["batchSize"],
            gradient_accumulation_steps=training["gradientAccumulation"], max_length=training["maxLength"], seed=training["seed"],
            logging_steps=training["logEverySteps"], save_strategy="steps", save_steps=every, eval_strategy="steps", eval_steps=every,
            save_total_limit=2, bf16=True, use_cpu=not gpu, gradient_checkpointing=gpu, report_to="none", disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=float(lora["dropout"]), target_modules=lora["targetModules"],
            task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    built = time.monotonic()
    trainer.train()
    log = trainer.state.log_history
    print(
        json.dumps(
            {
                "imports": imported - began,
                "build": built - imported,
                "loop": last(log, "train_runtime"),
                "loss": last(log, "train_loss"),
                "steps": trainer.state.global_step,
            }
        )
    )


def last(log: list[dict[str, float]], name: str) -> float:
    return next(entry[name] for entry in reversed(log) if name in entry)


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Below 1: graft is faster."""
    return {
        "trainingLoop": ours["loop"] / theirs["loop"],
        "trainStageToPlainTrl": ours["stages"]["train"] / theirs["whole"],
        "wholeRunToPlainTrl": ours["whole"] / theirs["whole"],
    }


def show(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    print(f"\n{'stage':<28}{'graft s':>10}{'plain TRL s':>14}")
    for stage, seconds in ours["stages"].items():
        print(f"{stage:<28}{seconds:>10.1f}{theirs['whole'] if stage == 'train' else '':>14{'.1f' if stage == 'train' else ''}}")
    print(f"{'  training loop alone':<28}{ours['loop']:>10.1f}{theirs['loop']:>14.1f}")
    print(f"{'starts of three processes':<28}{ours['whole'] - sum(ours['stages'].values()):>10.1f}")
    print(f"{'whole':<28}{ours['whole']:>10.1f}{theirs['whole']:>14.1f}")
    print(f"{'steps':<28}{ours['steps']:>10}{theirs['steps']:>14}")
    print(f"{'mean training loss':<28}{ours['loss']:>10.4f}{theirs['loss']:>14.4f}\n")
    for name, ratio in ratios(ours, theirs).items():
        print(f"{name:<28}{ratio:>10.2f}")
    for suite in ours["evaluation"]:
        print(f"\n{suite['suite']}: {suite['message']}")


if __name__ == "__main__":
    main()
