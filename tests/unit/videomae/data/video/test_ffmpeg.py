"""Decoding shows what the program ffmpeg shows of the same file."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from videomae.data.video import EncodingConfig, decode, iter_frames, probe, transcode

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


GAPS = "select='not(between(mod(n,14),4,9))'"
PACKED = {
    "gaps.mpg": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "mpeg2video", "-q", "2", "-bf", "2", "-aspect", "16:9"),
    "gaps.vob": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "mpeg2video", "-b:v", "200k", "-bf", "2", "-f", "vob"),
    "gaps.mp4": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "3"),
    "gaps.avi": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "2"),
    "gaps.wmv": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "wmv2", "-q", "2"),
    "gaps.ogv": ("-vf", GAPS, "-fps_mode", "vfr", "-c:v", "libtheora", "-q", "9"),
    "dv.avi": ("-vf", "scale=720:480,fps=30000/1001", "-c:v", "dvvideo", "-pix_fmt", "yuv411p", "-aspect", "16:9"),
    "early.mov": ("-c:v", "mpeg4", "-q", "2", "-output_ts_offset", "-0.3", "-avoid_negative_ts", "disabled"),
    "late.ts": ("-c:v", "libx264", "-bf", "2", "-output_ts_offset", "5000"),
    "alpha.mov": ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"),
    "odd.mkv": ("-vf", "crop=191:107:exact=1", "-c:v", "ffv1", "-pix_fmt", "yuv420p"),
    "anamorphic.mov": ("-vf", "setsar=16/11", "-c:v", "libx264"),
    "phone.3gp": ("-c:v", "mpeg4", "-q", "2"),
    "flash.flv": ("-c:v", "flv1", "-q", "2"),
    "cover.mp4": ("-c:v", "libx264"),
}  # fmt: skip


@pytest.mark.skipif(FFMPEG is None, reason="no ffmpeg on this machine")
@pytest.mark.parametrize("name", PACKED)
def test_what_is_packed_is_what_ffmpeg_shows_at_that_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run(*SOURCE, *PACKED[name], str(path))
    if name == "cover.mp4":
        run("-f", "lavfi", "-i", "color=red:s=600x600", "-frames:v", "1", str(tmp_path / "c.png"))
        path = tmp_path / "covered.mp4"
        inputs = ("-i", str(tmp_path / "c.png"), "-i", str(tmp_path / name), "-map", "0", "-map", "1", "-c", "copy")
        run(*inputs, "-disposition:v:0", "attached_pic", str(path))
    stored = transcode(path, EncodingConfig(short_side=48, fps=15, crf=8))
    info = probe(stored)
    frames = decode(stored, range(info.frames))
    early = "-0.0012/TB" if path.suffix in (".mkv", ".flv", ".wmv") else ""  # which round times to milliseconds
    shown = f"setpts=PTS-STARTPTS{early},fps=15:round=up:start_time=0,scale={info.width}:{info.height}:flags=bicubic"
    raw = run("-i", str(path), "-vf", shown, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
    assert abs(len(expected) - len(frames)) <= 1
    both = min(len(expected), len(frames))
    away = np.abs(blocks(frames[:both]) - blocks(expected[:both])).mean(axis=(1, 2, 3))
    limit = 5 if name == "dv.avi" else 3.5  # the place of chroma among 4 pixels; a frame too early or late gives over 4
    assert away.max() < limit, away.round(1)
    turned = decode(path, [probe(path).frames - 1])[0]
    assert abs(turned.shape[1] / turned.shape[0] - info.width / info.height) < 0.05


def blocks(frames_THWC: np.ndarray) -> np.ndarray:
    """Means over 6 x 6 blocks of every frame."""
    frames, height, width, _ = frames_THWC.shape
    cut = frames_THWC[:, : height // 6 * 6, : width // 6 * 6].astype(float)
    return cut.reshape(frames, 6, height // 6, 6, width // 6, 3).mean(axis=(2, 4))
