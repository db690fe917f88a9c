import hashlib
import subprocess

from graft_runtime.digests import file_sha256, folder_digest, list_files


def test_the_digests_are_those_of_sha256sum(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in {"b": b"2", "a": b"1" * 100_000, "sub/c": b"", "left-out": b"x"}.items():
        (tmp_path / name).write_bytes(content)
    program = subprocess.run(["sha256sum", "a", "b", "sub/c"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    lines = program.splitlines(keepends=True)

    files = list_files(tmp_path, without=["left-out"])

    assert [(file.path, file.size_bytes) for file in files] == [("a", 100_000), ("b", 1), ("sub/c", 0)]
    assert [f"{file.sha256}  {file.path}\n" for file in files] == lines
    assert file_sha256(tmp_path / "a") == lines[0].split()[0]
    expected = f"sha256:{hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()}"
    assert folder_digest(files) == folder_digest(reversed(files)) == expected
