from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from glimpse.errors import DataError
from glimpse.gallery.incoming import Incoming
from glimpse.gallery.mot import MotOptions, open_mot
from glimpse.gallery.video import Video, _as_picture

if TYPE_CHECKING:
    import av
else:
    av = pytest.importorskip("av", reason="needs PyAV (the extra video)")

WIDTH, HEIGHT, RATE = 64, 48, 10


def grey(number: int) -> int:
    """Brightness of a frame."""
    return 10 * number


def write(
    path: Path,
    frames: int = 12,
    *,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    matrix: Sequence[int] | None = None,
) -> Path:
    """A video whose frames have a brightness each, and a white upper left corner."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number in range(1, frames + 1):
            pixels = np.full((HEIGHT, WIDTH, 3), grey(number), np.uint8)
            pixels[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(pixels)
            if times is not None:
                frame.pts = times[number - 1]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, number: int, keep: int = 0) -> None:
    """Overwrite what the file holds of the packet of that number, but for its first bytes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    packet = bytes(packets[number - 1])
    start = data.find(packet)
    data[start + keep : start + len(packet)] = b"\x55" * (len(packet) - keep)
    path.write_bytes(data)


def numbers(video: Video, wanted: Iterable[int]) -> dict[int, int | str]:
    """The number that the brightness of each frame says, or what is wrong with it."""
    said: dict[int, int | str] = {}
    for frame in video.frames(list(wanted)):
        try:
            said[frame.number] = round(frame.read().getpixel((40, 40))[0] / 10)
        except DataError as error:
            said[frame.number] = f"{error.where}: {error.cause}"
    return said


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_are_counted_from_1(tmp_path: Path, name: str) -> None:
    video = Video(write(tmp_path / name, codec="mpeg4" if name == "a.avi" else "libx264"))
    assert video.rate == RATE
    assert numbers(video, range(1, 13)) == {number: number for number in range(1, 13)}
    assert numbers(video, [7, 2, 12]) == {2: 2, 7: 7, 12: 12}
    assert numbers(video, [11, 13, 20]) == {11: 11}


def test_boxes_cut_crops_from_a_video(tmp_path: Path) -> None:
    video = write(tmp_path / "street.mp4")
    boxes = tmp_path / "results.txt"
    boxes.write_text("5,3,20,20,30,20,1,-1,-1,-1\n2,3,20,20,30,20,1,-1,-1,-1\n2,4,0,0,16,16,1,-1,-1,-1\n")
    crops = open_mot(boxes, video, MotOptions(start=50.0))
    assert crops.notes == ()
    found = [crop for crop in crops if isinstance(crop, Incoming)]
    assert [(c.source, c.frame, c.track, c.time) for c in found] == [
        (str(video), 2, "results:3", 50.1),
        (str(video), 2, "results:4", 50.1),
        (str(video), 5, "results:3", 50.4),
    ]
    brightness = [float(np.asarray(crop.read()).mean()) for crop in found]
    assert brightness == pytest.approx([grey(2), 255, grey(5)], abs=4)
    again = [crop for crop in crops if isinstance(crop, Incoming)]
    assert [crop.content for crop in again] == [crop.content for crop in found]


def test_boxes_behind_the_end_of_a_video_are_one_error(tmp_path: Path) -> None:
    video, boxes = write(tmp_path / "street.mp4"), tmp_path / "results.txt"
    boxes.write_text("12,3,20,20,30,20\n14,3,20,20,30,20\n13,3,20,20,30,20\n13,4,20,20,30,20\n")
    first, error = list(open_mot(boxes, video))
    assert isinstance(first, Incoming)
    assert isinstance(error, DataError)
    assert error.where == f"{boxes}:3"
    assert error.cause == f"{video} ends before frame 13 or cannot be read on: 3 boxes left out from there"


def test_a_damaged_frame_is_named_and_those_behind_it_keep_their_numbers(tmp_path: Path) -> None:
    video, boxes = write(tmp_path / "street.avi", codec="mjpeg"), tmp_path / "results.txt"
    damage(video, 5)
    expected: dict[int, int | str] = {number: number for number in range(1, 13)}
    expected[5] = f"{video}: frame 5 cannot be decoded"
    assert numbers(Video(video), range(1, 13)) == expected
    boxes.write_text("".join(f"{number},1,20,20,30,20\n" for number in range(4, 7)))
    before, error, after = list(open_mot(boxes, video))
    assert isinstance(before, Incoming)
    assert isinstance(after, Incoming)
    assert isinstance(error, DataError)
    assert (before.frame, after.frame) == (4, 6)
    assert error.where == f"{boxes}:2"
    assert error.cause == f"there is no frame 5 to cut 1 box from ({video}: frame 5 cannot be decoded)"


def test_a_frame_that_the_decoder_calls_corrupt_is_not_cut(tmp_path: Path) -> None:
    video = write(tmp_path / "street.mp4", codec="mpeg4")
    damage(video, 5, keep=12)
    said = numbers(Video(video), [4, 5])
    assert said == {4: 4, 5: f"{video}, frame 5: is damaged"}


def test_without_a_steady_rate_frames_are_counted_and_none_is_guessed_behind_damage(tmp_path: Path) -> None:
    times = [0, 1, 2, 5, 6, 7, 11, 12, 13, 14, 15, 16]
    video = write(tmp_path / "phone.mp4", codec="mpeg4", times=times)
    assert numbers(Video(video), range(1, 13)) == {number: number for number in range(1, 13)}
    damage(video, 6)
    assert numbers(Video(video), range(1, 13)) == {number: number for number in range(1, 6)}


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        # x' = a x + c y, y' = b x + d y, as a, b, u, c, d, v, ... in the file; 65536 is 1
        ((65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), "upper left"),
        ((0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), "upper right"),  # a quarter turn clockwise
        ((0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30), "lower left"),
        ((-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30), "lower right"),
    ],
)
def test_frames_are_turned_as_the_file_says(tmp_path: Path, matrix: Sequence[int], corner: str) -> None:
    (frame,) = Video(write(tmp_path / "phone.mp4", matrix=matrix)).frames([1])
    image = frame.read()
    assert image.size == ((HEIGHT, WIDTH) if corner in ("upper right", "lower left") else (WIDTH, HEIGHT))
    across, down = image.size
    white = {
        name: image.getpixel(place)[0] > 200
        for name, place in {
            "upper left": (4, 4),
            "upper right": (across - 5, 4),
            "lower left": (4, down - 5),
            "lower right": (across - 5, down - 5),
        }.items()
    }
    assert white == {name: name == corner for name in white}


def test_a_picture_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimpse.gallery.video.MAX_PIXELS", 1000)
    video = write(tmp_path / "a.mp4", 1)
    assert numbers(Video(video), [1]) == {1: f"{video}, frame 1: is 64 x 48 pixels, too large"}


def test_pixels_that_cannot_be_made_colours_are_named() -> None:
    class Odd:
        is_corrupt, width, height, rotation = False, 64, 48, 0

        def to_ndarray(self, format: str) -> None:
            raise ValueError(f"no way to {format}")

    with pytest.raises(DataError, match=r"a\.mp4, frame 3: cannot be made a picture \(no way to rgb24\)"):
        _as_picture(Odd(), "a.mp4, frame 3")  # type: ignore[arg-type]


def test_files_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mp4: there is no such file"):
        Video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: cannot be read as a video \(Invalid data found"):
        Video(tmp_path / "text.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"a\.gif: cannot be read as a video"):
        Video(tmp_path / "a.gif")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    write(tmp_path / "a.ts")
    with pytest.raises(DataError, match=r"list\.m3u8: cannot be read as a video"):
        Video(tmp_path / "list.m3u8")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"sound\.mkv: shows nothing: there is no video stream in it"):
        Video(tmp_path / "sound.mkv")
