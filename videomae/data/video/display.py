"""Show frames as a viewer does: with square pixels, upright."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.data.video.container import MAX_PIXELS, VideoError
from videomae.data.video.orientation import UPRIGHT, Box, Orientation

_SQUARE = Fraction(1)
_TOLERANCE = Fraction(1, 100)  # pixels that are less out of square come from a size that was rounded or cropped


@dataclass(frozen=True, kw_only=True)
class Display:
    """Decoded frames of `stored` pixels are scaled to `width` x `height`, where pixels are square, and then turned."""

    stored: tuple[int, int]  # width, height
    width: int
    height: int
    orientation: Orientation = UPRIGHT

    @classmethod
    def plain(cls, width: int, height: int) -> Display:
        """The display of frames that are upright and have square pixels."""
        return cls(stored=(width, height), width=width, height=height)

    @classmethod
    def of(cls, stream: VideoStream, frame: VideoFrame) -> Display:
        """The display of a stream whose first frame is `frame`.

        Raises VideoError if it is turned by other angles than right ones, or too large.
        """
        return cls.stretched(frame, square_or(stream.sample_aspect_ratio))

    @classmethod
    def stretched(cls, frame: VideoFrame, aspect: Fraction) -> Display:
        """The display of frames like `frame`, whose pixels are `aspect` times as wide as high. Raises as `of`."""
        found = cls.plain(frame.width, frame.height)
        width = max(1, round(frame.width * aspect))
        if width * frame.height > MAX_PIXELS:
            raise VideoError(
                f"its pixel aspect of {aspect} makes frames of {width}x{frame.height}: more than supported"
            )
        return replace(found, width=width, orientation=Orientation.of(frame))

    def is_plain_of(self, frame: VideoFrame, decoder: VideoCodecContext) -> bool:
        """Whether a stream says of its first frame that it is of this size, square and upright; takes microseconds."""
        turned = frame.rotation and Orientation.of(frame) != UPRIGHT  # reading all side data of a frame is slow
        return (frame.width, frame.height) == self.stored and square_or(decoder.sample_aspect_ratio) == 1 and not turned

    @property
    def is_scaled(self) -> bool:
        return self.stored != (self.width, self.height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        return self.orientation.size(self.width, self.height)

    @property
    def shown(self) -> Box:
        """The full frame as shown."""
        width, height = self.size
        return Box(top=0, left=0, height=height, width=width)

    def fitted(self, short_side: int | None) -> tuple[int, int]:
        """Width and height, both even, scaled down to `short_side` pixels, before the frames are turned."""
        scale = 1.0 if short_side is None else min(1.0, short_side / min(self.width, self.height))
        return max(2, 2 * round(self.width * scale / 2)), max(2, 2 * round(self.height * scale / 2))


def square_or(aspect: Fraction | None) -> Fraction:
    """A pixel aspect, width over height; 1 if it is missing or close to 1."""
    return _SQUARE if aspect is None or aspect <= 0 or abs(aspect - 1) <= _TOLERANCE else aspect


def require_same_aspect(decoder: VideoCodecContext, first: Fraction) -> None:
    """Raise VideoError if the pixel aspect that a stream tells has changed, as in broadcasts from 16:9 to 4:3."""
    now = square_or(decoder.sample_aspect_ratio)
    if now != first:
        raise VideoError(f"the aspect of its pixels changes from {first} to {now}; split it where it does")
