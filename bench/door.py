"""
What the door adds to a request, beside other ways to keep strangers from vLLM.

    .venv/bin/python bench/door.py [--rate 500] [--streams 100] [--rounds 3] [--seconds 5]

The ways take turns within a round, on the same machine: compare them with `direct` of the same round, never a bare time with
another day's. Load generator and model server are those of bench/gateway, built with a Unix socket and a client certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import psutil
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from graft_serving.agent.cluster_keys import DISCOVERY_PATH
from graft_serving.agent.tokens import TokenVerifier, callers_of
from graft_serving.door.config import DoorSettings, configuration

HERE = Path(__file__).parent
GO = HERE / "gateway" / "go"
ISSUER = "https://kubernetes.default.svc"
WAYS = {
    "direct": "no door",
    "tcp": "nginx, no check, vLLM on loopback",
    "unix": "nginx, no check, vLLM on a Unix socket",
    "token": "the door: token, the agent's answer kept for 30 s",
    "whole": "the same, but a request is read to its end before it is passed on",
    "asked": "token, the agent asked for every request",
    "mtls": "nginx with client certificates instead of a token",
}
OVERLAY = {
    "mock/main.go": (
        "log.Fatal(http.ListenAndServe(*listen, s.routes()))",
        'network := "tcp"; if (*listen)[0] == \'/\' { network = "unix" }; listener, err := net.Listen(network, *listen); '
        "if err != nil { log.Fatal(err) }; log.Fatal(http.Serve(listener, s.routes()))",
        ("net", "net/http"),
    ),
    "load/main.go": (
        "DisableCompression:  true,",
        "DisableCompression: true, TLSClientConfig: func() *tls.Config { pair, err := tls.LoadX509KeyPair("
        'os.Getenv("CLIENT_PEM"), os.Getenv("CLIENT_PEM")); if err != nil { return nil }; '
        "return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}} }(),",
        ("crypto/tls", "net/http"),
    ),
}


@dataclass(frozen=True)
class Way:
    """One way to vLLM, up and running."""

    name: str
    url: str
    processes: tuple[psutil.Process, ...]


def build(folder: Path) -> None:
    """Build both programs, with a few words more than bench/gateway needs."""
    replaced = {}
    for name, (old, new, (wanted, beside)) in OVERLAY.items():
        source = (GO / name).read_text()
        assert old in source, f"{name} has changed"
        changed = folder / name.replace("/", "-")
        text = source.replace(old, new)
        changed.write_text(text if f'"{wanted}"' in text else text.replace(f'"{beside}"', f'"{wanted}"\n\t"{beside}"'))
        replaced[str((GO / name).resolve())] = str(changed)
    (folder / "overlay.json").write_text(json.dumps({"Replace": replaced}))
    for program in ("mock", "load"):
        command = ["go", "build", "-overlay", str(folder / "overlay.json"), "-o", str(folder / program), f"./{program}"]
        subprocess.run(command, cwd=GO, check=True, env={**os.environ, "CGO_ENABLED": "0"})


def certificates(folder: Path) -> None:
    """An authority, and one certificate for both ends."""
    subject = ["-subj", "/CN=graft", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made = ["openssl", "req", "-x509", *subject, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())


def nginx_configuration(way: str, folder: Path, port: int, server_port: int) -> str:
    server = str(folder / "vllm.sock") if way == "unix" else f"127.0.0.1:{server_port}"
    settings = DoorSettings(
        f"127.0.0.1:{port}{' ssl' if way == 'mtls' else ''}",
        str(folder / ("asked.sock" if way == "asked" else "agent.sock")),
        str(folder / way),
        "5e" * 32,
        f"unix:{server}" if way == "unix" else server,
    )
    text = configuration(settings)
    if way in {"tcp", "unix", "mtls"}:
        text = text.replace("auth_request /auth;", "").replace('if ($graft_token_shape = "") { return 401; }', "")
    if way == "asked":
        text = re.sub(r"limit_req zone=asked\w* [^;]*;", "", text)
    if way == "whole":
        text = text.replace("proxy_request_buffering off", "proxy_request_buffering on")
    if way == "mtls":
        tls = (
            f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; "
            f"ssl_client_certificate {folder}/cert.pem; ssl_verify_client on;"
        )
        text = text.replace("        add_header Allow", f"        {tls}\n        add_header Allow")
    # As root, nginx would give its workers another user.
    return ("user root;\n" if os.geteuid() == 0 else "") + text


async def serve_agent(folder: Path, name: str) -> None:
    """The agent's half of the check, with a real verifier."""
    key = load_pem_private_key((folder / "signer.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    listed = {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k", "alg": "RS256"}

    async def get(path: str) -> dict[str, Any]:
        return {"issuer": ISSUER} if path == DISCOVERY_PATH else {"keys": [listed]}

    verifier = TokenVerifier(get, callers_of("shop", "bench"), folder / f"{name}.json", time.time)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        said = await verifier.answer(request.headers.get("Authorization"))
        return web.Response(status=said.status, headers={"Cache-Control": "no-store"} if name == "asked" else said.headers)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.UnixSite(runner, str(folder / f"{name}.sock")).start()
    await asyncio.Event().wait()


def make_token(folder: Path) -> str:
    key = rsa.generate_private_key(65_537, 2048)
    (folder / "signer.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    expected = callers_of("shop", "bench")
    claims = {
        "iss": ISSUER,
        "aud": [expected.audience],
        "sub": next(iter(expected.subjects)),
        "exp": int(time.time()) + 3600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": expected.account, "uid": "0" * 36}, "pod": {"name": "p" * 40}},
    }
    return jwt.encode(claims, key, "RS256", headers={"kid": "k"})


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def started(*command: str) -> Iterator[psutil.Process]:
    process = psutil.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def start(folder: Path, stack: contextlib.ExitStack) -> list[Way]:
    """All ways at once: an idle one costs the others nothing."""
    server_port = free_port()
    for address in (f"127.0.0.1:{server_port}", str(folder / "vllm.sock")):
        stack.enter_context(started(str(folder / "mock"), "-listen", address))
    agents = {name: stack.enter_context(started(sys.executable, __file__, "--agent", name, str(folder))) for name in ("agent", "asked")}
    ways = [Way("direct", f"http://127.0.0.1:{server_port}", ())]
    for name in list(WAYS)[1:]:
        port = free_port()
        (folder / name).mkdir()
        file = folder / f"{name}.conf"
        file.write_text(nginx_configuration(name, folder, port, server_port))
        nginx = stack.enter_context(started("nginx", "-e", "stderr", "-c", str(file), "-g", "daemon off;"))
        agent = {"token": (agents["agent"],), "whole": (agents["agent"],), "asked": (agents["asked"],)}.get(name, ())
        ways.append(Way(name, f"{'https' if name == 'mtls' else 'http'}://127.0.0.1:{port}", (nginx, *agent)))
    time.sleep(3)
    return ways


def measure(way: Way, folder: Path, token: str, load: tuple[str, ...], seconds: float) -> dict[str, float]:
    """One run: percentiles in ms, processor time of the way's processes in ms."""
    command = [str(folder / "load"), "-url", way.url, "-key", token, "-warm-up", "1s", "-measured", f"{seconds}s", *load]
    environment = {**os.environ, "CLIENT_PEM": str(folder / "both.pem")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as generator:
        assert generator.stdout
        used = []
        for line in generator.stdout:
            said = json.loads(line)
            if said["event"] != "result":
                used.append(processor_seconds(way))
                continue
            assert not said["failed"], (way.name, said["failed"])
            latency = said["delay_ms"] if "-streams" in load else said["latency_ms"]
            return {"p50": latency["p50"], "p99": latency["p99"], "cpu": 1000 * (used[1] - used[0]) / latency["count"]}
    raise RuntimeError("the generator said nothing")


def processor_seconds(way: Way) -> float:
    every = [each for process in way.processes for each in (process, *process.children(recursive=True))]
    return sum(each.cpu_times().user + each.cpu_times().system for each in every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "door.json")
    parser.add_argument("--agent", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agent:
        asyncio.run(serve_agent(Path(options.agent[1]), options.agent[0]))
        return
    loads = {
        f"{options.rate} requests/s": ("-rate", str(options.rate)),
        f"{options.streams} streams": ("-streams", str(options.streams)),
    }
    with tempfile.TemporaryDirectory(prefix="bench-door-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        build(folder)
        certificates(folder)
        token = make_token(folder)
        ways = start(folder, stack)
        seen: dict[str, dict[str, list[dict[str, float]]]] = {load: {way.name: [] for way in ways} for load in loads}
        for _ in range(options.rounds):
            for load, flags in loads.items():
                for way in ways:
                    seen[load][way.name].append(measure(way, folder, token, flags, options.seconds))
    result = {load: {way: added(runs, by_way["direct"]) for way, runs in by_way.items()} for load, by_way in seen.items()}
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


def added(runs: list[dict[str, float]], direct: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the rounds; differences within a round."""
    return {
        "p50_ms": round(statistics.median(run["p50"] for run in runs), 3),
        "added_p50_ms": round(statistics.median(run["p50"] - bare["p50"] for run, bare in zip(runs, direct, strict=True)), 3),
        "added_p99_ms": round(statistics.median(run["p99"] - bare["p99"] for run, bare in zip(runs, direct, strict=True)), 3),
        "cpu_ms": round(statistics.median(run["cpu"] for run in runs), 4),
    }


def show(result: dict[str, dict[str, dict[str, float]]]) -> None:
    for load, ways in result.items():
        print(f"\n{load}: {'added p50':>10} {'added p99':>10} {'CPU each':>10} {'CPU/tcp':>8}")
        for way, figures in ways.items():
            ratio = figures["cpu_ms"] / ways["tcp"]["cpu_ms"]
            times = f"{figures['added_p50_ms']:8.3f} {figures['added_p99_ms']:10.3f} {figures['cpu_ms']:10.4f} {ratio:8.2f}"
            print(f"{way:8} {times}  {WAYS[way]}")


if __name__ == "__main__":
    main()
