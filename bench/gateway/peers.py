"""The peers: what people put in front of vLLM today, each with one worker, without database and without access log.

Each has its own folder under $GRAFT_CACHE/peers, apart from the repository's environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml
from systems import API_KEY, MODELS, ROOT, Launch, System, free_port

from graft_devcluster.packages import debian_release
from graft_devcluster.settings import cache_root

LOCKS = Path(__file__).parent / "locks"
NGINX_PACKAGE = "nginx=1.22.1-*"

NGINX_CONF = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream mock {{
    server 127.0.0.1:{mock_port};
    keepalive 4096;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


def nginx(folder: Path, port: int, mock_port: int) -> Launch:
    configuration = folder / "nginx.conf"
    # Its worker gives up root, where it has it, and must still reach the folder.
    folder.chmod(0o711)
    configuration.write_text(NGINX_CONF.format(folder=folder, port=port, mock_port=mock_port))
    return Launch((str(nginx_program()), "-p", str(folder), "-e", str(folder / "nginx-error.log"), "-c", str(configuration)))


def nginx_version() -> str:
    said = subprocess.run([nginx_program(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.split("/")[1].split()[0]


def nginx_program() -> Path:
    """The one on PATH, else Debian's, unpacked and not installed, so that no service of that name starts on this machine."""
    if on_path := shutil.which("nginx"):
        return Path(on_path)
    target = cache_root() / "peers" / "nginx"
    if not target.exists():
        if debian_release() != "12":
            raise SystemExit("nginx is missing, and it is fetched on Debian 12 only: install it, or leave it out with --systems")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as partial:
            subprocess.run(["apt-get", "download", "-qq", NGINX_PACKAGE], cwd=partial, check=True)
            (package,) = Path(partial).glob("*.deb")
            subprocess.run(["dpkg", "-x", str(package), f"{partial}/unpacked"], check=True)
            Path(partial, "unpacked").replace(target)
    return target / "usr/sbin/nginx"


def vllm_router(folder: Path, port: int, mock_port: int) -> Launch:
    command = (
        *(str(environment("vllm-router") / "bin/vllm-router"), "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", f"http://127.0.0.1:{mock_port}", "--policy", "round_robin"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        *("--max-concurrent-requests", "8192", "--log-level", "error", "--log-dir", str(folder)),
    )
    return Launch(command, {"TOKIO_WORKER_THREADS": "1"})


def litellm(folder: Path, port: int, mock_port: int) -> Launch:
    upstream = {"api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": "none"}
    configuration = {
        "model_list": [{"model_name": model, "litellm_params": {"model": f"hosted_vllm/{model}", **upstream}} for model in MODELS],
        "general_settings": {"master_key": API_KEY},
    }
    (folder / "litellm.yaml").write_text(yaml.safe_dump(configuration))
    command = (
        *(str(environment("litellm") / "bin/litellm"), "--config", str(folder / "litellm.yaml")),
        *("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"),
    )
    # The price list is the one in the package: none is fetched.
    return Launch(command, {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"})


def environment(name: str) -> Path:
    """A virtual environment with what the peer's lock file names, made at first use."""
    lock = LOCKS / f"{name}.txt"
    target = cache_root() / "peers" / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not (target / "ready").exists():
        print(f"installing {name}", flush=True)
        uv = str(ROOT / ".venv/bin/uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", str(target)], check=True)
        command = [uv, "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--compile-bytecode", "-r", str(lock)]
        subprocess.run(command, check=True, env={**os.environ, "VIRTUAL_ENV": str(target)})
        (target / "ready").touch()
    return target


def locked(name: str) -> str:
    """The version that the lock file names."""
    lines = (LOCKS / f"{name}.txt").read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{name}=="))


PEERS = (
    System("nginx", nginx_version, nginx),
    System("vllm-router", lambda: locked("vllm-router"), vllm_router),
    System("litellm", lambda: locked("litellm"), litellm),
)
