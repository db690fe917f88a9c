"""vLLM's command line as a user wrote it: what graft sets is taken out and put in anew, what stands against graft is refused."""

from dataclasses import dataclass

from graft_api import vllm
from graft_api.modelendpoint import OWNED_ARGUMENTS, ModelEndpointSpec

ONE, ANY, NONE = 1, -1, 0
"""How many values follow a flag."""

REPLACED = {
    "--host": ONE,
    "--port": ONE,
    "--served-model-name": ANY,
    "--enable-lora": NONE,
    "--max-loras": ONE,
    "--max-cpu-loras": ONE,
    "--max-lora-rank": ONE,
}
REFUSED = {*OWNED_ARGUMENTS, "--no-enable-lora", "--headless"} - {*REPLACED, "--model"}
SHELLS = {"sh", "bash", "dash", "ash", "zsh"}


@dataclass(frozen=True)
class CommandLine:
    """Command and arguments of the container, as they must be."""

    command: list[str] | None
    args: list[str]
    taken_out: dict[str, list[str]]
    """Flag -> its values."""
    problems: list[str]


def rewrite(command: list[str] | None, args: list[str] | None, spec: ModelEndpointSpec) -> CommandLine:
    """Return the command line by which graft can serve through this vLLM. With problems it must not be used."""
    if not (command or args):
        return CommandLine(command, [], {}, ["command and args are empty: what the image runs by default cannot be seen here; write args"])
    if command and command[0].rpartition("/")[2] in SHELLS:
        return CommandLine(command, [], {}, ["command starts a shell: write vLLM's arguments as a list in args"])
    # One line, because a flag in `command` may have its value in `args`.
    marked = [(token, True) for token in command or []] + [(token, False) for token in args or []]
    kept, taken_out = _take_out(marked)
    problems = [*_refused([token for token, _ in kept]), *_too_little(taken_out, spec)]
    ours = [*vllm.loopback_arguments(), *_room(taken_out, spec)]
    return CommandLine(
        command=[token for token, in_command in kept if in_command] if command else command,
        # Last: of a flag that is there twice, also in a shortened form, vLLM takes the last one.
        args=[*(token for token, in_command in kept if not in_command), *ours],
        taken_out=taken_out,
        problems=problems,
    )


def _take_out(tokens: list[tuple[str, bool]]) -> tuple[list[tuple[str, bool]], dict[str, list[str]]]:
    kept: list[tuple[str, bool]] = []
    taken_out: dict[str, list[str]] = {}
    follows = NONE
    for token, in_command in tokens:
        flag, _, value = token.partition("=")
        if token.startswith("-") and (flag := vllm.flag_of(flag)) in REPLACED:
            taken_out[flag] = [value] if "=" in token else []
            follows, current = (NONE if "=" in token else REPLACED[flag]), flag
        elif follows != NONE and not token.startswith("-"):
            taken_out[current].append(token)
            follows = ANY if follows == ANY else NONE
        else:
            kept.append((token, in_command))
            follows = NONE
    return kept, taken_out


def _refused(tokens: list[str]) -> list[str]:
    """Of a flag vLLM takes the beginning, too."""
    flags = [vllm.flag_of(token) for token in tokens if token.startswith("--") and len(token) > 2]
    found = [flag for flag in flags if any(refused.startswith(flag) for refused in REFUSED)]
    return [f"{flag} stands against serving through graft's door: remove it" for flag in found]


def _too_little(taken_out: dict[str, list[str]], spec: ModelEndpointSpec) -> list[str]:
    problems = []
    for flag, least, why in _bounds(spec):
        given = (taken_out.get(flag) or [str(least)])[0]
        if not given.isdecimal():
            problems.append(f"{flag} is {given!r}: write a number")
        elif int(given) < least:
            problems.append(f"{flag} is {given}, and {why} needs at least {least}: raise or remove it")
    return problems


def _room(taken_out: dict[str, list[str]], spec: ModelEndpointSpec) -> list[str]:
    """Return what graft needs, or more where the user has more."""
    given = {
        flag: max(least, *(int(value) for value in taken_out.get(flag, []) if value.isdecimal()), least) for flag, least, _ in _bounds(spec)
    }
    given["--max-cpu-loras"] = max(given["--max-cpu-loras"], given["--max-loras"])
    return ["--enable-lora", *(word for flag, value in given.items() for word in (flag, str(value)))]


def _bounds(spec: ModelEndpointSpec) -> list[tuple[str, int, str]]:
    slots = "the endpoint (server.maxLoras, or 2 x domains + 1)"
    return [
        ("--max-loras", spec.slots(), slots),
        ("--max-cpu-loras", spec.slots(), slots),
        ("--max-lora-rank", vllm.served_rank(spec), "the endpoint (server.maxLoraRank, or 64)"),
    ]
