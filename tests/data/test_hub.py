"""Datasets of an older format, which LeRobot converts, and parts of datasets on a Hub that is on this machine."""

import hashlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_videos import KINDS, LENGTHS, TOP, WRIST, index_dataset, number_of, write_video

from hlrp.data.dataset_info import conversion, read_dataset
from hlrp.data.episodes import read_episodes
from hlrp.data.hub import needed_files
from hlrp.data.identity import fingerprint
from hlrp.data.importing import ImportRequest, import_video
from hlrp.data.readers import DirectReader
from hlrp.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _version_21(root: Path) -> Path:
    """Two episodes of 5 and 8 frames, as LeRobot 0.3 wrote them: a table and a video an episode."""
    lengths, first = [5, 8], 0
    numbers = {"dtype": "int64", "shape": [1], "names": None}
    features: dict[str, Any] = {
        TOP: {"dtype": "video", "shape": [64, 96, 3], "names": ["height", "width", "channels"], "info": {}},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), numbers),
    }
    info = {"codebase_version": "v2.1", "robot_type": None, "fps": 10, "features": features, "chunks_size": 1000}
    info |= {"total_episodes": 2, "total_frames": 13, "total_tasks": 1, "total_videos": 2, "total_chunks": 1}
    info |= {"splits": {"train": "0:2"}}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    statistics = []
    for episode, length in enumerate(lengths):
        at = np.arange(first, first + length)
        action = np.stack([at, -at], 1).astype(np.float32)
        rows = {"action": pa.array(list(action), pa.list_(pa.float32())), "index": at, "frame_index": at - first}
        rows |= {"timestamp": ((at - first) / 10).astype(np.float32)}
        rows |= {"episode_index": np.full(length, episode), "task_index": np.zeros(length, np.int64)}
        table = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows), table)
        write_video(root / f"videos/chunk-000/{TOP}/episode_{episode:06d}.mp4", at.tolist(), KINDS["h264"])
        found = {"min": action.min(0), "max": action.max(0), "mean": action.mean(0), "std": action.std(0)}
        of_action = {name: value.tolist() for name, value in found.items()} | {"count": [length]}
        statistics.append({"episode_index": episode, "stats": {"action": of_action}})
        first += length
    lines = {
        "tasks": [{"task_index": 0, "task": "look"}],
        "episodes": [{"episode_index": e, "tasks": ["look"], "length": n} for e, n in enumerate(lengths)],
        "episodes_stats": statistics,
    }
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    for name, rows_of in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows_of))
    return root


def test_the_command_that_is_named_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot's own converter, run with the very words of the message, in a folder whose name needs quotes."""
    from hlrp.data.decode import FrameTimes
    from hlrp.data.open_video import OpenVideos

    root = _version_21(tmp_path / "my data")
    with pytest.raises(UserError) as by_import:
        import_video(ImportRequest(str(root), tmp_path / "out"))
    with pytest.raises(UserError) as by_use:
        read_dataset(None, root)
    assert by_import.value.fix == by_use.value.fix and "my data_old" in str(by_use.value.fix)
    command = str(by_use.value.fix).removeprefix("convert it: ").partition(" (")[0]
    python, dash, module, *arguments = shlex.split(command)
    assert (python, dash) == ("python", "-m")
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__")
    info = read_dataset(None, root)
    table = read_episodes(info)
    assert (info.frames, table.lengths.tolist(), list(table.task)) == (13, [5, 8], ["look", "look"])
    seconds = FrameTimes(table, TOP).seconds(1)
    frames = OpenVideos((64, 96), info.tolerance_s).read(table.video[TOP][0][1], seconds, 1)
    assert [number_of(frame) for frame in frames] == list(range(5, 13))
    assert (tmp_path / "my data_old/meta/info.json").is_file()


def test_only_one_format_has_a_converter() -> None:
    on_hub = conversion("v2.1", "a/b", None)
    assert "convert_dataset_v21_to_v30 --repo-id=a/b" in on_hub and "--root" not in on_hub
    assert "converts v2.1 alone" in conversion("v2.0", "a/b", Path("x"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in two tables, and two videos of each of two cameras."""
    return index_dataset(tmp_path_factory.mktemp("hub") / "whole", KINDS["h264"])


def test_the_files_of_some_episodes_and_cameras(whole: Path) -> None:
    tables = [f"data/chunk-000/file-00{i}.parquet" for i in range(2)]
    videos = {c: [f"videos/{c}/chunk-000/file-00{i}.mp4" for i in range(2)] for c in (TOP, WRIST)}
    bare = whole.parent / "bare"
    for path in (whole / "meta").rglob("*.*"):
        (bare / path.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
        (bare / path.relative_to(whole)).write_bytes(path.read_bytes())
    info = read_dataset(None, bare)  # its metadata alone
    assert needed_files(info) == sorted([*tables, *videos[TOP], *videos[WRIST]])
    assert needed_files(info, [1]) == sorted([tables[0], videos[TOP][0], videos[WRIST][0]])
    assert needed_files(info, [2, 3], [WRIST]) == [tables[1], videos[WRIST][1]]
    assert needed_files(info, [3, 0], [TOP]) == [*tables, *videos[TOP]]
    for episodes, cameras, message in (([4], None, "choose|exist"), (None, ["observation.images.topp"], "topp")):
        with pytest.raises(UserError, match=message):
            needed_files(info, episodes, cameras)


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as `snapshot_download` asks for: one dataset, `me/toy`, with one commit."""

    root: ClassVar[Path]
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None: ...

    def _file(self) -> Path | None:
        _, found, name = self.path.partition(f"/datasets/me/toy/resolve/{COMMIT}/")
        return self.root / name if found and (self.root / name).is_file() else None

    def _answer(self, body: bytes, **headers: str) -> None:
        begin, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if self.command == "GET" and end:
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
            body = body[int(begin) : int(end) + 1]
        self.send_response(206 if "Content-Range" in headers else 200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if (path := self._file()) is not None:
            body = path.read_bytes()
            if self.command == "GET":
                part = f" {self.headers['Range']}" if "Range" in self.headers else ""
                self.asked.append(path.relative_to(self.root).as_posix() + part)
            self._answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)
        elif place in (f"/api/datasets/me/toy/revision/{name}" for name in ("v3.0", COMMIT)):
            self._json({"id": "me/toy", "sha": COMMIT, "siblings": [{"rfilename": e["path"]} for e in self._tree()]})
        elif place.startswith(f"/api/datasets/me/toy/tree/{COMMIT}"):
            below = place.removeprefix(f"/api/datasets/me/toy/tree/{COMMIT}").removeprefix("/")
            self._json([entry for entry in self._tree() if entry["path"].startswith(below)])
        else:
            self.send_response(404)
            code = "RevisionNotFound" if "/me/old/" in place else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        folders = {
            path: {"type": "directory", "path": path, "oid": "0"} for path in asked if (self.root / path).is_dir()
        }
        self._json([*(e for e in self._tree() if e["path"] in asked), *folders.values()])

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), Content_Type="application/json")

    def _tree(self) -> list[dict[str, Any]]:
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        return [
            {"type": "file", "path": p.relative_to(self.root).as_posix(), "size": p.stat().st_size, "oid": "0"}
            for p in files
        ]


@pytest.fixture
def hub(whole: Path) -> Iterator[str]:
    _Hub.root, _Hub.asked = whole, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# In a process of its own: the client reads its settings when it is imported.
FETCH = """
import json, sys
from hlrp.data.hub import fetch_dataset
from hlrp.errors import UserError
for asked in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(fetch_dataset(announce=lambda _: None, **asked))))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def _fetch(home: Path, endpoint: str, *asked: dict[str, Any], offline: str = "0") -> list[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "HF_LEROBOT_HOME": str(home)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(home / "hf")}
    argv = [sys.executable, "-c", FETCH, json.dumps(asked)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_part_of_a_dataset_on_the_hub_is_fetched_without_the_rest(whole: Path, hub: str, tmp_path: Path) -> None:
    toy: dict[str, Any] = {"repo_id": "me/toy"}
    one, same, everything, old, none = _fetch(
        tmp_path,
        hub,
        toy | {"episodes": [1], "cameras": [TOP]},
        toy | {"episodes": [0], "cameras": [TOP]},  # in the same files
        toy,
        {"repo_id": "me/old"},
        {"repo_id": "me/none"},
    )
    wanted = ["data/chunk-000/file-000.parquet", f"videos/{TOP}/chunk-000/file-000.mp4"]
    meta = sorted(p.relative_to(whole).as_posix() for p in (whole / "meta").rglob("*") if p.is_file())
    there = sorted(p.relative_to(one).as_posix() for p in Path(one).rglob("*") if p.is_file())
    assert one == same and there == sorted([".hlrp-part.json", *wanted, *meta])
    assert sorted(_Hub.asked) == sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file())
    assert sorted(_Hub.asked[: len(meta)]) == meta and sorted(_Hub.asked[len(meta) : len(meta) + 2]) == wanted
    assert fingerprint(Path(everything)) == fingerprint(whole) != fingerprint(Path(one))
    assert read_episodes(read_dataset("me/toy", Path(one))).lengths.tolist() == LENGTHS
    assert "no state of format v3.0" in old and "convert_dataset_v21_to_v30 --repo-id=me/old --push-to-hub=false" in old
    assert "no dataset 'me/none' on the Hub" in none
    # A dry run finds what is here, and fetches nothing.
    dry, before = toy | {"fetch": False}, len(_Hub.asked)
    nothing, part, found, refused = _fetch(
        tmp_path / "other", hub, dry, toy | {"episodes": [1]}, dry | {"episodes": [0]}, dry | {"episodes": [2]}
    )
    both = {name for camera in (TOP, WRIST) for name in (wanted[0], wanted[1].replace(TOP, camera))}
    assert found == part and set(_Hub.asked[before:]) == {*meta, *both}
    assert all("'me/toy' is not on this machine, and a dry run fetches nothing" in text for text in (nothing, refused))
    # What is here needs no network; what is not says so.
    here, missing = _fetch(tmp_path / "other", hub, toy | {"episodes": [0]}, toy | {"episodes": [2]}, offline="1")
    assert here == part and "me/toy cannot be fetched: " in missing and "HF_HUB_OFFLINE" in missing


# What a command does with a dataset that it streams, in a process of its own as above.
STREAM = """
import numpy as np
from hlrp.data import read_dataset, read_episodes
from hlrp.data.hub import fetch_dataset
from hlrp.data.readers import DirectReader
root = fetch_dataset("me/toy", announce=print, streamed=True)
info = read_dataset("me/toy", root, streamed_gb=1)
print(info.fingerprint())
print(info.fingerprint())
frames = DirectReader(read_episodes(info), "observation.images.top").read(np.arange(8, 29))
print(*frames.reshape(len(frames), -1).sum(1))
print(root)
"""


def test_a_dataset_on_the_hub_comes_as_it_is_read(whole: Path, hub: str, tmp_path: Path) -> None:
    whole = _Hub.root = shutil.copytree(whole, tmp_path / "on the Hub")
    (whole / "videos/long.mp4").write_bytes(np.random.default_rng(0).bytes(1 << 20))
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_LEROBOT_HOME": str(tmp_path)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", STREAM], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    mark, again, sums, root = done.stdout.splitlines()
    assert mark == again == fingerprint(whole)
    frames = DirectReader(read_episodes(read_dataset(None, whole)), TOP).read(np.arange(8, 29))
    assert sums.split() == [str(n) for n in frames.reshape(21, -1).sum(1)]
    meta = sorted(p.relative_to(whole).as_posix() for p in (whole / "meta").rglob("*") if p.is_file())
    assert sorted(set(_Hub.asked) & set(meta)) == meta
    fetched = [name for name in _Hub.asked if " " not in name and name not in meta]
    assert fetched == ["data/chunk-000/file-001.parquet", f"videos/{TOP}/chunk-000/file-001.mp4"]
    parts = [name for name in _Hub.asked if " " in name]
    assert len(parts) == 6 + 3, "of each table and video what counts for its identity, once"
    long = [f"bytes={first}-{first + 16383}" for first in (0, 516096, 1032192)]
    assert sorted(part.split(" ")[1] for part in parts if "long" in part) == sorted(long)
    assert not (Path(root) / f"videos/{WRIST}/chunk-000/file-000.mp4").exists()


# As above: labels of the whole dataset are taken for a part of it.
PART = """
import sys
from hlrp.data import read_dataset
from hlrp.data.hub import fetch_dataset
root = fetch_dataset("me/toy", episodes=[1], announce=lambda _: None)
info = read_dataset("me/toy", root)
print(info.fingerprint() == sys.argv[1], info.known_as(sys.argv[1]), info.known_as("2-0123456789abcd"))
"""


def test_a_part_is_known_by_the_fingerprint_of_the_whole(whole: Path, hub: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_LEROBOT_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(tmp_path / "hf")}
    for offline in ("0", "1"):  # it is asked for once
        done = subprocess.run(
            [sys.executable, "-c", PART, fingerprint(whole)],
            env=environment | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.stdout.split() == ["False", "True", "False"], done.stderr
    assert not [name for name in _Hub.asked if "file-001" in name and " " not in name]
