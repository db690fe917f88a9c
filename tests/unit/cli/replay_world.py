"""Two servers of OpenAI's API and a log, as users have them."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = """
test: dsl-replay
metrics:
- metric: {name: compile-errors, kind: Proportion, direction: LowerIsBetter, role: Primary, margin: 0.02}
  scorer: {regex: {pattern: "allow .*"}}
- metric: {name: answer-length, kind: Mean, direction: LowerIsBetter, role: Informational, worst: 10000, unit: characters}
  measure: Length
- metric: {name: server-errors, kind: Proportion, direction: LowerIsBetter, role: Guardrail, margin: 0.05}
  measure: ServerError
controlShare: "0.5"
limits: {minClusters: 40}
seed: 7
warmUpRequests: 3
timeoutSeconds: 1
"""


class Model(ThreadingHTTPServer):
    """Answers `allow` to all but `wrong` of the requests; keeps what it was asked."""

    request_queue_size = 256

    def __init__(self, name="m", wrong=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.wrong = name, wrong
        self.asked, self.keys, self.lock = [], [], threading.Lock()
        self.answers = {}
        """Text of the request -> what is done instead of answering well."""
        self.models = [name]
        self.said = None
        """What it says to everything."""
        self.let_through = threading.Event()
        self.let_through.set()
        """Unset: requests from the 60th on wait for it."""

    def handle_error(self, request, client_address):
        """Clients that were killed, or waited long enough, are not there any more."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.keys.append(self.headers["authorization"])
        self._send(200, {"data": [{"id": model} for model in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append((self.path, body))
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        if len(self.server.asked) > 60:
            self.server.let_through.wait(30)
        how = self.server.answers.get(text)
        if how == "hang":
            time.sleep(1.5)
        elif how == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        elif isinstance(how, int):
            self._send(how, {"error": {"message": "no"}})
        elif body.get("stream"):
            self._stream(text)
        else:
            choice = {"index": 0, "finish_reason": "stop"}
            said = {"message": {"role": "assistant", "content": self._said(text)}} if "messages" in body else {"text": self._said(text)}
            self._send(200, {"choices": [choice | said], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})

    def _said(self, text):
        if self.server.said is not None:
            return self.server.said
        number = int(text.rpartition(" ")[2])
        return f"{'deny' if number % 100 < 100 * self.server.wrong else 'allow'} if user.id == {number}"

    def _stream(self, text):
        parts = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in self._said(text).partition(" ")]
        parts += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {"completion_tokens": 5}}]
        data = "".join(f"data: {json.dumps(part)}\r\n\r\n" for part in parts) + "data: [DONE]\r\n\r\n"
        self._bytes(200, data.encode(), "text/event-stream")

    def _send(self, status, value):
        self._bytes(status, json.dumps(value).encode(), "application/json")

    def _bytes(self, status, data, kind):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def chat(number, **more):
    return {"model": "dsl", "messages": [{"role": "user", "content": f"rule {number}"}], "temperature": 0.2, "seed": 5} | more


def log(path, requests):
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path
