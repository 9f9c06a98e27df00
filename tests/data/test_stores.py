from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import threading
import zipfile
from pathlib import Path

import pytest

from glimpse.data.stores import FolderStore, ZipStore, find_folders, open_store
from glimpse.errors import DataError

CLUTTER = [".DS_Store", "a/.DS_Store", "a/Thumbs.db", "__MACOSX/a/._1.jpg"]


def numbered(path: Path, count: int = 200, method: int = zipfile.ZIP_DEFLATED) -> dict[str, bytes]:
    """A zip of files whose content tells which they are."""
    content = {f"d/{row:03}.bin": bytes([row % 256]) * (50 + 37 * row) for row in range(count)}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return content


def test_names_are_sorted_and_clutter_is_left_out(folder, zipped) -> None:
    names = ["b/2.jpg", "a/deep/er/1.jpg", "a/1.jpg", *CLUTTER]
    expected = ("a/1.jpg", "a/deep/er/1.jpg", "b/2.jpg")
    assert FolderStore(folder(names)).names() == expected
    assert ZipStore(zipped(names)).names() == expected


def test_folder_and_zip_give_the_same_bytes(folder, zipped) -> None:
    names = ["a/1.jpg", "b.txt"]
    one, other = FolderStore(folder(names)), ZipStore(zipped(names))
    for name in one.names():
        assert one.read(name) == other.read(name) != b""


def test_a_link_that_leads_back_up_is_followed_once(folder) -> None:
    root = folder(["a/1.jpg"])
    os.symlink(root, root / "a" / "loop")
    assert FolderStore(root).names() == ("a/1.jpg",)


def test_linked_folders_are_read(folder, tmp_path) -> None:
    root = folder(["a/1.jpg"])
    (tmp_path / "other").mkdir()
    os.symlink(root / "a", tmp_path / "other" / "b")
    assert FolderStore(tmp_path / "other").names() == ("b/1.jpg",)


def test_reading_what_is_not_there(folder, zipped) -> None:
    for store in (FolderStore(folder(["a/1.jpg"])), ZipStore(zipped(["a/1.jpg"]))):
        with pytest.raises(DataError, match=r"a/2\.jpg: there is no such file"):
            store.read("a/2.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        FolderStore(folder(["a/1.jpg"])).read("a")


def test_what_is_no_store(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip at all")
    with pytest.raises(DataError, match=r"a\.zip: is not a zip, or is damaged"):
        open_store(tmp_path / "a.zip")
    with pytest.raises(DataError, match="does not exist"):
        open_store(tmp_path / "b.zip")
    with pytest.raises(DataError, match="there is no such file"):
        ZipStore(tmp_path / "b.zip")
    with pytest.raises(DataError, match="is not a folder"):
        FolderStore(tmp_path / "a.zip")


def test_a_cut_off_zip(tmp_path) -> None:
    numbered(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is not a zip, or is damaged"):
        ZipStore(tmp_path / "a.zip")


def test_a_flipped_byte_is_noticed(tmp_path) -> None:
    content = numbered(tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(content["d/100.bin"]) + 5] ^= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    store = ZipStore(tmp_path / "a.zip")
    assert store.read("d/101.bin") == content["d/101.bin"]
    with pytest.raises(DataError, match=r"d/100\.bin: is damaged inside the zip"):
        store.read("d/100.bin")


# What a field of both headers of a file becomes: its flags (encrypted), or its compression (PPMd).
UNREADABLE = {"password": (6, 8, 1), "compression": (8, 10, 98)}


def spoilt(path: Path, local: int, central: int, value: int) -> None:
    """Change a byte of both headers of the only file of a zip."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + local] = value
    data[data.rindex(b"PK\x01\x02") + central] = value
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("why", UNREADABLE)
def test_a_zip_that_cannot_be_opened_up(tmp_path, why) -> None:
    numbered(tmp_path / "a.zip", count=1)
    spoilt(tmp_path / "a.zip", *UNREADABLE[why])
    with pytest.raises(DataError, match=rf"d/000\.bin: cannot be taken out .*{why}.* with no password and plain"):
        ZipStore(tmp_path / "a.zip").read("d/000.bin")


@pytest.mark.parametrize("why", UNREADABLE)
def test_a_zip_inside_a_zip_that_cannot_be_opened_up(tmp_path, why) -> None:
    numbered(tmp_path / "in.zip", count=1)
    with zipfile.ZipFile(tmp_path / "out.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "in.zip", "in.zip")
    spoilt(tmp_path / "out.zip", *UNREADABLE[why])
    with pytest.raises(DataError, match=rf"in\.zip: cannot be taken out .*{why}"):
        ZipStore(tmp_path / "out.zip", "in.zip")


def test_a_zip_with_one_name_twice(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a/1.jpg", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a/1.jpg", b"two")
    with pytest.raises(DataError, match=r"a/1\.jpg: the zip holds two files of this name"):
        ZipStore(tmp_path / "a.zip")


def test_names_written_on_windows(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("x")
        info.filename = "a\\1.jpg"
        file.writestr(info, b"one")
    store = ZipStore(tmp_path / "a.zip")
    assert store.names() == ("a/1.jpg",)
    assert store.read("a/1.jpg") == b"one"


def test_stores_survive_pickling(folder, zipped) -> None:
    for store in (FolderStore(folder(["a/1.jpg"])), ZipStore(zipped(["a/1.jpg"]))):
        again = pickle.loads(pickle.dumps(store))
        assert again == store
        assert hash(again) == hash(store)
        assert again.read("a/1.jpg") == store.read("a/1.jpg")


def test_threads_share_a_zip(tmp_path) -> None:
    content = numbered(tmp_path / "a.zip")
    store = ZipStore(tmp_path / "a.zip")
    wrong: list[str] = []

    def read_all(start: int) -> None:
        names = list(content)
        wrong.extend(name for name in names[start:] + names[:start] if store.read(name) != content[name])

    threads = [threading.Thread(target=read_all, args=(20 * row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _mismatches(store: ZipStore, content: dict[str, bytes], queue: multiprocessing.SimpleQueue[int]) -> None:
    queue.put(sum(store.read(name) != data for _ in range(5) for name, data in content.items()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_forked_processes_do_not_disturb_each_other(tmp_path) -> None:
    content = numbered(tmp_path / "a.zip")
    store = ZipStore(tmp_path / "a.zip")  # opened before the fork: its file position would be shared
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_mismatches, args=(store, content, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(), queue.get()] == [0, 0]
    for worker in workers:
        worker.join()


def test_a_zip_inside_a_zip(tmp_path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("top/query/1.jpg", b"one")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as file:
        file.writestr("sets/in.zip", inner.getvalue())
    ((store, prefix, files),) = find_folders(tmp_path / "out.zip", ("query", "other"))
    assert (prefix, files) == ("top/", {"query": ["top/query/1.jpg"], "other": []})
    assert store.root.endswith("out.zip/sets/in.zip")
    assert pickle.loads(pickle.dumps(store)).read("top/query/1.jpg") == b"one"
    assert open_store(store.root) == store
    with pytest.raises(DataError, match="no such zip inside the zip"):
        ZipStore(tmp_path / "out.zip", "sets/other.zip")


def test_find_folders_at_any_depth_and_twice(folder) -> None:
    root = folder(["query/1.jpg", "deep/down/query/2.jpg", "deep/down/more/3.jpg", "query/not/4.jpg"])
    found = {prefix: files for _, prefix, files in find_folders(root, ("query", "more"))}
    assert found == {
        "": {"query": ["query/1.jpg"], "more": []},
        "deep/down/": {"query": ["deep/down/query/2.jpg"], "more": ["deep/down/more/3.jpg"]},
    }
