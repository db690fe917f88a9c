"""
A small real embedding model behind OpenAI's embeddings API: python examples/dsl/embeddings.py --host 127.0.0.1 --port 8100

    POST /v1/embeddings   {"model": "all-minilm-l6-v2", "input": ["a", "b"]}
    GET  /health          200 once the model is loaded

It is all-MiniLM-L6-v2 (384 numbers, up to 256 word pieces, the rest is cut off), on one core, downloaded on first use. Enough for
principle prompts of tests and of the demo; in production take the embeddings server of your choice.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from graft_devcluster import embedding_model

LONGEST = 256
"""Word pieces of a text: what the model was trained with (sentence_bert_config.json)."""
LARGEST_REQUEST = 4 * 1024 * 1024


class Model:
    """Texts to vectors of length 1."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self._turn = threading.Lock()

    def vectors(self, texts: list[str]) -> list[list[float]]:
        with self._turn, torch.inference_mode():
            read = self._tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            pieces = self._model(**read).last_hidden_state
            # The mean over word pieces that are no padding, then length 1 (1_Pooling/config.json and modules.json of the model).
            mask = read["attention_mask"].unsqueeze(-1)
            means = (pieces * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(means).tolist()


class Refused(Exception):  # noqa: N818 - a statement about the request
    """What is wrong with a request, with its status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """OpenAI's embeddings API, as far as it is asked for here."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._send(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        try:
            self._send(200, self._embedded(self._body()))
        except Refused as refused:
            self._send(refused.status, {"error": {"message": str(refused), "type": "invalid_request_error"}})

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            raise Refused(413, f"a request has a content-length of at most {LARGEST_REQUEST}")
        content = self.rfile.read(int(length))
        if self.path != "/v1/embeddings":
            raise Refused(404, "only /v1/embeddings is here")
        try:
            body = json.loads(content)
        except ValueError as error:
            raise Refused(400, "the body is no JSON") from error
        if not isinstance(body, dict):
            raise Refused(400, "the body is no object")
        return body

    def _embedded(self, body: dict[str, Any]) -> dict[str, Any]:
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if body.get("model") != embedding_model.NAME:
            raise Refused(404, f"the only model here is {embedding_model.NAME}")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise Refused(400, "input must be a text or a list of texts, none of them empty")
        if body.get("encoding_format", "float") != "float":
            raise Refused(400, "encoding_format must be float")
        vectors = self.server.model.vectors(texts)
        data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        return {"object": "list", "data": data, "model": embedding_model.NAME}

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing: one line per request is too much."""


class Server(ThreadingHTTPServer):
    """The model, and who asks it."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], model: Model) -> None:
        super().__init__(address, Handler)
        self.model = model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100, help="0: any that is free")
    options = parser.parse_args()
    with Server((options.host, options.port), Model(embedding_model.ensure())) as server:
        print(f"http://{options.host}:{server.server_port}/v1", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
