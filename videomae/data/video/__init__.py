"""Video bytes to uint8 frames and back: probing, decoding, encoding. The only package that imports PyAV."""

from videomae.data.video.container import MAX_FRAMES, MAX_PIXELS, SUFFIXES, Source, VideoError
from videomae.data.video.cropping import Box, FrameHWC, FramesTHWC
from videomae.data.video.decoding import (
    VideoInfo,
    decode,
    decode_boxes,
    decode_demuxed,
    decode_plainly,
    iterate,
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
    "Source",
    "VideoError",
    "VideoInfo",
    "decode",
    "decode_boxes",
    "decode_demuxed",
    "decode_plainly",
    "encode",
    "iterate",
    "probe",
    "transcode",
]
