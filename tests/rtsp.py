"""A camera for tests: an RTSP server (RFC 2326, RTP interleaved over TCP) whose video is drawn and encoded live.

x264 and FFmpeg's RTP muxer make the packets. Every picture shows its own number, so that a test can tell which
pictures a reader got. `cut` ends all connections and refuses new ones, `restore` listens again; the clock goes on.
"""

import contextlib
import socket
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame

FPS = 10
CELLS = 16  # bits of a picture's number, in a row of cells
WIDTH, HEIGHT = CELLS * 8, 64
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\nc=IN IP4 0.0.0.0\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
)


def draw(number: int) -> np.ndarray:
    """The picture of a number, uint8 (H, W, 3)."""
    bits = [255 * (number >> place & 1) for place in range(CELLS)]
    return np.broadcast_to(np.repeat(np.array(bits, np.uint8), 8)[None, :, None], (HEIGHT, WIDTH, 3))


def number_of(frame_HWC: np.ndarray) -> int:
    """The number that a picture shows."""
    cells = frame_HWC.mean(axis=(0, 2)).reshape(CELLS, -1).mean(axis=1)
    return sum(int(cell > 127) << place for place, cell in enumerate(cells))


class Camera:
    """An RTSP camera at `address` that sends `fps` pictures a second."""

    def __init__(self, fps: int = FPS) -> None:
        self._fps = fps
        self._clients: list[socket.socket] = []
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._rtp.bind(("127.0.0.1", 0))
        self._rtp.settimeout(0.2)
        self._port, self._listener = 0, None
        self.sent, self._ended = -1, threading.Event()
        self.restore()
        self.address = f"rtsp://viewer:secret@127.0.0.1:{self._port}/stream"
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._encode, self._forward)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.cut()
        for thread in self._threads:
            thread.join()
        self._rtp.close()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        for opened in [listener, *self._clients]:
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
                opened.close()
        self._clients.clear()

    def restore(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by `cut`
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client.makefile("rb") as lines:
            while request := lines.readline().decode():
                fields = dict(line.split(": ", 1) for line in iter(lambda: lines.readline().decode().strip(), ""))
                method, body = request.split(" ")[0], ""
                answer = f"RTSP/1.0 200 OK\r\nCSeq: {fields.get('CSeq', 0)}\r\nSession: 1\r\n"
                if method == "DESCRIBE":
                    body = SDP
                    answer += "Content-Type: application/sdp\r\n"
                elif method == "SETUP":
                    answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                client.sendall(f"{answer}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                if method == "PLAY" and self._listener is not None:
                    self._clients.append(client)

    def _encode(self) -> None:
        rtp = f"rtp://127.0.0.1:{self._rtp.getsockname()[1]}"
        options = {"tune": "zerolatency", "x264-params": "keyint=5:repeat-headers=1", "threads": "1"}
        with av.open(rtp, mode="w", format="rtp") as container:
            stream = container.add_stream("libx264", rate=self._fps, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            start = time.monotonic()
            while not self._ended.wait(max(0.0, start + (self.sent + 1) / self._fps - time.monotonic())):
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(draw(self.sent + 1)), format="rgb24")
                frame.pts, frame.time_base = self.sent + 1, Fraction(1, self._fps)
                self.sent += 1
                container.mux(stream.encode(frame))

    def _forward(self) -> None:
        while not self._ended.is_set():
            try:
                packet = self._rtp.recv(65536)
            except TimeoutError:
                continue
            for client in list(self._clients):
                try:
                    client.sendall(b"$" + struct.pack(">BH", 0, len(packet)) + packet)
                except OSError:
                    with contextlib.suppress(ValueError):
                        self._clients.remove(client)
