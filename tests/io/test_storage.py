import errno
import os
import subprocess
import sys

import pytest

from avader.errors import InputError
from avader.io import storage


def test_write_replaces_whole(tmp_path):
    uri = str(tmp_path / "deep" / "x.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert os.listdir(tmp_path / "deep") == ["x.bin"]


def test_chunks_make_one_object_whole_or_absent(tmp_path):
    uri = str(tmp_path / "deep" / "x.bin")
    storage.write_chunks(uri, (bytes([number]) for number in range(5)))
    assert storage.read_bytes(uri) == bytes(range(5))

    def failing():
        yield b"new"
        raise wrong

    # Of the making, not of the storage: whatever they are, they come as they are.
    for wrong in (ZeroDivisionError(), ValueError("of the table"), OSError("of another file")):
        with pytest.raises(type(wrong)) as raised:
            storage.write_chunks(uri, failing())
        assert raised.value is wrong
    assert storage.read_bytes(uri) == bytes(range(5))
    assert os.listdir(tmp_path / "deep") == ["x.bin"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        storage.write_chunks(str(tmp_path / "file" / "below"), [b"x"])


def test_list_is_sorted_recursive_and_without_hidden(tmp_path):
    for name in ("b/2.png", "b/.x.tmp", "a.PNG", "c.txt", ".hidden/1.png"):
        storage.write_bytes(str(tmp_path / name), b"x")
    found = storage.list_files(str(tmp_path), (".png",))
    assert found == [str(tmp_path / "a.PNG"), str(tmp_path / "b/2.png")]
    assert storage.list_files(str(tmp_path / "absent")) == []


def test_glob(tmp_path):
    for name in ("1.png", "2.png", "d/3.png"):
        storage.write_bytes(str(tmp_path / name), b"x")
    assert storage.glob_files(f"{tmp_path}/*.png") == [f"{tmp_path}/1.png", f"{tmp_path}/2.png"]
    assert len(storage.glob_files(f"{tmp_path}/**/*.png")) == 3


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    for name in ("a/1.png", "closed/2.png"):
        storage.write_bytes(str(tmp_path / name), b"x")
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    for look in (
        lambda: storage.list_files(str(tmp_path)),
        lambda: storage.glob_files(f"{tmp_path}/*/*.png"),
        lambda: storage.glob_files(f"{tmp_path}/**/*.png"),
    ):
        with pytest.raises(InputError, match="closed"):
            look()
    # A hidden folder, or one that the pattern does not lead into, is none of its business.
    (tmp_path / "closed").rename(tmp_path / ".closed")
    assert storage.list_files(str(tmp_path)) == [f"{tmp_path}/a/1.png"]
    assert storage.glob_files(f"{tmp_path}/a/*.png") == [f"{tmp_path}/a/1.png"]
    assert storage.glob_files(f"{tmp_path}/a*/*.png") == [f"{tmp_path}/a/1.png"]


def test_linked_folders_are_searched_and_circles_end(tmp_path):
    storage.write_bytes(str(tmp_path / "elsewhere/1.png"), b"x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path / "source")
    found = [f"{tmp_path}/source/linked/1.png"]
    assert storage.list_files(str(tmp_path / "source")) == found
    assert storage.glob_files(f"{tmp_path}/source/**/*.png") == found


def test_whether_a_file_exists_is_not_guessed(tmp_path, monkeypatch):
    assert storage.exists(str(tmp_path))
    assert not storage.exists(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    assert not storage.exists(str(tmp_path / "file/below"))

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle", path)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(InputError, match="Stale"):
        storage.exists(str(tmp_path / "absent"))


def test_asides_of_another_machine_stay_while_they_are_young(tmp_path):
    for name in (".x.0000abcd-1.ff.tmp", ".x.0000abcd-2.ff.tmp", ".tmp", ".mine.tmp"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".x.0000abcd-2.ff.tmp", (0, 0))
    storage.remove_asides(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", ".tmp", ".x.0000abcd-1.ff.tmp"]


def test_a_writer_killed_leaves_nothing_that_a_reader_sees(tmp_path):
    code = (
        "import os, signal; from avader.io import storage; "
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
        f"storage.write_bytes({str(tmp_path / 'parts' / 'x')!r}, b'data')"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    folder = str(tmp_path / "parts")
    assert len(os.listdir(folder)) == 1
    assert storage.list_files(folder) == []
    storage.remove_asides(folder)
    assert os.listdir(folder) == []


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent.*check the path"):
        storage.read_bytes(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="wanted a local path or a URI"):
        storage.read_bytes("nonsense://x/y")
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")
    with pytest.raises(InputError, match="UTF-8"):
        storage.read_text(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:secret@bucket/a/b", "s3://bucket/a/b"),
        ("https://host/a?token=1", "https://host/a"),
        ("s3://key:secret@bucket/run#1/a?b", "s3://bucket/run#1/a?b"),
        ("s3://bucket", "s3://bucket"),
        ("/plain/path", "/plain/path"),
    ],
)
def test_public_uri_has_no_credentials(uri, shown):
    assert storage.public_uri(uri) == shown


def test_join_and_parent():
    assert storage.join("s3://b/x/", "parts", "1") == "s3://b/x/parts/1"
    assert storage.parent("s3://b/x/y") == "s3://b/x"
    assert storage.parent("name") == "."
    assert storage.parent("/name") == "/"


def test_s3_has_one_name():
    assert storage.absolute("s3a://b/s3a/x") == "s3://b/s3a/x"
