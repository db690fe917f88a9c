"""
What nginx is told: settings in, the text of its configuration out.

Two rules hold the door. A request is looked at only if its target, as it was written, is one of ours letter by letter: before any
decoding, so that `//`, `%2e` and `..` have no say. And what goes on to vLLM or to the agent is written here and not taken from
the request: the path, the headers and their names.
"""

from dataclasses import dataclass

from graft_api.dataplane import DRAIN_PATH, INFERENCE_PATHS, LIVE_PATH, NOT_STARTED_HEADER, SERVER_PORT, STATE_PATH
from graft_api.routes import GatewayLimits

AUTHENTICATION_PATH = "/auth"
"""Of the agent, on its socket: GET with the caller's Authorization header."""

REQUEST_HEADERS = ("Content-Type", "Accept", "X-Request-Id", "Traceparent", "Tracestate")
"""All that vLLM gets to see of a request's headers. The token is not among them."""

SERVER_IDLE_SECONDS = 4
"""Below the 5 s after which vLLM closes an idle connection: a request that meets a closing one could not be told from one that ran."""

ASKED_SOCKET = "asked.sock"
"""In the door's folder: where it asks itself about callers that it does not know, so that nginx can count these and no others."""

# A gateway is asked about twice a minute, and as often as it has requests under way while its first answer is awaited. Beyond its
# address's share a caller hears that the door is busy, and a gateway that is known is not asked about then: its old answer holds.
_ASKED = "rate=20r/s", "burst=200"
"""Of each address, unknown tokens: a question costs the agent 0.2 ms (measured), on the loop that answers gateways and the kubelet."""
_ASKED_BY_ALL = "rate=200r/s", "burst=400"
"""Of all addresses together: a twenty-fifth of that loop's time, and 0.1 s of it at once, which no probe of the kubelet misses."""
_OPEN = "rate=4r/s", "burst=8"
"""
Of each address, on a route without a token; the kubelet asks every 5 seconds. None for all addresses together: whoever used
that up would have the kubelet end vLLM.
"""
_OPEN_AT_ONCE = 4
"""The hooks of a pod are two."""

_NOTHING_TO_NGINX = ("Redirect", "Expires", "Limit-Rate", "Buffering", "Charset")
_MODULES = "/usr/lib/nginx/modules"

# Not passing the body is not enough: nginx would still announce its length, and the next request on the connection be taken for it.
_BODILESS = """\
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Transfer-Encoding "";
            proxy_set_header Host localhost;
            proxy_set_header Connection "";"""


@dataclass(frozen=True)
class DoorSettings:
    """Where the door listens, what it stands in front of, and how much it may take."""

    listen: str
    """As nginx writes it: `0.0.0.0:8000`."""
    agent_socket: str
    directory: str
    """A folder in memory, the door's alone: process id, bodies in transit, known callers."""
    key: str
    """Random, of this start: known callers are remembered under a keyed hash of their token, not under the token."""
    server: str = f"127.0.0.1:{SERVER_PORT}"
    max_body_bytes: int = 0
    connections: int = 4096


def largest_body_bytes() -> int:
    """Return what the largest permitted limit of a gateway admits, and room for what the gateway writes into the body."""
    bounds = GatewayLimits.model_json_schema()["properties"]["maxBodyBytes"]
    return int(bounds["maximum"]) + 65_536


def configuration(settings: DoorSettings) -> str:
    """Return nginx.conf."""
    return "\n".join((_process(settings), "http {", _http(settings), _tables(), _upstreams(settings), _server(settings), "}", ""))


def _process(settings: DoorSettings) -> str:
    # One worker: it relays ten thousand requests a second, and shares its idle connections to vLLM with nobody.
    return f"""\
load_module {_MODULES}/ndk_http_module.so;
load_module {_MODULES}/ngx_http_set_misc_module.so;
worker_processes 1;
pid {settings.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {settings.connections}; }}"""


def _http(settings: DoorSettings) -> str:
    temporary = "\n".join(
        f"    {kind}_temp_path {settings.directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # `inactive` bounds how long an unused answer is kept; how long a used one holds is said by the agent (Cache-Control).
    return f"""\
{temporary}
    access_log off;
    log_not_found off;
    server_tokens off;
    default_type application/json;
    gzip off;
    merge_slashes off;
    client_header_buffer_size 4k;
    large_client_header_buffers 4 16k;
    client_max_body_size {settings.max_body_bytes or largest_body_bytes()};
    client_body_buffer_size 128k;
    client_header_timeout 10s;
    client_body_timeout 60s;
    send_timeout 600s;
    keepalive_timeout 300s;
    keepalive_requests 1000000;
    proxy_http_version 1.1;
    proxy_pass_request_headers off;
    proxy_set_header Host localhost;
    proxy_set_header Connection "";
    proxy_connect_timeout 2s;
    proxy_next_upstream off;
    proxy_buffering off;
    proxy_max_temp_file_size 0;
    proxy_ignore_headers {" ".join(f"X-Accel-{name}" for name in _NOTHING_TO_NGINX)};
    proxy_cache_path {settings.directory}/callers keys_zone=callers:4m max_size=16m inactive=1h use_temp_path=off;
    limit_req_zone $http_x_graft_caller zone=asked:1m {_ASKED[0]};
    limit_req_zone all zone=asked_by_all:32k {_ASKED_BY_ALL[0]};
    limit_req_zone $binary_remote_addr$uri zone=open:1m {_OPEN[0]};
    limit_conn_zone $binary_remote_addr$uri zone=open_at_once:1m;
    limit_req_status 429;
    limit_conn_status 429;
    limit_req_log_level info;
    limit_conn_log_level info;"""


def _tables() -> str:
    paths = "|".join(path.replace(".", r"\.") for path in (*INFERENCE_PATHS, DRAIN_PATH, LIVE_PATH))
    allow = "\n".join(
        f'        "405:{path}" {method};'
        for method, names in (("POST", INFERENCE_PATHS), ("GET", (STATE_PATH, DRAIN_PATH, LIVE_PATH)))
        for path in names
    )
    return f"""\
    map $request_uri $graft_ours {{
        "~^({paths})$" 1;
        "~^{STATE_PATH}(\\?after=[0-9]+)?$" 1;
        default "";
    }}
    map $http_authorization $graft_token_shape {{
        "~^Bearer [A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$" 1;
        default "";
    }}
    map $arg_after $graft_after {{
        "" "";
        default "?after=$arg_after";
    }}
    # Not one byte of the request was handed over (0), or it had not come so far (empty). Anything else may have been acted on,
    # also when an idle connection turned out to be closed only after the request was written to it.
    map $upstream_bytes_sent $graft_not_started {{
        "" 1;
        "0" 1;
        default "";
    }}
    map "$status:$uri" $graft_allow {{
{allow}
        default "";
    }}
    map $status $graft_challenge {{
        401 Bearer;
        default "";
    }}"""


def _upstreams(settings: DoorSettings) -> str:
    return f"""\
    upstream vllm {{
        server {settings.server} max_fails=0;
        keepalive 256;
        keepalive_requests 1000000;
        keepalive_timeout {SERVER_IDLE_SECONDS}s;
    }}
    upstream agent {{
        server unix:{settings.agent_socket} max_fails=0;
        keepalive 16;
        keepalive_timeout 60s;
    }}
    upstream asked {{
        server unix:{settings.directory}/{ASKED_SOCKET} max_fails=0;
        keepalive 16;
        keepalive_timeout 60s;
    }}"""


def _server(settings: DoorSettings) -> str:
    locations = "\n".join(
        (
            *(_inference(path) for path in INFERENCE_PATHS),
            _state(),
            _open(DRAIN_PATH, f"http://agent{DRAIN_PATH}", seconds=3660),
            _open(LIVE_PATH, "http://vllm/health", seconds=10, log="error_log stderr crit;"),
            _authentication(settings.key),
            _unanswered(),
        )
    )
    return f"""\
    server {{
        listen {settings.listen} backlog=4096;
        add_header Allow $graft_allow always;
        add_header WWW-Authenticate $graft_challenge always;
        if ($graft_ours = "") {{ return 404; }}
        location / {{ return 404; }}
{locations}
    }}
    server {{
        listen unix:{settings.directory}/{ASKED_SOCKET};
        location / {{ return 404; }}
{_asked()}
    }}"""


def _inference(path: str) -> str:
    # No buffering either way: a prompt is never written to a file, and a token goes on as it comes.
    return f"""\
        location = {path} {{
            if ($request_method != POST) {{ return 405; }}
            error_page 403 500 502 504 @unanswered;
            if ($graft_token_shape = "") {{ return 401; }}
            auth_request {AUTHENTICATION_PATH};
            proxy_pass http://vllm{path};
{_forwarded()}
            proxy_request_buffering off;
            proxy_read_timeout 3660s;
            proxy_hide_header {NOT_STARTED_HEADER};
        }}"""


def _forwarded() -> str:
    # Naming one header drops those that the outer level set.
    headers = "\n".join(f"            proxy_set_header {name} $http_{name.lower().replace('-', '_')};" for name in REQUEST_HEADERS)
    return f"""\
            proxy_set_header Host localhost;
            proxy_set_header Connection "";
{headers}"""


def _state() -> str:
    return f"""\
        location = {STATE_PATH} {{
            if ($request_method != GET) {{ return 405; }}
            client_max_body_size 1;
            error_page 403 500 502 504 @unanswered;
            if ($graft_token_shape = "") {{ return 401; }}
            auth_request {AUTHENTICATION_PATH};
            proxy_pass http://agent{STATE_PATH}$graft_after;
{_BODILESS}
        }}"""


# Of GET routes a body is read before it is thrown away: a stranger's must not fill the memory. 0 would be `any`.
def _open(path: str, target: str, seconds: int, log: str = "") -> str:
    # `log`: that vLLM does not answer yet is what the kubelet asks about, and no news.
    return f"""\
        location = {path} {{
            if ($request_method != GET) {{ return 405; }}
            limit_req zone=open {_OPEN[1]} nodelay;
            limit_conn open_at_once {_OPEN_AT_ONCE};
            client_max_body_size 1;
            error_page 500 502 504 @unanswered;
            proxy_pass {target};
{_BODILESS}
            proxy_read_timeout {seconds}s;
            {log}
        }}"""


def _authentication(key: str) -> str:
    # Has no error page: the variables of a subrequest are those of its request, and what this one sent is not what that one sent.
    # How long an answer holds, and how long it may be used after that while the agent is away or slow, is in its Cache-Control.
    return f"""\
        location = {AUTHENTICATION_PATH} {{
            internal;
            set_hmac_sha256 $graft_caller {key} $http_authorization;
            set_encode_hex $graft_caller;
            proxy_pass http://asked{AUTHENTICATION_PATH};
{_BODILESS}
            proxy_set_header Authorization $http_authorization;
            proxy_set_header X-Graft-Caller $remote_addr;
            proxy_read_timeout 3s;
            proxy_buffering on;
            proxy_cache callers;
            proxy_cache_key $graft_caller;
            proxy_cache_background_update on;
        }}"""


def _asked() -> str:
    # Limits come before the cache where nginx finds both in one place, so what the cache does not know is asked for in a second one.
    # 403 is never the agent's word: auth_request hands it on without a line in the log, and `_unanswered` says what it means.
    return f"""\
        location = {AUTHENTICATION_PATH} {{
            limit_req zone=asked {_ASKED[1]} nodelay;
            limit_req zone=asked_by_all {_ASKED_BY_ALL[1]} nodelay;
            limit_req_status 403;
            proxy_pass http://agent{AUTHENTICATION_PATH};
{_BODILESS}
            proxy_set_header Authorization $http_authorization;
            proxy_read_timeout 2s;
        }}"""


def _unanswered() -> str:
    return f"""\
        location @unanswered {{
            add_header {NOT_STARTED_HEADER} $graft_not_started always;
            if ($graft_not_started) {{ return 503; }}
            return 502;
        }}"""
