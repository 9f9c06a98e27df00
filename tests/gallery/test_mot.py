from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import glimpse.gallery.mot as mot
from glimpse.data import Sample
from glimpse.errors import ConfigError, DataError
from glimpse.gallery.incoming import Incoming, pixel_content
from glimpse.gallery.mot import MotOptions, open_mot

WIDTH, HEIGHT = 60, 40
DET = "1,-1,10,5,20,30,0.9,-1,-1,-1\n"


def frame(number: int) -> Image.Image:
    """Red is the column, green the row, blue the number of the frame."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, number)], axis=-1))


def sequence(
    root: Path, boxes: str, *, file: str = "det/det.txt", frames: Iterable[int] = (1, 2, 3), info: str | None = None
) -> Path:
    """A sequence as the MOTChallenge lays it out; the path of its boxes."""
    folder = root / "MOT-07"
    (folder / "img1").mkdir(parents=True)
    for number in frames:
        frame(number).save(folder / "img1" / f"{number:06}.png")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(boxes)
    if info is not None:
        (folder / "seqinfo.ini").write_text(info)
    return folder / file


INFO = "[Sequence]\nname=MOT-07-FAST\nimDir=img1\nframeRate=25\nseqLength=3\nimWidth=60\nimHeight=40\nimExt=.png\n"


def good(crops: Iterable[Incoming | DataError]) -> list[Incoming]:
    found = list(crops)
    assert [crop for crop in found if isinstance(crop, DataError)] == []
    return [crop for crop in found if isinstance(crop, Incoming)]


def errors(crops: Iterable[Incoming | DataError]) -> list[DataError]:
    return [crop for crop in crops if isinstance(crop, DataError)]


def test_detections_of_a_sequence(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, "2,-1,0,0,60,40,0.5,-1,-1,-1\n" + DET + "1,-1,-5,-5,10.4,10.6,0.1,-1,-1,-1\n", info=INFO)
    crops = open_mot(boxes)
    first, corner, whole = good(crops)
    assert crops.notes == ()
    assert len(crops) == 3
    source = str(boxes.parent.parent / "img1" / "000001.png")
    assert (first.source, first.frame, first.box, first.time) == (source, 1, (10, 5, 30, 35), 0.0)
    assert (first.track, first.pid, first.camera, first.data) == (None, None, None, None)
    np.testing.assert_array_equal(np.asarray(first.read()), np.asarray(frame(1))[5:35, 10:30])
    assert first.content == pixel_content(frame(1).crop((10, 5, 30, 35)))
    assert corner.box == (0, 0, 5, 6)
    assert (whole.frame, whole.time, whole.read()) == (2, 1 / 25, frame(2))
    assert good(crops) == [first, corner, whole]


def test_results_name_tracks_and_times(tmp_path: Path) -> None:
    found = sequence(tmp_path, "", info=INFO)
    results = tmp_path / "results" / "bytetrack.txt"
    results.parent.mkdir()
    results.write_text("3 12 10 5 20 30 1 -1 -1 -1\n1 7.0 10 5 20 30 1 -1 -1 -1\n")  # some trackers write spaces
    options = MotOptions(camera="gate", start=100.0)
    crops = good(open_mot(results, found.parent.parent / "img1", options))
    assert [(c.track, c.time, c.camera, c.frame) for c in crops] == [
        ("MOT-07-FAST:7", 100.0, "gate", 1),
        ("MOT-07-FAST:12", 100.08, "gate", 3),
    ]
    crops = good(open_mot(results, found.parent.parent, MotOptions(name="street", rate=2.0)))
    assert [(c.track, c.time) for c in crops] == [("street:7", 0.0), ("street:12", 1.0)]


def test_without_seqinfo_the_folder_or_the_file_names_tracks(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, "1,7,10,5,20,30\n", file="det/det.txt")
    crops = open_mot(boxes)
    assert crops.notes == ("The frame rate is not known: no times are noted.",)
    assert [(c.track, c.time) for c in good(crops)] == [("MOT-07:7", None)]
    other = tmp_path / "tracks.txt"
    other.write_text("1,7,10,5,20,30\n")
    assert [c.track for c in good(open_mot(other, boxes.parent.parent / "img1"))] == ["tracks:7"]


TRUTH = "1,1,10,5,20,30,1,1,0.8\n1,2,10,5,20,30,1,3,0.8\n2,1,10,5,20,30,0,1,0.8\n2,4,10,5,20,30,1,1,0\n"


@pytest.mark.parametrize("file", ["gt/gt.txt", "half.txt"])
def test_of_ground_truth_only_pedestrians_that_count(tmp_path: Path, file: str) -> None:
    crops = open_mot(sequence(tmp_path, TRUTH, file=file, info=INFO))
    assert [c.track for c in good(crops)] == ["MOT-07-FAST:1", "MOT-07-FAST:4"]
    assert crops.notes == (
        "1 box left out: flagged as not to be considered.",
        "1 box left out: of other classes than 1 (pedestrians).",
    )


def test_what_ground_truth_is_can_be_said(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, TRUTH, info=INFO)
    assert len(open_mot(boxes)) == 2
    assert len(open_mot(boxes, options=MotOptions(truth=False))) == 4
    assert len(open_mot(boxes, options=MotOptions(truth=False, min_confidence=0.5))) == 3


def test_a_tracker_that_writes_classes_is_no_ground_truth(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, "1,1,10,5,20,30,0.7,0,-1\n1,2,10,5,20,30,1,0,-1\n", info=INFO)
    assert len(good(open_mot(boxes))) == 2


def test_ground_truth_without_classes_has_places_in_the_world(tmp_path: Path) -> None:
    text = "1,1,10,5,20,30,1,-9.6,9.8,0\n1,2,10,5,20,30,0,2,9.8,0\n"
    crops = open_mot(sequence(tmp_path, text, file="gt/gt.txt", info=INFO))
    assert [c.track for c in good(crops)] == ["MOT-07-FAST:1"]


def test_options_leave_boxes_out_and_notes_count_them(tmp_path: Path) -> None:
    text = "".join(
        f"{number},-1,10,5,20,{height},{confidence}\n"
        for number in range(1, 7)
        for height, confidence in ((30, 0.9), (30, 0.2), (10, 0.9))
    )
    boxes = sequence(tmp_path, text, frames=range(1, 7), info=INFO)
    crops = open_mot(boxes, options=MotOptions(min_confidence=0.5, min_height=20, every=2))
    assert [(c.frame, c.time) for c in good(crops)] == [(1, 0.0), (3, 0.08), (5, 0.16)]
    assert len(crops) == 3
    assert crops.notes == (
        "9 boxes left out: in frames that are passed over (every 2).",
        "3 boxes left out: confidence below 0.5.",
        "3 boxes left out: lower than 20 pixels.",
    )


def test_nothing_left_is_no_error(tmp_path: Path) -> None:
    crops = open_mot(sequence(tmp_path, DET, info=INFO), options=MotOptions(min_confidence=2))
    assert (len(crops), list(crops)) == (0, [])


def test_padding_is_a_share_of_the_box_and_is_clipped(tmp_path: Path) -> None:
    (crop,) = good(open_mot(sequence(tmp_path, DET, info=INFO), options=MotOptions(padding=0.1)))
    assert crop.box == (8, 2, 32, 38)
    (crop,) = good(open_mot(tmp_path / "MOT-07/det/det.txt", options=MotOptions(padding=0.5)))
    assert crop.box == (0, 0, 40, 40)
    np.testing.assert_array_equal(np.asarray(crop.read()), np.asarray(frame(1))[:, :40])


def test_each_frame_is_decoded_once_in_order_and_only_if_it_has_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    take = mot.read_image

    def counted(sample: Sample) -> Image.Image:
        read.append(sample.name)
        return take(sample)

    monkeypatch.setattr(mot, "read_image", counted)
    text = "".join(f"{number},-1,{left},5,20,30\n" for left in (1, 2) for number in (9, 1, 4))
    boxes = sequence(tmp_path, text, frames=range(1, 10), info=INFO)
    crops = open_mot(boxes)
    assert read == []
    assert [(c.frame, c.box[0]) for c in good(crops) if c.box] == [(1, 1), (1, 2), (4, 1), (4, 2), (9, 1), (9, 2)]
    assert sorted(read) == ["000001.png", "000004.png", "000009.png"]


def test_frames_in_a_zip(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, DET + "3,-1,0,0,60,40,1\n", info=INFO)
    whole, inside = tmp_path / "frames.zip", tmp_path / "all.zip"
    for path, names in ((whole, ("{}.png",)), (inside, ("a/img1/{}.png", "b/img1/frame_{}_.png"))):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                for number in (1, 2, 3):
                    file.write(boxes.parent.parent / "img1" / f"{number:06}.png", name.format(f"{number:06}"))
    expected = [crop.content for crop in good(open_mot(boxes))]
    for path, source in ((whole, "000001.png"), (inside / "a" / "img1", "000001.png"), (inside / "b", "img1/frame_")):
        crops = good(open_mot(boxes, path))
        assert [crop.content for crop in crops] == expected
        assert crops[0].source.startswith(f"{path}/{source}")
    with pytest.raises(DataError, match=r"all\.zip: holds pictures in several folders \(a/img1, b/img1\)"):
        open_mot(boxes, inside)


# What is wrong -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("1,-1,10,5,20", "has 5 values, and a box needs 6"),
        ("frame,id,left,top,width,height", "'frame' is not a number"),
        ("1,-1,10,,20,30,1", "'' is not a number"),
        ("1,-1,10,5,20,nan,1", "'nan' is not a finite number"),
        ("0,-1,10,5,20,30,1", "there is no frame 0: frames are counted from 1"),
        ("1.5,-1,10,5,20,30,1", "there is no frame 1.5: frames are counted from 1"),
        ("1,2.5,10,5,20,30,1", "2.5 is not the number of a track"),
        ("1,-1,10,5,0,30,1", "the box has no area: it is 0 x 30"),
        ("1,-1,10,5,20,-3,1", "the box has no area: it is 20 x -3"),
        ("1,-1,60,5,20,30,1", "the box 60, 5, 80, 35 holds nothing of the picture, which is 60 x 40 pixels"),
        ("1,-1,10,5,0.3,30,1", "the box 10, 5, 10.3, 35 holds nothing of the picture, which is 60 x 40 pixels"),
    ],
)
def test_a_bad_line_comes_as_its_error_and_the_others_still_come(tmp_path: Path, line: str, cause: str) -> None:
    boxes = sequence(tmp_path, f"{DET}\n{line}\n{DET}", info=INFO)
    crops = open_mot(boxes)
    found = list(crops)
    assert len(crops) == len(found) == 3
    (error,) = errors(found)
    assert (error.where, error.cause) == (f"{boxes}:3", cause)
    assert error.remedy


def test_a_frame_that_is_not_there_or_damaged_costs_its_own_boxes_only(tmp_path: Path) -> None:
    boxes = sequence(
        tmp_path, DET + "2,-1,1,1,9,9\n2,-1,2,2,9,9\n3,-1,1,1,9,9\n4,-1,1,1,9,9\n", info=INFO, frames=[1, 3, 4]
    )
    picture = boxes.parent.parent / "img1" / "000003.png"
    picture.write_bytes(picture.read_bytes()[:100])
    found = list(open_mot(boxes))
    assert [crop.frame for crop in found if isinstance(crop, Incoming)] == [1, 4]
    missing, damaged = errors(found)
    assert missing.where == f"{boxes}:2"
    assert missing.cause == (
        f"there is no frame 2 to cut 2 boxes from ({boxes.parent.parent / 'img1'}: there is no picture of that number)"
    )
    assert damaged.where == f"{boxes}:4"
    assert damaged.cause.startswith(f"there is no frame 3 to cut 1 box from ({picture}: the ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"det\.txt: has no lines.*a line is frame,id,left,top,width,height,confidence"),
        ("hello\n", r"det\.txt:1: has 1 value, and a box needs 6\. "),
        ("\nhello\nworld\n", r"det\.txt:2: has 1 value, and a box needs 6 \(and no other of 2 lines is right\)"),
    ],
)
def test_no_right_line_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_mot(sequence(tmp_path, text))


def test_boxes_that_cannot_be_read(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, DET)
    with pytest.raises(DataError, match=r"MOT-07: is a folder.*det/det.txt or gt/gt.txt"):
        open_mot(boxes.parent.parent)
    with pytest.raises(DataError, match=r"none\.txt: cannot be read \(No such file"):
        open_mot(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"000001\.png: is not text"):
        open_mot(boxes.parent.parent / "img1" / "000001.png")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("name=x\n", r"seqinfo\.ini: cannot be read \(File contains no section headers"),
        ("[Other]\nname=x\n", r"seqinfo\.ini: cannot be read \('Sequence'\)"),
        ("[Sequence]\nframeRate=fast\n", r"seqinfo\.ini, frameRate: 'fast' is no number of frames per second"),
        ("[Sequence]\nframeRate=0\n", r"seqinfo\.ini, frameRate: '0' is no number of frames per second"),
        ("[Sequence]\nimDir=frames\n", r"MOT-07/frames: there are no frames: no such folder"),
    ],
)
def test_a_bad_seqinfo_is_named(tmp_path: Path, info: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_mot(sequence(tmp_path, DET, info=info))


def test_frames_that_are_none(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, DET, info=INFO)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "late").mkdir()
    (tmp_path / "twice").mkdir()
    frame(1).save(tmp_path / "words" / "first.png")
    frame(1).save(tmp_path / "late" / "000101.png")
    frame(1).save(tmp_path / "twice" / "1.png")
    frame(1).save(tmp_path / "twice" / "01.png")
    for name, message in (
        ("none", "none: does not exist"),
        ("empty", "empty: holds no frames"),
        ("words", "words: holds no frames.*end in the number of the frame, such as 000001.jpg"),
        ("twice", r"twice: two pictures are frame 1: 01\.png and 1\.png"),
        (
            "late",
            r"no frame of any box in .*det\.txt is there: boxes begin with frame 1, pictures are numbered 101 to 101",
        ),
        ("late/000101.png", "is one picture, and not the frames of a sequence"),
    ):
        with pytest.raises(DataError, match=message):
            open_mot(boxes, tmp_path / name)


def test_pictures_numbered_from_0_are_noted(tmp_path: Path) -> None:
    crops = open_mot(sequence(tmp_path, DET, info=INFO, frames=[0, 1]))
    assert crops.notes == ("Pictures are numbered from 0 and boxes from 1: box and picture of one number go together.",)
    assert good(crops)[0].read().getpixel((0, 0)) == (10, 5, 1)


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("every", 0, "give a finite number from 1"),
        ("padding", -0.1, "give a finite number from 0"),
        ("min_height", float("nan"), "give a finite number from 0"),
        ("min_confidence", float("inf"), "give a finite number"),
        ("start", float("nan"), "give a finite number"),
        ("rate", 0.0, "give frames per second, above 0"),
    ],
)
def test_options_out_of_range(option: str, value: float, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        MotOptions(**{option: value})  # type: ignore[arg-type]
    assert (error.value.where, error.value.cause) == (option, f"{value} is out of range")
    assert error.value.remedy == remedy


def test_a_confidence_is_asked_of_boxes_that_have_none(tmp_path: Path) -> None:
    boxes = sequence(tmp_path, f"{DET}1,1,10,5,20,30\n", info=INFO)
    with pytest.raises(ConfigError, match=r"min_confidence: the box in .*det\.txt:2 has no confidence"):
        open_mot(boxes, options=MotOptions(min_confidence=0.5))
    boxes.write_text(TRUTH)
    with pytest.raises(ConfigError, match="is ground truth and has no confidence"):
        open_mot(boxes, options=MotOptions(min_confidence=0.5))


def test_a_video_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = sequence(tmp_path, DET)
    (tmp_path / "a.mp4").write_bytes(b"a video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"a\.mp4 is a video, and PyAV is not installed.*glimpse-reid\[video\]"):
        open_mot(boxes, tmp_path / "a.mp4")
