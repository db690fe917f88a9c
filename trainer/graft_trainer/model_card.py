"""README.md of a published adapter."""

from graft_api.artifact import ArtifactManifest
from graft_api.finetunejob import Interval


def model_card(manifest: ArtifactManifest, outcome_steps: int) -> str:
    """Return the model card, with the front matter that model hubs read."""
    lora, data = manifest.lora, manifest.dataset
    suites = "\n".join(
        f"| {s.suite} | {s.metric} | {s.examples} | {_shown(s.base)} | {_shown(s.adapter)} | {_shown(s.difference, signed=True)} | "
        f"{'informational' if s.accepted is None else 'met' if s.accepted else 'missed'} |"
        for s in manifest.evaluation
    )
    return f"""---
library_name: peft
base_model: {manifest.base_model.uri}
tags: [lora, graft, {manifest.domain}]
---
# {manifest.job.name}

A {manifest.method} adapter for the domain `{manifest.domain}`, trained by graft. It belongs to one base model and to no other:
`{manifest.base_model.uri}` with the folder digest `{manifest.base_model.digest}`.

| | |
|---|---|
| job | {manifest.job.namespace}/{manifest.job.name}, attempt {manifest.attempt} |
| LoRA | rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout}, {", ".join(lora.target_modules or [])} |
| training | {outcome_steps} steps |
| data | {data.train} training, {data.validation} validation, {data.holdout} hold-out rows; digest `{data.digest}` |
| evaluated at | {manifest.evaluated_precision}, greedy, at most {manifest.generation.max_new_tokens} new tokens |
| accepted | {"yes" if manifest.accepted else "no"} |

## Evaluation

Base model and adapter answered the same held-out questions. Intervals are 95 % (Wilson; the difference: Tango, paired).

| suite | metric | examples | base | adapter | difference | threshold |
|---|---|---|---|---|---|---|
{suites}

`manifest.json` lists every file; `model.sig` signs the folder. Verify with:

    python -m model_signing verify key --public_key PUBLIC.pem --signature model.sig .
"""


def _shown(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{interval.estimate:{sign}.2%} [{interval.low:{sign}.2%}, {interval.high:{sign}.2%}]"
