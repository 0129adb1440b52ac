"""Decoding shows what the program ffmpeg shows of the same file."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from videomae.data.video import decode, iter_frames, probe

FFMPEG = shutil.which("ffmpeg")
SOURCE = ("-f", "lavfi", "-i", "testsrc2=d=1:r=30:s=192x108")
RECIPES = {
    "open-gop-cut.mkv": ("-c:v", "libx264", "-g", "10", "-x264-params", "open-gop=1:bframes=3"),
    "edit-list.mp4": ("-c:v", "libx264", "-g", "15", "-bf", "3"),
    "fragmented.mp4": ("-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"),
    "rotated.mp4": ("-c:v", "libx264"),
    "bt709-full.mp4": (
        "-c:v", "libx264", "-pix_fmt", "yuv444p", "-vf", "scale=out_color_matrix=bt709:out_range=pc",
        "-color_range", "pc", "-colorspace", "bt709",
    ),
    "interlaced.ts": ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-bf", "2"),
    "fields.mp4": ("-c:v", "libx264", "-x264opts", "interlaced=1"),
    "rgb.mkv": ("-c:v", "libx264rgb", "-qp", "5"),
    "packed.avi": ("-c:v", "mpeg4", "-vtag", "xvid", "-bf", "2"),
    "camera.mov": ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"),
    "streamed.webm": ("-c:v", "libvpx", "-cpu-used", "8", "-b:v", "400k", "-auto-alt-ref", "1", "-lag-in-frames", "12"),
    "grey.mkv": ("-c:v", "ffv1", "-pix_fmt", "gray16le"),
    "screen.mov": ("-c:v", "qtrle",),
}  # fmt: skip


def run(*words: str) -> bytes:
    assert FFMPEG is not None
    return subprocess.run([FFMPEG, "-v", "error", "-y", *words], check=True, capture_output=True).stdout


@pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg on this machine")
@pytest.mark.parametrize("name", RECIPES)
def test_frames_are_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run(*SOURCE, *RECIPES[name], str(path))
    if name.startswith(("open-gop", "edit-list")):  # copy from the middle of a group of pictures
        run("-ss", "0.43", "-i", str(path), "-c", "copy", str(tmp_path / f"cut-{name}"))
        path = tmp_path / f"cut-{name}"
    if name == "rotated.mp4":
        run("-i", str(path), "-c", "copy", "-metadata:s:v", "rotate=90", str(tmp_path / "turned.mp4"))
        path = tmp_path / "turned.mp4"
    info = probe(path, decode=True)
    frames = np.stack(list(iter_frames(path)))
    assert frames.shape == (info.frames, info.height, info.width, 3)
    raw = run(
        "-i",
        str(path),
        "-fps_mode",
        "passthrough",
        "-sws_flags",
        "bilinear",
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    )
    expected = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
    assert len(expected) == info.frames
    assert np.abs(frames.astype(int) - expected).mean() < 1  # the same to the bit between versions of one year
    places = [info.frames - 1, 0, info.frames // 2]
    assert np.array_equal(decode(path.read_bytes(), places), frames[places])
