"""Scorers that ask a service: another model as judge, or a service of the user's own."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import Decimal, Model, Rule

HTTP_URL_PATTERN = r"^https?://[^/?#@\s]+(/[^?#\s]*)?(\?[^#\s]*)?$"
HttpUrl = Annotated[str, Field(max_length=1024, pattern=HTTP_URL_PATTERN)]
ENVIRONMENT_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
EnvironmentName = Annotated[str, Field(max_length=253, pattern=ENVIRONMENT_NAME_PATTERN)]

PLACEHOLDERS = ("{question}", "{first}", "{second}")


class Retry(Model):
    """
    Again after a connection that fails, a timeout, and status 408, 429 and 5xx.

    The pause doubles from `pauseSeconds`, half of it by chance; `Retry-After` is obeyed up to a minute.
    """

    attempts: Annotated[int, Field(ge=1, le=10)] = 4
    pause_seconds: Annotated[str, Decimal(ge=0, le=60)] = "0.5"


class LlmJudgeScorer(Model):
    """
    Another model says which is better, the answer or the one that it is held against.

    That is the reference (the first, where a question has several) in a hold-out and the production answer in a shadow test.
    Both orders are asked; an answer wins or loses only if it does in both, else it is a tie (Zheng et al. 2023, arXiv 2306.05685,
    section 3.4). Win 1, tie 0.5, loss 0.
    """

    url: HttpUrl
    """Base of an OpenAI-compatible API, such as http://judge:8000/v1; `/chat/completions` is added."""
    model: Annotated[str, Field(max_length=256, min_length=1)]
    """Pinned: an answer by a model that calls itself otherwise is refused, so name the dated version and not its alias."""
    prompt_version: Literal["v1"] = "v1"
    """graft's own prompt, by version, so that an upgrade does not change a judge."""
    prompt: Annotated[str, Field(max_length=16384, min_length=1)] | None = None
    """
    A prompt of one's own, with {question}, {first} and {second}, which are replaced by JSON strings.

    It must ask for `{"better": "first"}`, `"second"` or `"tie"`.
    """
    right_on: Literal["Tie", "Win"] = "Tie"
    """The least that makes an answer right."""
    token_env: EnvironmentName | None = None
    """Environment variable with the bearer token; in a job, one of `spec.podTemplate.env`."""
    answer_format: Literal["JsonSchema", "JsonObject", "Text"] = "JsonSchema"
    """How the judge is held to JSON: `response_format`, as far as the server knows it."""
    max_tokens: Annotated[int, Field(ge=8, le=32768)] = 512
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    max_concurrent: Annotated[int, Field(ge=1, le=256)] = 8
    retry: Retry = Field(default_factory=Retry)

    rules: ClassVar = (
        Rule(
            cel="!has(self.prompt) || (self.prompt.contains('{question}') && self.prompt.contains('{first}') "
            "&& self.prompt.contains('{second}'))",
            message="must contain {question}, {first} and {second}",
            check=lambda self: self.prompt is None or all(name in self.prompt for name in PLACEHOLDERS),
            field=".prompt",
        ),
    )


class HttpScorer(Model):
    """
    A service judges: POST of `{"question", "answer", "references", "toolCalls"}`.

    It answers `{"score": 0..1 or a boolean, "cause": "Word"}`. Redirects are not followed. Whatever else it says is a broken
    scorer, never a wrong answer.
    """

    url: HttpUrl
    right_from: Annotated[str, Decimal(gt=0, le=1)] = "0.5"
    """The score from which on an answer is right."""
    token_env: EnvironmentName | None = None
    """Environment variable with the bearer token; in a job, one of `spec.podTemplate.env`."""
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 10
    max_concurrent: Annotated[int, Field(ge=1, le=256)] = 8
    retry: Retry = Field(default_factory=Retry)
