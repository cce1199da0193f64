"""Importing video: copied streams beside the same clips encoded again, and the memory of many files.

    python scripts/bench_import.py [--clips 3] [--seconds 10] [--size 480x640] [--files 100,2000]

Clips are made here, H.264 of a texture that moves, once with a key frame a second and once with one in 250 frames.
They are imported as they are, and a step smaller, which has every frame decoded, resized and encoded by LeRobot's own
settings: both in one process, from looking at the files to the finished dataset, without the import of LeRobot. On a
machine with other work trust the CPU times: run as root, SVT-AV1 makes its threads realtime ones, which go first.
Memory is the peak of a process that imports many links to one clip of a second; --files 0 leaves that out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from hlrp.data.importing import ImportRequest, import_video
from hlrp.data.importing.assembly import lerobot_encoder

FPS = 30


def write_clip(path: Path, height: int, width: int, frames: int, distance: int) -> None:
    """Smooth blobs of colour that move, under a little noise that does not."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width] / 40.0
    noise = rng.integers(-6, 7, (height, width, 3))
    with av.open(str(path), "w") as container:
        options = {"crf": "23", "preset": "veryfast", "g": str(distance), "keyint_min": str(distance)}
        stream = container.add_stream("libx264", FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            waves = [np.sin(rows + k + i / 20) * np.cos(columns * (1 + k / 3) - i / (30 + k)) for k in range(3)]
            image = np.clip(128 + 90 * np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def side_by_side(folder: Path, arguments: argparse.Namespace) -> None:
    height, width = map(int, arguments.size.split("x"))
    frames = int(arguments.seconds * FPS)
    for distance in (FPS, 250):
        source = folder / f"distance-{distance}"
        source.mkdir()
        for clip in range(arguments.clips):
            if clip == 0:
                write_clip(source / "0.mp4", height, width, frames, distance)
            else:
                (source / f"{clip}.mp4").write_bytes((source / "0.mp4").read_bytes())
        took = {}
        for name, size in (("copied", None), ("encoded", (height - 2, width - 2))):
            began, cpu = time.perf_counter(), time.process_time()
            request = ImportRequest(str(source), folder / f"{name}-{distance}", size=size, workers=1)
            result = import_video(request)
            took[name] = time.process_time() - cpu, time.perf_counter() - began
            assert result.copied == (arguments.clips if name == "copied" else 0), result
        ratios = [took["encoded"][i] / took["copied"][i] for i in (0, 1)]
        said = ", ".join(f"{name} {cpu:.2f} s CPU ({wall:.2f} s wall)" for name, (cpu, wall) in took.items())
        print(
            f"{arguments.clips} clips of {arguments.seconds:g} s, {arguments.size}, a key frame in {distance}: {said}; "
            f"{ratios[0]:.1f} times the CPU, {ratios[1]:.1f} times the wall",
            flush=True,
        )


def memory(folder: Path, files: list[int]) -> None:
    clip = folder / "clip.mp4"
    write_clip(clip, 64, 64, FPS, FPS)
    for count in files:
        source = folder / f"files-{count}"
        source.mkdir()
        for number in range(count):
            (source / f"{number:05d}.mp4").hardlink_to(clip)
        argv = [sys.executable, __file__, "--only-memory-of", str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
        print(f"{count} files: {said['seconds']:.1f} s, peak {said['peak_mb']:.0f} MB", flush=True)


def one_import(source: Path) -> None:
    began = time.perf_counter()
    import_video(ImportRequest(str(source), source.with_name(f"{source.name}-dataset"), workers=1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--files", default="100,2000")
    parser.add_argument("--only-memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_memory_of:
        one_import(arguments.only_memory_of)
        return
    lerobot_encoder()  # imports LeRobot
    with tempfile.TemporaryDirectory() as name:
        if arguments.clips:
            side_by_side(Path(name), arguments)
        files = [int(count) for count in arguments.files.split(",") if int(count)]
        memory(Path(name), files)


if __name__ == "__main__":
    main()
