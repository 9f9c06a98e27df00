"""Frames of a video. Needs the extra `video`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from glimpse.errors import ConfigError, DataError
from glimpse.gallery.cutting import Frame
from glimpse.pictures import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "h264", "hevc", "ivf")
"""What is opened. Others are refused: playlists, for one, lead to other files."""

_REMEDY = "write the video again, or give its frames as pictures"


class Video:
    """A video whose frames are counted from 1, in the order in which they are shown.

    Args:
        path: the file.

    Attributes:
        rate: frames per second, if the file says.

    Raises:
        ConfigError: the extra `video` is not installed.
        DataError: there is no such file, or it is no video.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with self._open() as container:
            rate = _pictures(container).average_rate
        self.rate = float(rate) if rate else None

    def frames(self, wanted: Sequence[int]) -> Iterator[Frame]:
        """The frames of the numbers `wanted`, in order; the video is read once, up to the last of them.

        Those that are damaged say so when they are read. Fewer are given if the video ends before, or if it is damaged
        and has no steady rate by which the frames after the damage could be numbered. Behind a lost frame, up to the
        next key frame, pictures can show traces of the damage, as in every player.
        """
        due = deque(sorted(wanted))
        for number, frame in self._numbered():
            while due and due[0] < number:
                lost = due.popleft()
                yield Frame(lost, self.path, DataError(self.path, f"frame {lost} cannot be decoded", _REMEDY))
            if due and due[0] == number:
                yield Frame(due.popleft(), self.path, partial(_as_picture, frame, f"{self.path}, frame {number}"))
            if not due:
                return

    def _numbered(self) -> Iterator[tuple[int, VideoFrame]]:
        """Every frame that can be decoded, and its number.

        Numbers are counted. Past damage, where an unknown number of frames is lost, they are told from the times, if up
        to there the times gave what was counted.
        """
        with self._open() as container:
            stream = _pictures(container)
            # Several frames are decoded at a time.
            stream.thread_type = "AUTO"
            start = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
            number, steady, damaged = 0, self.rate is not None, False
            for frame in _decoded(container, stream):
                if frame is None:
                    damaged = True
                    if not steady:
                        return
                    continue
                told = None if self.rate is None or frame.time is None else round((frame.time - start) * self.rate) + 1
                number = told if damaged and told is not None and told > number else number + 1
                steady = steady and told == number
                yield number, frame

    def _open(self) -> InputContainer:
        try:
            import av
        except ImportError as error:
            remedy = "install the extra: pip install 'glimpse-reid[video]'"
            raise ConfigError("video", f"{self.path} is a video, and PyAV is not installed", remedy) from error
        try:
            options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
            return av.open(self.path, container_options=options)
        except FileNotFoundError as error:
            raise DataError(self.path, "there is no such file", "check the path and its spelling") from error
        except (av.FFmpegError, OSError) as error:
            cause = f"cannot be read as a video ({error.strerror})"
            raise DataError(self.path, cause, "give a video (.mp4, .mkv, .avi, ...), a folder or a zip") from error


def _pictures(container: InputContainer) -> VideoStream:
    """The stream that is shown.

    Raises:
        DataError: there is none.
    """
    if not container.streams.video:
        raise DataError(container.name, "shows nothing: there is no video stream in it", "give a video")
    return container.streams.video[0]


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
    """The frames in the order in which they are shown, and `None` where one or more are lost."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                yield frame


def _as_picture(frame: VideoFrame, where: str) -> Image.Image:
    """A frame as it is to be shown.

    Raises:
        DataError: it is damaged or far too large.
    """
    import av

    if frame.is_corrupt:
        raise DataError(where, "is damaged", _REMEDY)
    if frame.width * frame.height > MAX_PIXELS:
        raise DataError(where, f"is {frame.width} x {frame.height} pixels, too large", "scale the video down")
    try:
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, ValueError) as error:
        raise DataError(where, f"cannot be made a picture ({error})", _REMEDY) from error
    # Telephones write what the sensor saw, and how it has to be turned: counter-clockwise, as in Pillow.
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
