"""Decode, probe and encode videos: bytes or files to uint8 frames and back. The only package that imports PyAV."""

from videomae.data.video.container import MAX_FRAMES, MAX_PIXELS, SUFFIXES, VideoError, VideoSource
from videomae.data.video.cropping import Box, FrameHWC, FramesTHWC
from videomae.data.video.decoding import (
    VideoInfo,
    decode,
    decode_boxes,
    decode_with_demuxer,
    iter_frames,
    probe,
)
from videomae.data.video.encoding import EncodingConfig, encode, transcode

__all__ = [
    "MAX_FRAMES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "EncodingConfig",
    "FrameHWC",
    "FramesTHWC",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "decode",
    "decode_boxes",
    "decode_with_demuxer",
    "encode",
    "iter_frames",
    "probe",
    "transcode",
]
