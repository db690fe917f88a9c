"""Every package that must never serve one request, built for real, and the reason that its version gets."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import adapter_world as world
import pytest

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.verify import Trust, verify

Change = Callable[[world.Package], None]


def trust(signer: world.Signer) -> Trust:
    return Trust([signer.public], world.BASE, 16)


def refusal(package: world.Package, trusted: Trust, *, signed: bool = True, after: Change | None = None) -> VersionRefusedError:
    version = package.seal(signed=signed)
    if after:
        after(package)
    with pytest.raises(VersionRefusedError) as refused:
        verify(package.folder, version, trusted)
    return refused.value


def test_a_good_package_passes(package: world.Package, signer: world.Signer) -> None:
    found = verify(package.folder, package.seal(), trust(signer))
    assert found.probes is not None
    assert found.manifest.domain == "dsl"


def test_any_of_the_trusted_keys_will_do(package: world.Package, signer: world.Signer) -> None:
    verify(package.folder, package.seal(), Trust([world.Signer().public, signer.public], world.BASE, 16))


def _config(**changes: object) -> Change:
    return lambda package: package.config.update(changes)


def _tensors(**changes: object) -> Change:
    return lambda package: package.write("adapter_model.safetensors", world.safetensors(world.tensors(**changes)))  # type: ignore[arg-type]


def _renamed_tensor(old: str, new: str) -> Change:
    content = {name.replace(old, new): value for name, value in world.tensors().items()}
    return lambda package: package.write("adapter_model.safetensors", world.safetensors(content))


def _cut_tensors(package: world.Package) -> None:
    content = world.safetensors(world.tensors())
    package.write("adapter_model.safetensors", content[:-4])


def _no_probes_and_zero(package: world.Package) -> None:
    (package.folder / "probes.json").unlink()
    _tensors(zero_b=True)(package)


def _probe_without_references(package: world.Package) -> None:
    probe = {**world.PROBES["probes"][0], "baseLogprobs": []}
    package.write("probes.json", json.dumps({**world.PROBES, "probes": [probe]}).encode())


def _unlisted(package: world.Package) -> None:
    package.write("extra.txt", b"x")
    package.unlisted.add("extra.txt")


def _listed_outside(path: str) -> Change:
    return lambda package: package.also_listed.append({"path": path, "sizeBytes": 0, "sha256": "0" * 64})


SIGNED_BUT_WRONG = {
    "a DoRA adapter": (_config(use_dora=True), LoadFailure.UNSUPPORTED_ADAPTER, "use_dora"),
    "modules_to_save": (_config(modules_to_save=["lm_head"]), LoadFailure.UNSUPPORTED_ADAPTER, "modules_to_save"),
    "a bias": (_config(bias="lora_only"), LoadFailure.UNSUPPORTED_ADAPTER, "bias"),
    "lora_bias": (_config(lora_bias=True), LoadFailure.UNSUPPORTED_ADAPTER, "lora_bias"),
    "layer replication": (_config(layer_replication=[[0, 2]]), LoadFailure.UNSUPPORTED_ADAPTER, "layer_replication"),
    "activated LoRA": (_config(alora_invocation_tokens=[1]), LoadFailure.UNSUPPORTED_ADAPTER, "alora"),
    "PiSSA": (_config(init_lora_weights="pissa_niter_4"), LoadFailure.UNSUPPORTED_ADAPTER, "init_lora_weights"),
    "no LoRA": (_config(peft_type="IA3"), LoadFailure.UNSUPPORTED_ADAPTER, "peft_type"),
    "rank above what is served": (_config(r=32), LoadFailure.RANK_TOO_HIGH, "32"),
    "rank above in a pattern": (_config(rank_pattern={"q_proj": 64}), LoadFailure.RANK_TOO_HIGH, "64"),
    "a pattern that backtracks for ever": (_config(target_modules=r"(.*)*proj"), LoadFailure.UNSUPPORTED_ADAPTER, "repeats a group"),
    "such a pattern of ranks": (_config(rank_pattern={"(a|a)" * 30: 4}), LoadFailure.UNSUPPORTED_ADAPTER, "too many ways"),
    "rank zero": (_config(r=0), LoadFailure.INVALID_ARTIFACT, "r is 0"),
    "a rank that the tensors do not have": (_config(r=8), LoadFailure.INVALID_ARTIFACT, "says 8"),
    "target modules without tensors": (_config(target_modules=["q_proj", "v_proj", "up_proj"]), LoadFailure.INVALID_ARTIFACT, "up_proj"),
    "half of the modules dropped": (_tensors(modules=("q_proj",)), LoadFailure.INVALID_ARTIFACT, "v_proj"),
    "tensors of no target module": (_config(target_modules=["q_proj"]), LoadFailure.INVALID_ARTIFACT, "v_proj"),
    "an A without its B": (_renamed_tensor("0.self_attn.q_proj.lora_B", "9.self_attn.q_proj.lora_B"), LoadFailure.INVALID_ARTIFACT, "lone"),
    "a tensor that is no LoRA": (_renamed_tensor("lora_B.weight", "lora_magnitude_vector"), LoadFailure.UNSUPPORTED_ADAPTER, "magnitude"),
    "a cut file of tensors": (_cut_tensors, LoadFailure.INVALID_ARTIFACT, "end at byte"),
    "no safetensors": (lambda p: p.write("adapter_model.safetensors", b"\x80\x04pickle"), LoadFailure.INVALID_ARTIFACT, "header"),
    "a pickle beside": (lambda p: p.write("adapter_model.bin", b"\x80"), LoadFailure.UNSUPPORTED_ADAPTER, "adapter_model.bin"),
    "more tensors beside": (lambda p: p.write("new.safetensors", b"x"), LoadFailure.UNSUPPORTED_ADAPTER, "new.safetensors"),
    "B = 0 without references": (_no_probes_and_zero, LoadFailure.NO_EFFECT, "zero"),
    "probes without a reference": (
        _probe_without_references,
        LoadFailure.INVALID_ARTIFACT,
        "probe 0",
    ),
    "another base": (
        lambda p: p.manifest.update(baseModel={"uri": "s3://b/x", "digest": "sha256:" + "c" * 64, "tokenizerDigest": world.BASE}),
        LoadFailure.WRONG_BASE,
        "sha256:ccc",
    ),
    "another domain": (lambda p: p.manifest.update(domain="sql"), LoadFailure.WRONG_DOMAIN, "'sql'"),
    "an unlisted file": (_unlisted, LoadFailure.UNLISTED_FILE, "extra.txt"),
    "a listed path above the folder": (_listed_outside("../evil"), LoadFailure.UNSAFE_PATH, "../evil"),
    "a listed path inside out": (_listed_outside("a/../../evil"), LoadFailure.UNSAFE_PATH, "evil"),
    "an absolute path": (_listed_outside("/etc/passwd"), LoadFailure.UNSAFE_PATH, "/etc/passwd"),
    "a backslash": (_listed_outside("..\\evil"), LoadFailure.UNSAFE_PATH, "evil"),
    "a file twice": (_listed_outside("README.md"), LoadFailure.INVALID_ARTIFACT, "README.md"),
    "the signature in the list": (_listed_outside("model.sig"), LoadFailure.INVALID_ARTIFACT, "model.sig"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "said"), SIGNED_BUT_WRONG.values(), ids=SIGNED_BUT_WRONG)
def test_refused_though_signed_by_a_trusted_key(
    package: world.Package, signer: world.Signer, change: Change, reason: LoadFailure, said: str
) -> None:
    change(package)
    error = refusal(package, trust(signer))
    assert error.reason is reason, error.message
    assert said in error.message


def _flip(path: str) -> Change:
    def flip(package: world.Package) -> None:
        content = bytearray((package.folder / path).read_bytes())
        content[-1] ^= 1
        (package.folder / path).write_bytes(content)

    return flip


def _link(package: world.Package) -> None:
    (package.folder / "README.md").unlink()
    (package.folder / "README.md").symlink_to("/etc/passwd")


TAMPERED = {
    "one bit of the weights": (_flip("adapter_model.safetensors"), LoadFailure.DIGEST_MISMATCH, "adapter_model.safetensors"),
    "one bit of the configuration": (_flip("adapter_config.json"), LoadFailure.DIGEST_MISMATCH, "adapter_config.json"),
    "one bit of the manifest": (_flip("manifest.json"), LoadFailure.DIGEST_MISMATCH, "manifest.json"),
    "one bit of the signature": (_flip("model.sig"), LoadFailure.SIGNATURE_INVALID, "model.sig"),
    "a file missing": (lambda p: (p.folder / "probes.json").unlink(), LoadFailure.DIGEST_MISMATCH, "probes.json"),
    "a file more": (lambda p: p.write(".gitignore", b"*"), LoadFailure.UNLISTED_FILE, ".gitignore"),
    "a link": (_link, LoadFailure.UNSAFE_PATH, "README.md"),
    "no signature": (lambda p: (p.folder / "model.sig").unlink(), LoadFailure.SIGNATURE_INVALID, "not signed"),
    "nothing left": (lambda p: shutil.rmtree(p.folder), LoadFailure.INVALID_ARTIFACT, "manifest.json is missing"),
    "a signature that is something else": (lambda p: p.write("model.sig", b"[]"), LoadFailure.SIGNATURE_INVALID, "model.sig"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "said"), TAMPERED.values(), ids=TAMPERED)
def test_refused_when_changed_after_signing(
    package: world.Package, signer: world.Signer, change: Change, reason: LoadFailure, said: str
) -> None:
    error = refusal(package, trust(signer), after=change)
    assert error.reason is reason, error.message
    assert said in error.message


def test_another_key_is_not_trusted(package: world.Package) -> None:
    assert refusal(package, trust(world.Signer())).reason is LoadFailure.SIGNATURE_INVALID


def test_nobody_is_trusted_without_keys(package: world.Package, signer: world.Signer) -> None:
    assert refusal(package, replace(trust(signer), signing_keys=[])).reason is LoadFailure.SIGNATURE_INVALID


def test_nothing_belongs_to_a_base_that_is_not_known(package: world.Package, signer: world.Signer) -> None:
    assert refusal(package, replace(trust(signer), base_digest=None)).reason is LoadFailure.WRONG_BASE


def test_a_package_without_references_passes_by_its_structure(package: world.Package, signer: world.Signer) -> None:
    (package.folder / "probes.json").unlink()
    assert verify(package.folder, package.seal(), trust(signer)).probes is None


def test_a_rank_pattern_as_peft_reads_it(package: world.Package, signer: world.Signer) -> None:
    package.config.update(r=8, rank_pattern={r"layers\.\d+\.self_attn\.[qv]_proj": 4})
    verify(package.folder, package.seal(), trust(signer))
