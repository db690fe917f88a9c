"""
Which pods Prometheus reads: those that ask for it by annotation, as an answer to its `http_sd_configs`.

`python -m graft_devcluster.discovery KUBECONFIG ADDRESS PORT`. Debian's Prometheus is built without Kubernetes' own discovery.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from graft_devcluster.apiclient import ApiClient
from graft_devcluster.errors import ClusterError

SCRAPE, PORT = "prometheus.io/scrape", "prometheus.io/port"


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One target for each running pod that wants to be read, with namespace and pod as labels."""
    found = []
    for pod in pods:
        metadata, address = pod["metadata"], pod["status"].get("podIP")
        asks = metadata.get("annotations") or {}
        if asks.get(SCRAPE) == "true" and PORT in asks and address and pod["status"]["phase"] == "Running":
            labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
            found.append({"targets": [f"{address}:{asks[PORT]}"], "labels": labels})
    return found


def serve(kubeconfig: Path, address: str, port: int) -> None:
    """Answer until killed. While the API server is away Prometheus goes on with what it knew."""
    client = ApiClient(kubeconfig)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                body = json.dumps(targets(client.get("/api/v1/pods")["items"])).encode()
            except (ClusterError, OSError) as error:
                self.send_error(503, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer((address, port), Answer).serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
