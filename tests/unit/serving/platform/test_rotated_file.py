import pytest

from graft_serving.rotated_file import RotatedFile, token_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_it_is_parsed_again_only_when_it_has_changed(path):
    parsed = []
    file = RotatedFile(path, lambda content: parsed.append(content) or content)
    path.write_bytes(b"one")
    assert (file.read(), file.read()) == (b"one", b"one")
    assert parsed == [b"one"]
    path.write_bytes(b"other")
    assert file.read() == b"other"


def test_a_folder_that_is_swapped_as_the_kubelet_does_is_seen(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"token-{name}")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "token").symlink_to("..data/token")
    file = token_file(tmp_path / "token")
    assert file.read() == "token-1"
    (tmp_path / "..new").symlink_to("2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert file.read() == "token-2"


def test_the_last_good_value_stays_while_the_file_is_away_empty_or_broken(path):
    file = token_file(path)
    path.write_text("good\n")
    assert file.read() == "good"
    path.write_text("  ")
    assert file.read() == "good"
    path.write_bytes(b"\xff\xfe\xff")
    assert file.read() == "good"
    path.unlink()
    assert file.read() == "good"
    path.write_text("better")
    assert file.read() == "better"


def test_a_file_that_never_was_there_raises(path):
    with pytest.raises(OSError, match="No such file"):
        token_file(path).read()
    path.write_text("")
    with pytest.raises(ValueError, match="empty"):
        token_file(path).read()
