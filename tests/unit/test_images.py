import ctypes
import io
import itertools
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from graft_devcluster import buildah, containerd, images, standins
from graft_devcluster.buildah import Workshop
from graft_devcluster.errors import ClusterError
from graft_devcluster.images import Inputs
from graft_devcluster.settings import Settings
from graft_devcluster.standins import Library, Symbol

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """A project with the files that images are made of, and with others."""
    root = tmp_path / "project"
    for name in ("Dockerfile", "pyproject.toml", "uv.lock", "README.md", images.STANDINS, images.VLLM_CPU):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.8\n# {name}\n" if name == "Dockerfile" else f"# {name}\n")
    (root / "pyproject.toml").write_text('[tool.hatch.build.targets.wheel]\npackages = ["api/graft_api"]\n')
    (root / "api" / "graft_api" / "__pycache__").mkdir(parents=True)
    (root / "api" / "graft_api" / "run.py").write_text("x = 1\n")
    (root / "api" / "graft_api" / "__pycache__" / "run.pyc").write_bytes(b"compiled")
    (root / "api" / "graft_api" / ".run.py.swp").write_bytes(b"editor")
    (root / "docs").mkdir()
    return root


def references(root, variant="cpu"):
    inputs = images.read_inputs(root, variant)
    return {target: inputs.reference(target) for target in images.TARGETS}


def test_inputs_are_the_sources_and_nothing_that_tools_leave_beside_them(tree):
    assert set(images.read_inputs(tree, "cpu").files) == {
        "Dockerfile",
        "pyproject.toml",
        "uv.lock",
        "README.md",
        images.STANDINS,
        images.VLLM_CPU,
        "api/graft_api/run.py",
    }


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        pytest.param("api/graft_api/run.py", {"operator", "trainer", "serving"}, id="code is in every image of graft and not in vLLM's"),
        pytest.param("api/graft_api/new.py", {"operator", "trainer", "serving"}, id="a new file counts"),
        pytest.param("README.md", {"operator", "trainer", "serving"}, id="the wheel has the README in its metadata"),
        pytest.param("uv.lock", set(images.TARGETS), id="the lock file decides what is installed"),
        pytest.param("Dockerfile", set(images.TARGETS), id="the recipe counts"),
        pytest.param(images.VLLM_CPU, {"vllm-cpu"}, id="the correction of vLLM is in its image alone"),
        pytest.param(images.STANDINS, {"trainer", "vllm-cpu"}, id="stand-ins are in the images that have torch"),
        pytest.param("docs/index.md", set(), id="documentation changes no image"),
        pytest.param("api/graft_api/__pycache__/run.pyc", set(), id="compiled files change no image"),
    ],
)
def test_an_image_is_named_after_its_inputs(tree, path, changed):
    before = references(tree)
    (tree / path).write_bytes(((tree / path).read_bytes() if (tree / path).exists() else b"") + b"# more\n")
    after = references(tree)
    assert {target for target in images.TARGETS if before[target] != after[target]} == changed


def test_age_and_mode_of_a_file_do_not_change_the_name(tree):
    before = references(tree)
    os.utime(tree / "api/graft_api/run.py", (1, 1))
    (tree / "api/graft_api/run.py").chmod(0o600)
    assert references(tree) == before


def test_the_trainer_variants_never_share_a_name(tree):
    assert references(tree, "cpu")["trainer"] != references(tree, "cuda")["trainer"]
    others = set(images.TARGETS) - {"trainer"}
    assert {name: references(tree, "cpu")[name] for name in others} == {name: references(tree, "cuda")[name] for name in others}


def test_a_moved_boundary_between_two_files_changes_the_name():
    one = Inputs({"a": b"12", "b": b"3"}, "cpu")
    assert one.reference("operator") != replace(one, files={"a": b"1", "b": b"23"}).reference("operator")


def test_helm_would_not_take_a_tag_for_a_number():
    tags = [Inputs({"a": str(number).encode()}, "cpu").reference("operator").rpartition(":")[2] for number in range(2000)]
    assert not [tag for tag in tags if tag.isdigit()]
    assert len(set(tags)) == 2000


def test_the_build_context_is_the_same_on_every_machine(tree, tmp_path):
    inputs = images.read_inputs(tree, "cpu")
    previous = os.umask(0o077)
    try:
        inputs.write(tmp_path / "context")
    finally:
        os.umask(previous)
    written = {path.relative_to(tmp_path / "context"): path.stat() for path in (tmp_path / "context").rglob("*")}
    assert {str(name) for name in written} >= set(inputs.files)
    assert {stat.st_mtime for stat in written.values()} == {315532800}
    assert {stat.st_mode & 0o777 for stat in written.values()} == {0o644, 0o755}


def test_the_version_of_uv_is_the_dockerfiles(tree):
    assert images.read_inputs(tree, "cpu").uv_version() == "0.13.8"
    with pytest.raises(ClusterError, match="names no version of uv"):
        Inputs({"Dockerfile": b"ARG UV_IMAGE=ghcr.io/astral-sh/uv:latest\n"}, "cpu").uv_version()


def test_chart_values_name_repository_and_tag_apart():
    chosen = {name: f"graft.dev/{name}:{name[:3]}" for name in images.TARGETS}
    assert images.chart_values(chosen) == [
        "image.repository=graft.dev/operator",
        "image.tag=ope",
        "trainer.image.repository=graft.dev/trainer",
        "trainer.image.tag=tra",
        "serving.image.repository=graft.dev/serving",
        "serving.image.tag=ser",
        "vllm.image.repository=graft.dev/vllm-cpu",
        "vllm.image.tag=vll",
    ]


def test_chart_values_exist_in_the_chart():
    schema = json.loads((ROOT / "charts/graft/values.schema.json").read_text())
    for value in images.chart_values(dict.fromkeys(images.TARGETS, "repository:tag")):
        described = schema
        for key in value.partition("=")[0].split("."):
            described = described["properties"][key]


def test_an_unknown_image_is_refused_by_name(tmp_path):
    with pytest.raises(ClusterError, match="no such image: web; there are operator, trainer, serving, vllm-cpu"):
        images.ensure_images(["web"], load=False)


class Recorded(Workshop):
    """A workshop that notes what it would build."""

    done: tuple[str, ...] = ()

    def _buildah(self, title, *arguments):
        return ""

    def base(self, present):
        return "base"

    def uv(self, version, present):
        return "uv"

    def build(self, target, reference, context, arguments):
        self.__class__.done += (f"build {target} {arguments['TRAINER_VARIANT']}",)

    def export(self, name, reference):
        self.layout(name).mkdir(parents=True, exist_ok=True)
        (self.layout(name) / "index.json").write_text("{}")


@pytest.fixture
def workshop(monkeypatch, tree):
    monkeypatch.setattr(images, "ROOT", tree)
    monkeypatch.setattr(images, "Workshop", Recorded)
    monkeypatch.setattr(images.packages, "ensure", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Recorded, "done", ())
    return Recorded


def ensure(tmp_path, *names):
    chosen = Settings("t", tmp_path / "cache", 20000, images.cluster_settings._network("10.1.0.0/16"))
    return images.ensure_images(names, load=False, settings=chosen)


def test_an_unchanged_tree_is_built_once(workshop, tmp_path):
    first = ensure(tmp_path, "operator", "trainer")
    assert ensure(tmp_path, "operator", "trainer") == first
    assert workshop.done == ("build operator cpu", "build trainer cpu")
    assert images.built_images(tmp_path / "cache") == first


def test_only_what_changed_is_built(workshop, tmp_path, tree):
    ensure(tmp_path, "operator", "trainer")
    (tree / images.STANDINS).write_text("# changed\n")
    ensure(tmp_path, "operator", "trainer")
    assert workshop.done == ("build operator cpu", "build trainer cpu", "build trainer cpu")


def test_a_change_of_code_leaves_vllm_alone(workshop, tmp_path, tree):
    ensure(tmp_path, "serving", "vllm-cpu")
    (tree / "api/graft_api/run.py").write_text("x = 2\n")
    ensure(tmp_path, "serving", "vllm-cpu")
    assert workshop.done == ("build serving cpu", "build vllm-cpu cpu", "build serving cpu")


def test_a_build_that_was_killed_before_its_end_is_done_again(workshop, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorded, "export", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure(tmp_path, "operator")
    ensure(tmp_path, "operator")
    assert workshop.done == ("build operator cpu", "build operator cpu")


def test_a_node_with_a_gpu_driver_gets_the_real_libraries(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "GPU_DRIVER", tmp_path)
    ensure(tmp_path, "trainer")
    assert workshop.done == ("build trainer cuda",)


def test_building_without_root_says_why(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="needs root"):
        ensure(tmp_path, "operator")


def test_old_images_go_under_every_name_unless_recent_or_in_use(monkeypatch, tmp_path):
    listed = [
        "REF TYPE DIGEST SIZE",
        "graft.dev/operator:new t sha256:1 1 MB",
        "graft.dev/operator:kept t sha256:2 1 MB",
        "graft.dev/operator:running t sha256:3 1 MB",
        "graft.dev/operator:old t sha256:4 1 MB",
        "sha256:config t sha256:4 1 MB",
        "graft.dev/trainer:old t sha256:5 1 MB",
        "registry.k8s.io/pause:1 t sha256:6 1 MB",
    ]
    calls = []

    def ctr(settings, *arguments):
        calls.append(arguments)
        return {("images", "ls"): listed, ("containers", "ls"): ["C IMAGE", "abc graft.dev/operator:running io"]}.get(arguments[:2], [])

    monkeypatch.setattr(containerd, "ctr", ctr)
    images._drop_old(None, "operator", ["graft.dev/operator:new", "graft.dev/operator:kept"])
    assert calls[-1] == ("images", "rm", "graft.dev/operator:old", "sha256:config")


def test_a_failed_program_is_shown_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(buildah, "_ALONE", ())
    workshop = Workshop(tmp_path)
    with pytest.raises(ClusterError, match=r"(?s)thing: sh failed.*no space left"):
        workshop._run("thing", ["sh", "-c", "echo no space left >&2; exit 3"])


def test_a_long_build_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(buildah, "_ALONE", ())
    monkeypatch.setattr(buildah, "_PROGRESS_SECONDS", 0.1)
    output = io.StringIO()
    Workshop(tmp_path, output)._run("thing", ["sh", "-c", "echo step 7 >&2; sleep 0.5"])
    assert "thing: 0 s (step 7)" in output.getvalue()


def test_the_dockerfile_ends_in_targets_that_are_not_root():
    text = (ROOT / "Dockerfile").read_text()
    stages = dict(itertools.pairwise([None, *text.split("\nFROM ")]))
    programs = {target: [f"graft-{target}"] for target in ("operator", "trainer", "serving")}
    programs["vllm-cpu"] = ["python", "-m", "vllm.entrypoints.openai.api_server"]
    for target in images.TARGETS:
        stage = next(stage for stage in stages.values() if f" AS {target}\n" in stage)
        assert "USER 65532:65532" in stage
        assert f"ENTRYPOINT {json.dumps(programs[target])}" in stage
    assert images.read_inputs(ROOT, "cpu").uv_version()


def test_the_build_context_lets_in_every_package_of_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert [package for package in packages if f"!{package.split('/')[0]}" not in allowed] == []


def test_the_published_dependencies_do_not_mention_vllm():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "vllm" not in json.dumps(project["project"])
    assert project["tool"]["uv"]["default-groups"] == []


class Pushed(Workshop):
    """A workshop whose buildah writes blobs of given layers: uncompressed under their own name, as `push` to a folder does."""

    layers: tuple[str, ...] = ()
    pushed: tuple[str, ...] = ()

    def _buildah(self, title, *arguments):
        if arguments[0] == "inspect":
            return json.dumps({"OCIv1": {"rootfs": {"diff_ids": [f"sha256:{layer}" for layer in self.layers]}}})
        kind, _, place = arguments[-1].partition(":")
        self.pushed += (kind,)
        folder = Path(place) if kind == "dir" else self.layout("unused").parent / arguments[-2]
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "dir":
            for layer in self.layers:
                (folder / layer).write_text(layer)
        else:
            write_layout(folder, self.layers)
        return ""


def write_layout(folder, layers):
    blobs = folder / "blobs" / "sha256"
    manifest = {"layers": [{"digest": f"sha256:{layer}"} for layer in layers], "config": {"digest": f"sha256:{'c' * 64}"}}
    for name, content in {"c" * 64: "{}", "d" * 64: json.dumps(manifest)}.items():
        (blobs / name).write_text(content)
    for layer in layers:
        if not (blobs / layer).exists():
            (blobs / layer).write_text(layer)
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": f"sha256:{'d' * 64}"}]}))


def test_a_layer_that_another_layout_has_takes_no_space_again(tmp_path):
    workshop = Pushed(tmp_path, io.StringIO())
    base, trainer, vllm = "1" * 64, "2" * 64, "3" * 64
    workshop.layers = (base, trainer)
    workshop.export("trainer", "trainer")
    workshop.layers = (base, trainer, vllm)
    workshop.export("vllm-cpu", "vllm-cpu")
    blobs = workshop.layout("vllm-cpu") / "blobs" / "sha256"
    assert {path.name for path in blobs.iterdir()} == {base, trainer, vllm, "c" * 64, "d" * 64}
    assert (blobs / trainer).samefile(workshop.layout("trainer") / "blobs" / "sha256" / trainer)
    assert workshop.pushed == ("dir", "oci", "oci")


def libraries():
    torch = Library(
        Path("libtorch_cuda.so"),
        ("libcublas.so.13", "libnccl.so.2", "libcudart.so.13", "libc.so.6"),
        (
            Symbol("cublasCreate_v2", "libcublas.so.13", "libcublas.so.13"),
            Symbol("cudaMalloc", "libcudart.so.13", "libcudart.so.13"),
            Symbol("printf", "GLIBC_2.2.5", "libc.so.6"),
            Symbol("ncclSend"),
            Symbol("at_empty"),
            Symbol("PyObject_Call"),
            Symbol("_ZNSt13runtime_errorC1EPKc"),
        ),
        frozenset({"torch_function"}),
    )
    return [torch, Library(Path("libtorch_cpu.so"), (), (), frozenset({"at_empty"}))]


def test_a_stand_in_owes_what_only_the_absent_library_has():
    owed = standins.absent_symbols(libraries(), frozenset({"libcudart.so.13", "libc.so.6"}))
    assert {name: [symbol.name for symbol in symbols] for name, symbols in owed.items()} == {
        "libcublas.so.13": ["cublasCreate_v2"],
        "libnccl.so.2": ["ncclSend"],
    }


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="stand-ins are x86-64 code")
def test_the_dynamic_linker_takes_a_stand_in_and_its_functions_fail(tmp_path):
    symbols = [Symbol(f"cublasCall{number}", "libcublas.so.13") for number in range(300)] + [Symbol("cudnnGetErrorString")]
    (tmp_path / "libcublas.so.13").write_bytes(standins.shared_object("libcublas.so.13", symbols))
    library = ctypes.CDLL(str(tmp_path / "libcublas.so.13"))
    assert {getattr(library, symbol.name)() for symbol in symbols[:300]} == {1}
    library.cudnnGetErrorString.restype = ctypes.c_char_p
    assert library.cudnnGetErrorString(1) == b"graft CPU test image: this CUDA library is a stand-in"
    with pytest.raises(AttributeError):
        library.cublasUnknown  # noqa: B018 -- the lookup is the test


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="stand-ins are x86-64 code")
def test_the_dynamic_linker_finds_the_version_it_was_promised(tmp_path):
    (tmp_path / "libx.so.1").write_bytes(standins.shared_object("libx.so.1", [Symbol("xCall", "X_1.0")]))
    libc = ctypes.CDLL(None)
    libc.dlvsym.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(ctypes.CDLL(str(tmp_path / "libx.so.1"))._handle)
    assert libc.dlvsym(handle, b"xCall", b"X_1.0")
    assert not libc.dlvsym(handle, b"xCall", b"X_2.0")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads a library of this interpreter")
def test_reading_a_library_agrees_with_the_dynamic_linker():
    import _ctypes

    library = standins.read(Path(_ctypes.__file__))
    assert "libc.so.6" in library.needed
    assert "PyInit__ctypes" in library.defined
    assert Symbol("PyErr_SetString") in library.undefined
    assert any(symbol.version and symbol.version.startswith("GLIBC_") and symbol.library == "libc.so.6" for symbol in library.undefined)


def test_a_file_for_another_machine_is_refused(tmp_path):
    (tmp_path / "liba.so").write_bytes(b"\x7fELF\x02\x01".ljust(18, b"\0") + b"\xb7\0".ljust(64, b"\0"))
    with pytest.raises(ValueError, match="TRAINER_VARIANT=cuda"):
        standins.read(tmp_path / "liba.so")


def test_the_test_image_refuses_a_node_with_a_gpu_driver(tmp_path):
    there = standins.REFUSAL.replace("/proc/driver/nvidia/version", str(tmp_path))
    refused = subprocess.run([sys.executable, "-S", "-c", there], capture_output=True, text=True, check=False)
    assert (refused.returncode, "use the published image" in refused.stderr) == (78, True)
    absent = standins.REFUSAL.replace("/proc/driver/nvidia/version", str(tmp_path / "absent"))
    assert subprocess.run([sys.executable, "-S", "-c", absent], check=False).returncode == 0
    assert standins.REFUSAL.startswith("import ")
    assert standins.REFUSAL.count("\n") == 1
