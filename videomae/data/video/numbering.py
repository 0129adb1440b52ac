"""Number the frames of a stream in display order, from its packets alone.

The packets say when a frame is shown, in all containers but AVI. Packets before the first keyframe, of pictures that
are never shown, or cut off by an edit list get no number. Recordings that were joined follow each other, although their
times start again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videomae.data.video.color import hdr_curve
from videomae.data.video.container import VideoError, VideoSource, iter_packets, open_video, other_streams
from videomae.data.video.display import Display, require_same_aspect, square_or
from videomae.data.video.timing import Timeline, timeline

# Formats whose times may jump, as FFmpeg sees it: a gap longer than _LONGEST_GAP is a jump, not a frame that is held.
_JUMPING = ("mpegts", "mpeg")
_LONGEST_GAP = 10  # seconds
_BACK = 1  # seconds by which a decoding time must fall back between keyframes to be a jump, not a muxer's mistake


@dataclass(frozen=True, slots=True)
class Stamp:
    """The times of a packet in ticks of its stream; `is_shown` is false if it brings no frame to the display."""

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_shown: bool

    @classmethod
    def of(cls, packet: Packet, codec: str) -> Stamp:
        hidden = codec == "vp8" and not packet_shows_vp8(packet)
        shown = not (packet.is_discard or hidden)
        return cls(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, shown)


def packet_shows_vp8(packet: Packet) -> bool:
    """Whether a VP8 frame is shown; others are only references (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] & 16)


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The numbers of a stream's frames in display order, by packet in decoding order; None for packets without a frame.

    `by_packet` is None if the packets do not tell: then the frames are counted as the decoder gives them.
    `starts` holds the time of each frame, in ticks of `unit` seconds. `last` is the duration of the last frame, or 0.
    """

    by_packet: list[int | None] | None
    first_packet: int  # the first keyframe
    starts: list[int]
    last: int
    unit: Fraction
    declared: tuple[Fraction | None, ...]

    @property
    def frames(self) -> int:
        return len(self.starts)

    @property
    def begins_plainly(self) -> bool:
        """Whether the first packet is that of the first frame, so that decoding certainly begins there."""
        return self.by_packet is None or self.by_packet[self.first_packet] == 0

    def timeline(self, first: int, frame: VideoFrame) -> Timeline:
        """The timeline of the frames from number `first` on, which decodes to `frame`.

        Where the packets do not tell, a frame is shown when the packet that completes it is decoded, as FFmpeg has it.
        Its `dts` tells by how many packets that is later.
        """
        starts = self.starts[first:]
        if self.by_packet is None and frame.dts in starts:
            delay = starts.index(frame.dts)
            step = min((later - earlier for earlier, later in itertools.pairwise(starts)), default=1)
            starts = starts[delay:] + [starts[-1] + step * (place + 1) for place in range(delay)]
        return timeline(starts, self.last, self.unit, self.declared)


@dataclass
class Flaws:
    """What the frames that were decoded so far lack of those that the source promised."""

    concealed: list[int] = field(default_factory=list)
    missing: int = 0
    transfer: str = ""  # the name of an HDR curve
    others: tuple[str, ...] = ()  # sizes of further video streams

    def remarks(self) -> tuple[str, ...]:
        """A sentence for each kind of flaw."""
        found: list[str] = []
        if self.concealed:
            found.append(
                f"{len(self.concealed)} frame(s) are damaged and shown as the decoder conceals it, the first is number"
                f" {self.concealed[0]}"
            )
        if self.missing:
            found.append(f"{self.missing} frame(s) cannot be decoded; the one before is held in their place")
        if self.transfer:
            found.append(f"HDR by {self.transfer}, which is not mapped to the usual range of brightness: it looks flat")
        if self.others:
            found.append(f"further video streams are not taken: {', '.join(self.others)}")
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class NumberedVideo:
    """A video that is decoded from the start.

    `frames` yields numbered frames in display order; `first` is the number of the first that can be decoded. From it
    on, the packets promise `expected` frames, which are shown at the times of `timeline`. Packets that cannot be
    decoded are passed over where the stream begins and ends; one in between raises VideoError. `flaws` is complete when
    all frames have been taken.
    """

    frames: Iterator[tuple[int, VideoFrame]]
    first: int
    expected: int
    timeline: Timeline
    display: Display
    flaws: Flaws

    def shown(self, fps: Fraction) -> Iterator[VideoFrame]:
        """Yield the frame on display at each k / fps; the one before a frame that is missing is held in its place."""
        repeats = self.timeline.repeats(fps)
        held: tuple[int, VideoFrame] | None = None
        for number, frame in self.frames:
            place = number - self.first
            if held is not None:
                yield from itertools.repeat(held[1], sum(repeats[held[0] : place]))
            held = place, frame
        if held is not None:
            yield from itertools.repeat(held[1], repeats[held[0]])


def number_frames(container: InputContainer, stream: VideoStream, packets: Iterable[Packet]) -> Numbering:
    """Number the frames of all of a stream's packets. Raises VideoError if there are no frames."""
    codec = stream.codec_context.name
    stamps = [Stamp.of(packet, codec) for packet in packets]
    unit = stream.time_base or Fraction(1, 1000)
    declared = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    first = next((place for place, stamp in enumerate(stamps) if stamp.is_keyframe), 0)
    shown = [place for place, stamp in enumerate(stamps) if place >= first and stamp.is_shown]
    if not shown:
        raise VideoError("the video holds no frames")
    kept = [stamps[place] for place in shown]
    ordered = _in_display_order(stamps, shown, unit, jumping=container.format.name in _JUMPING)
    # AVI stores no presentation times: FFmpeg's guesses are off by the B-frames.
    if ordered is not None and container.format.name != "avi":
        by_packet: list[int | None] = [None] * len(stamps)
        for number, (place, _) in enumerate(ordered):
            by_packet[place] = number
        starts = [time for _, time in ordered]
        last = _last_duration(container, stream, stamps[ordered[-1][0]], starts[-1])
        return Numbering(
            by_packet=by_packet, first_packet=first, starts=starts, last=last, unit=unit, declared=declared
        )
    starts, last = sorted(stamp.dts for stamp in kept if stamp.dts is not None), 0  # AVI tells one tick of each frame
    if len(starts) < len(shown):
        rate = next((rate for rate in declared if rate and 0 < rate <= 1000), Fraction(25))
        starts, last, unit = list(range(len(shown))), 1, 1 / Fraction(rate)
    return Numbering(by_packet=None, first_packet=first, starts=starts, last=last, unit=unit, declared=declared)


def _last_duration(container: InputContainer, stream: VideoStream, stamp: Stamp, start: int) -> int:
    """How many ticks the last frame is shown.

    The durations of an mp4's packets are from one decoding to the next; the stream's tells when the last one ends.
    """
    if container.format.name.startswith("mov") and stream.duration is not None and stamp.pts == start:
        left = (stream.start_time or 0) + stream.duration - start
        return left if 0 < left < stamp.duration else stamp.duration
    return stamp.duration


def _in_display_order(
    stamps: list[Stamp], shown: list[int], unit: Fraction, *, jumping: bool
) -> list[tuple[int, int]] | None:
    """The place and time of each shown packet in display order; None if presentation times are missing or repeated."""
    ordered: list[tuple[int, int]] = []
    offset = 0
    for part in _parts(stamps, shown, unit, jumping=jumping):
        times = sorted((stamps[place].pts, place) for place in part if stamps[place].pts is not None)
        if len(times) < len(part) or len({time for time, _ in times}) < len(times):
            return None
        found = [(time, place) for time, place in times if time is not None]
        if ordered:  # go on where the part before ends
            before = [time for _, time in ordered[-2:]]
            offset = ordered[-1][1] + (stamps[ordered[-1][0]].duration or before[-1] - before[0]) - found[0][0]
        ordered += [(place, time + offset) for time, place in found]
    return ordered


def _parts(stamps: list[Stamp], shown: list[int], unit: Fraction, *, jumping: bool) -> Iterator[list[int]]:
    """Split the shown packets where the times of the stream jump."""
    part: list[int] = []
    latest = decoded = -math.inf
    for place in shown:
        stamp = stamps[place]
        pts = latest if stamp.pts is None else stamp.pts
        dts = decoded if stamp.dts is None else stamp.dts
        fell = (stamp.is_keyframe and pts < latest and dts <= decoded) or dts < decoded - _BACK / unit
        if part and (fell or (jumping and dts > decoded + _LONGEST_GAP / unit > -math.inf)):
            yield part
            part, latest = [], -math.inf
        part.append(place)
        latest, decoded = max(latest, pts), dts
    yield part


@contextlib.contextmanager
def open_numbered(source: VideoSource) -> Iterator[NumberedVideo]:
    """Read a video's packets, then decode it from the start. Raises VideoError also if no frame can be decoded."""
    with open_video(source) as (container, stream):
        numbering = number_frames(container, stream, iter_packets(container, stream))
    with open_video(source) as (container, stream):
        flaws = Flaws(others=tuple(other_streams(container, stream)))
        frames = _decode_numbered(container, stream, numbering, flaws)
        first = next(frames, None)
        if first is None:
            raise VideoError("the video holds no frames that can be decoded")
        flaws.transfer = hdr_curve(first[1])
        yield NumberedVideo(
            frames=itertools.chain([first], frames),
            first=first[0],
            expected=numbering.frames - first[0],
            timeline=numbering.timeline(*first),
            display=Display.of(stream, first[1]),
            flaws=flaws,
        )


def _decode_numbered(
    container: InputContainer, stream: VideoStream, numbering: Numbering, flaws: Flaws
) -> Iterator[tuple[int, VideoFrame]]:
    decoder, packets = stream.codec_context, renumbered(iter_packets(container, stream), numbering)
    aspect: Fraction | None = None
    first, yielded = None, 0
    for count, frame in enumerate(decode_tolerantly(decoder, packets)):
        aspect = aspect or square_or(decoder.sample_aspect_ratio)
        require_same_aspect(decoder, aspect)
        number = count if numbering.by_packet is None else frame.pts
        if number is not None and number < numbering.frames:
            first, yielded = number if first is None else first, yielded + 1
            if frame.is_corrupt:
                flaws.concealed.append(number - first)
            yield number, frame
    flaws.missing = numbering.frames - (first or 0) - yielded


def renumbered(packets: Iterable[Packet], numbering: Numbering) -> Iterator[Packet]:
    """Yield the packets from the first keyframe on, their presentation times replaced by the numbers of their frames.

    The decoder passes them on to the frames.
    """
    for place, packet in enumerate(packets):
        if numbering.by_packet is not None:
            packet.pts = numbering.by_packet[place]
        if place >= numbering.first_packet:
            yield packet


def decode_tolerantly(decoder: VideoCodecContext, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    """Decode packets and flush; one that cannot be decoded is an error only between two that can be."""
    damage: av.error.FFmpegError | None = None
    begun = False
    for packet in itertools.chain(packets, (None,)):
        try:
            frames = decoder.decode(packet)
        except av.error.InvalidDataError as error:
            damage = damage or error
            continue
        if damage is not None and begun and packet is not None:
            raise damage
        begun = begun or bool(frames)
        yield from frames
