"""What `graft run` prints at the end."""

from pathlib import Path

import pytest
from model_signing._cli import main as model_signing

from graft_cli.run import verification


@pytest.mark.parametrize("uri", ["file:///out/attempt-1-00000000/artifact", "s3://bucket/out/attempt-1-00000000/artifact"])
def test_the_printed_commands_are_those_of_the_tool(uri: str) -> None:
    *download, openssl, verify = verification(uri, Path("key.pem"))

    assert [line.partition(" --recursive ")[2].split()[:2] for line in download] == ([[uri, "adapter"]] if uri.startswith("s3") else [])
    assert openssl.endswith("-pubout -out public.pem")
    words = verify.removeprefix("python -m model_signing ").split()
    known = {option for parameter in model_signing.commands["verify"].commands["key"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known
    assert words[-1] == ("adapter" if uri.startswith("s3") else uri.removeprefix("file://"))
