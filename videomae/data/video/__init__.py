"""Decode, probe and encode videos: bytes or files to uint8 frames and back. The only package that imports PyAV."""

from videomae.data.video.camera import CameraError, is_camera, masked, read_camera
from videomae.data.video.container import MAX_FRAMES, MAX_PIXELS, SUFFIXES, VideoError, VideoSource, naming
from videomae.data.video.cropping import FrameHWC, FramesTHWC
from videomae.data.video.decoding import (
    VideoInfo,
    decode,
    decode_boxes,
    decode_with_demuxer,
    iter_frames,
    probe,
)
from videomae.data.video.encoding import EncodingConfig, encode, transcode
from videomae.data.video.orientation import Box
from videomae.data.video.streaming import Picture, TimedFrame, sample_pictures, stream_pictures
from videomae.data.video.timing import Timeline
from videomae.data.video.writer import VideoWriter, open_writer

__all__ = [
    "MAX_FRAMES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "CameraError",
    "EncodingConfig",
    "FrameHWC",
    "FramesTHWC",
    "Picture",
    "TimedFrame",
    "Timeline",
    "VideoError",
    "VideoInfo",
    "VideoSource",
    "VideoWriter",
    "decode",
    "decode_boxes",
    "decode_with_demuxer",
    "encode",
    "is_camera",
    "iter_frames",
    "masked",
    "naming",
    "open_writer",
    "probe",
    "read_camera",
    "sample_pictures",
    "stream_pictures",
    "transcode",
]
