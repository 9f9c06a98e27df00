"""Key points of COCO, OpenPose, AlphaPose and npz come in as they are; what is wrong is said."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse.cues.people import BODY_25
from glimpse.cues.point_files import read_points
from glimpse.cues.readers import matched
from glimpse.cues.skeleton import COCO_17, OPENPOSE_18, Skeleton
from glimpse.errors import DataError


def flat(k: int, x: float = 10, score: float = 0.5) -> list[float]:
    """`k` points at (x, 20), (x + 1, 21) ..."""
    return [number for row in range(k) for number in (x + row, 20 + row, score)]


def write(folder, data, name="poses.json") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return str(path)


def said(path, **options) -> tuple[str, str]:
    """What is wrong with the whole file: where in it, and why."""
    with pytest.raises(DataError) as error:
        read_points(path, **options)
    assert error.value.remedy
    assert not error.value.remedy.endswith(".")
    return error.value.where.removeprefix(str(path)), error.value.cause


def dataset(*annotations, **more):
    images = [{"id": n, "file_name": f"query\\{name}.jpg", "height": 128} for n, name in enumerate("ab", start=1)]
    return {"info": {}, "images": images, "annotations": list(annotations), **more}


# ---------------------------------------------------------------- COCO's data sets


def test_a_coco_dataset_tells_labelled_from_unlabelled(tmp_path):
    keypoints = flat(17, score=2)
    keypoints[2], keypoints[5] = 0, 1
    categories = [
        {"id": 1, "name": "person", "keypoints": list(COCO_17.points), "skeleton": [[16, 14]]},
        {"id": 2, "name": "dog"},
    ]
    row = {"id": 7, "image_id": 1, "category_id": 1, "keypoints": keypoints, "num_keypoints": 16, "bbox": [0, 0, 1, 1]}
    file = read_points(write(tmp_path, dataset(row, {**row, "id": 8}, categories=categories)))
    assert list(file.found) == ["query/a.jpg", "query/b.jpg"]
    points = file.found["query/a.jpg"]
    assert (points.people, points.skeleton) == (2, COCO_17)
    np.testing.assert_array_equal(points.values[0, :, 2], [0] + [1] * 16)
    np.testing.assert_array_equal(points.values[1, :, :2], np.reshape(keypoints, (17, 3))[:, :2])
    assert file.found["query/b.jpg"].people == 0  # listed, and nobody there
    assert file.found["query/b.jpg"].skeleton == COCO_17
    assert file.problems == ()
    assert file.where["query/a.jpg"].endswith("poses.json, annotations[0]")
    assert file.where["query/b.jpg"].endswith("poses.json, images ('query/b.jpg')")


def test_a_declared_skeleton_is_taken_whatever_its_number(tmp_path):
    category = {"id": 3, "name": "puppet", "keypoints": ["Head", "left hand", "right-hand"], "skeleton": [[1, 2]]}
    row = {"image_id": 2, "category_id": 3, "keypoints": flat(3, score=1)}
    for one in (row, {"image_id": 2, "keypoints": flat(3, score=1)}):
        skeleton = read_points(write(tmp_path, dataset(one, categories=[category]))).found["query/b.jpg"].skeleton
        assert skeleton == Skeleton(
            name="puppet", points=("head", "left_hand", "right_hand"), bones=(("head", "left_hand"),)
        )
        assert skeleton.swap == ((1, 2),)
    zero_based = {**category, "skeleton": [[0, 1]]}
    file = read_points(write(tmp_path, dataset(row, categories=[zero_based])))
    assert file.found["query/b.jpg"].skeleton.bones == ()
    assert file.problems[0].cause == "the bones of 'puppet' do not lie between 1 and 3, and are left out"
    empty = read_points(write(tmp_path, dataset(categories=[category])))
    assert [len(points.skeleton) for points in empty.found.values()] == [3, 3]


def test_wrong_annotations_are_left_out_and_named(tmp_path):
    good = {"image_id": 1, "keypoints": flat(17, score=2)}
    rows = [
        good,
        {"image_id": 9, "keypoints": flat(17, score=2)},
        {"image_id": 2},
        {"image_id": 2, "keypoints": [*flat(17, score=2), 1]},
        {"image_id": 2, "keypoints": flat(17, score=0.9)},
        {"image_id": 2, "keypoints": flat(18, score=1)},
        {"image_id": 2, "keypoints": flat(27, score=1)},
        {"image_id": 2, "keypoints": ["1", 2, 2]},
        {"keypoints": []},
        "row",
    ]
    file = read_points(write(tmp_path, dataset(*rows)))
    assert list(file.found) == ["query/a.jpg"]  # of b something was said, but nothing that holds
    found = [(re.sub(r".*poses.json, ", "", one.where), one.cause) for one in file.problems]
    assert found == [
        ("annotations[1]", "has the image_id 9, which is none of the images"),
        ("annotations[2]", "field 'keypoints': field required"),
        ("annotations[3]", "has 52 numbers, which are not x, y and score of so many points"),
        ("annotations[4]", "has a visibility that is none of 0, 1 and 2"),
        ("annotations[5]", "is by 'openpose-18' (18 points), and the rows before are by 'coco-17'"),
        ("annotations[6]", "has 27 key points, and nothing says which"),
        ("annotations[7]", "field 'keypoints.0': input should be a valid number"),
        ("annotations[8]", "field 'image_id': field required"),
        ("annotations[9]", "is no object with fields"),
    ]
    assert all(one.remedy for one in file.problems)


def test_wrong_images_and_categories_are_named(tmp_path):
    row = {"image_id": 1, "category_id": 1, "keypoints": flat(17, score=2)}
    data = dataset(row)
    data["images"] += [{"id": 1, "file_name": "c.jpg"}, {"id": 3}]
    file = read_points(write(tmp_path, data))
    assert list(file.found) == ["query/a.jpg", "query/b.jpg"]
    assert [(one.where.split(", ")[-1], one.cause) for one in file.problems] == [
        ("images[2]", "has the id 1, as an image before"),
        ("images[3]", "field 'file_name': field required"),
    ]
    assert said(write(tmp_path, dataset(row, images=3))) == ("", "'images' is no list")
    assert said(write(tmp_path, {"annotations": 3})) == ("", "'annotations' is no list")
    twice = [{"id": 1, "keypoints": ["a", "a"]}]
    cause = "categories declare no skeleton: a point is named twice"
    assert said(write(tmp_path, dataset(row, categories=twice))) == ("", cause)
    cause = "categories have a wrong field '0.id': field required"
    assert said(write(tmp_path, dataset(row, categories=[{}]))) == ("", cause)


# ---------------------------------------------------------------- results of COCO and AlphaPose


@pytest.mark.parametrize(("k", "skeleton"), [(17, COCO_17), (18, OPENPOSE_18)])
def test_results_keep_their_scores_and_people_of_a_crop_come_together(tmp_path, k, skeleton):
    rows = [
        {"image_id": "a.jpg", "category_id": 1, "keypoints": flat(k, 10, 3.5), "score": 2.9, "idx": [0.0]},
        {"image_id": "b.jpg", "keypoints": flat(k, 30)},
        {"image_id": "a.jpg", "keypoints": flat(k, 50, 0)},
    ]
    file = read_points(write(tmp_path, rows))
    assert [(name, points.people) for name, points in file.found.items()] == [("a.jpg", 2), ("b.jpg", 1)]
    assert file.found["a.jpg"].skeleton == skeleton
    expected = np.reshape([flat(k, 10, 3.5), flat(k, 50, 0)], (2, k, 3))
    np.testing.assert_array_equal(file.found["a.jpg"].values, expected.astype(np.float32))


def test_numbers_of_images_are_looked_up_in_the_images_file(tmp_path):
    rows = [{"image_id": 2, "keypoints": flat(17)}, {"image_id": "query/a.jpg", "keypoints": flat(17)}]
    path = write(tmp_path, rows)
    images = write(tmp_path, dataset(), "images.json")
    assert list(read_points(path, images=images).found) == ["query/b.jpg", "query/a.jpg"]
    file = read_points(path)
    assert list(file.found) == ["query/a.jpg"]
    assert str(file.problems[0]) == (
        f"{path}, [0]: has the image_id 2, and nothing says which crop that is. "
        "Remedy: pass images=, the JSON file with the id and file_name of each image."
    )
    path = write(tmp_path, [{"image_id": "c.jpg", "keypoints": flat(17)}])
    assert said(path, images=images) == (
        ", [0]",
        "has the image_id 'c.jpg', which is none of the images; nothing else can be used",
    )
    with pytest.raises(DataError, match=r"poses\.json: has no images"):
        read_points(path, images=path)


def test_the_caller_says_what_points_are_that_nothing_else_tells(tmp_path):
    puppet = Skeleton(name="puppet", points=("head", "left_hand", "right_hand"))
    path = write(tmp_path, [{"image_id": "a.jpg", "keypoints": flat(3)}, {"image_id": "b.jpg", "keypoints": flat(3)}])
    assert read_points(path, skeleton=puppet).found["a.jpg"].skeleton == puppet
    cause = "has 3 key points, and nothing says which (and 1 more); nothing else can be used"
    assert said(path) == (", [0]", cause)
    seventeen = Skeleton(name="other", points=tuple(f"p{n}" for n in range(17)))
    path = write(tmp_path, [{"image_id": "a.jpg", "keypoints": flat(17)}])
    assert read_points(path, skeleton=seventeen).found["a.jpg"].skeleton == seventeen
    cause = "is by 'coco-17' (17 points), and skeleton= is 'openpose-18'; nothing else can be used"
    assert said(path, skeleton=OPENPOSE_18) == (", [0]", cause)
    category = {"id": 1, "name": "person", "keypoints": list(COCO_17.points)}
    row = {"image_id": 1, "category_id": 1, "keypoints": flat(17, score=1)}
    path = write(tmp_path, dataset(row, categories=[category]))
    assert "skeleton= is 'other'" in read_points(path, skeleton=seventeen).problems[0].cause


# ---------------------------------------------------------------- OpenPose's layout


def test_a_folder_of_openpose_has_a_crop_per_file(tmp_path):
    write(tmp_path, {"version": 1.3, "people": []}, "query/a_keypoints.json")
    write(tmp_path, {"people": [{"pose_keypoints_2d": flat(18), "face_keypoints_2d": []}] * 2}, "b_keypoints.json")
    write(tmp_path, {"people": [{"pose_keypoints": flat(18, 30)}]}, "old.json")
    write(tmp_path, {"bodies": [{"joints": flat(18)}]}, "sep/c.v2.json")
    (tmp_path / "readme.txt").touch()
    file = read_points(tmp_path)
    assert {name: points.people for name, points in file.found.items()} == {
        "query/a": 0,
        "b": 2,
        "old": 1,
        "sep/c.v2": 1,
    }
    assert {points.skeleton.name for points in file.found.values()} == {"openpose-18"}
    assert file.found["old"].values[0, 0].tolist() == [30, 20, 0.5]
    crops = {"x/query/a.jpg": 1, "x/b.jpg": 2, "x/sep/c.v2.jpg": 3}
    assert sorted(matched(file, crops).found) == sorted(crops)


@pytest.mark.parametrize("number", [26, 133, 136])
def test_of_more_points_than_cocos_the_first_17_are_cocos(tmp_path, number):
    file = read_points(write(tmp_path, [{"image_id": "a.jpg", "keypoints": flat(number), "score": 1}]))
    points = file.found["a.jpg"]
    assert points.skeleton == COCO_17
    assert points.values[0, :, 0].tolist() == [10 + row for row in range(17)]


def test_the_25_points_of_openpose_become_its_18(tmp_path):
    write(tmp_path, {"people": [{"pose_keypoints_2d": flat(25, 100)}]}, "a_keypoints.json")
    points = read_points(tmp_path).found["a"]
    assert points.skeleton == OPENPOSE_18
    for name in OPENPOSE_18.points:
        assert points.values[0, OPENPOSE_18.row(name), 0] == 100 + BODY_25.row(name)
    # As OpenPose documents its output.
    places = {"mid_hip": 8, "right_hip": 9, "left_ankle": 14, "left_ear": 18, "left_big_toe": 19, "right_heel": 24}
    assert {name: BODY_25.row(name) for name in places} == places


def test_all_crops_of_alphapose_may_lie_in_one_file(tmp_path):
    data = {
        "a.jpg": {"version": "AlphaPose v0.2", "people": [{"pose_keypoints_2d": flat(18)}]},
        "b.jpg": {"version": "AlphaPose v0.2", "bodies": [{"joints": flat(18)}, {"joints": flat(18)}]},
        "c.jpg": {"bodies": []},
        "d.jpg": {"bodies": [{"joints": flat(18)}, {"joint": flat(18)}]},
        "e.jpg": {"bodies": 3},
        "f.jpg": 3,
    }
    file = read_points(write(tmp_path, data))
    assert {name: points.people for name, points in file.found.items()} == {
        "a.jpg": 1,
        "b.jpg": 2,
        "c.jpg": 0,
        "d.jpg": 1,
    }
    assert [(one.where.split("poses.json")[-1], one.cause) for one in file.problems] == [
        (", 'd.jpg', person 1", "field 'pose_keypoints_2d': field required"),
        (", 'e.jpg'", "has no list of people or bodies"),
        (", 'f.jpg'", "has no list of people or bodies"),
    ]


def test_one_crop_may_be_given_alone(tmp_path):
    path = write(tmp_path, {"people": [{"pose_keypoints_2d": flat(18)}]}, "0001_c1.json")
    assert list(read_points(path).found) == ["0001_c1"]
    assert read_points(write(tmp_path, {"people": []}, "b.json")).found["b"].skeleton == OPENPOSE_18


def test_files_of_a_folder_that_are_wrong_do_not_cost_the_others(tmp_path):
    write(tmp_path, {"people": [{"pose_keypoints_2d": flat(18)}]}, "a_keypoints.json")
    write(tmp_path, {"people": [{"pose_keypoints_2d": flat(18)}]}, "a.json")
    (tmp_path / "b.json").write_text("{")
    write(tmp_path, {"shapes": []}, "c.json")
    write(tmp_path, 3, "d.json")
    file = read_points(tmp_path)
    assert list(file.found) == ["a"]
    assert [(one.where.removeprefix(f"{tmp_path}/"), one.cause) for one in file.problems] == [
        ("a_keypoints.json", f"is of 'a', as is {tmp_path}/a.json, person 0"),
        ("b.json", "is not valid JSON (EOF while parsing an object at line 1 column 1)"),
        ("c.json", "has neither annotations nor people nor bodies; found shapes"),
        ("d.json", "is neither a list nor an object"),
    ]


# ---------------------------------------------------------------- whole files


def test_files_that_cannot_be_used_are_named(tmp_path):
    assert said(tmp_path / "none.json") == ("", "cannot be read (No such file or directory)")
    (tmp_path / "text.json").write_text("x,y\n1,2\n")
    assert said(tmp_path / "text.json")[1].startswith("is not valid JSON (expected value")
    (tmp_path / "latin.json").write_bytes(b'[{"image_id": "\xe4.jpg"}]')
    assert said(tmp_path / "latin.json")[1].startswith("is not valid JSON (invalid unicode")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert said(tmp_path / "deep.json")[1].startswith("is not valid JSON (recursion limit")
    assert said(write(tmp_path, [])) == ("", "has no rows")
    assert said(write(tmp_path, {})) == ("", "has neither annotations nor people nor bodies; found nothing")
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == ("", "holds no JSON file")
    (tmp_path / "bom.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps([{"image_id": "a", "keypoints": flat(17)}]).encode()
    )
    assert list(read_points(tmp_path / "bom.json").found) == ["a"]


def test_values_that_are_no_places_are_named(tmp_path):
    for value, cause in (
        ("NaN", "field 'keypoints.0': input should be a finite number"),
        ("1e999", "field 'keypoints.0': input should be a finite number"),
        ("1e300", "key points have a value that is not finite, or a score below 0"),
        ("true", "field 'keypoints.0': input should be a valid number"),
        ("null", "field 'keypoints.0': input should be a valid number"),
    ):
        numbers = json.dumps(flat(17)).replace("10,", f"{value},", 1)
        path = tmp_path / "odd.json"
        path.write_text(f'[{{"image_id": "a", "keypoints": {numbers}}}]')
        assert said(path) == (", [0]", f"{cause}; nothing else can be used")
    cause = "key points have a value that is not finite, or a score below 0; nothing else can be used"
    assert said(write(tmp_path, [{"image_id": "a", "keypoints": flat(17, score=-1)}])) == (", [0]", cause)


def test_shares_of_a_picture_are_not_taken_for_pixels(tmp_path):
    shares = [0.5, 0.25, 0.9] * 18
    write(tmp_path, {"people": [{"pose_keypoints_2d": shares}]}, "a_keypoints.json")
    where, cause = said(tmp_path)
    assert (where, cause) == ("", "has all key points between -1 and 1, which are shares of a picture and not pixels")
    write(tmp_path, {"people": [{"pose_keypoints_2d": flat(18)}]}, "b_keypoints.json")
    assert len(read_points(tmp_path).found) == 2


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "people",
                        "bodies",
                        "annotations",
                        "images",
                        "categories",
                        "image_id",
                        "keypoints",
                        "joints",
                        "x.jpg",
                    ]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_nothing_ends_in_another_error(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("odd"), data)
    try:
        found = read_points(path).found
    except DataError as error:
        found = error.where.startswith(path)
    assert found


# ---------------------------------------------------------------- npz


def test_npz_holds_one_person_or_several_per_crop(tmp_path):
    path = tmp_path / "poses.npz"
    points = np.arange(2 * 2 * 17 * 3, dtype=float).reshape(2, 2, 17, 3)
    points[1, 1] = 0
    np.savez(path, names=np.array(["a.jpg", "q\\b.jpg"]), points=points)
    file = read_points(path)
    np.testing.assert_array_equal(file.found["a.jpg"].values, points[0])
    np.testing.assert_array_equal(file.found["q/b.jpg"].values, points[1, :1])
    np.savez(path, names=np.array(["a.jpg", "b.jpg"]), points=points[:, 1], skeleton="coco-17")
    assert [points.people for points in read_points(path).found.values()] == [1, 0]
    names = np.array(["head", "left_hand", "right_hand"])
    np.savez(path, names=np.array(["a.jpg"]), points=points[:1, :, :3], point_names=names)
    assert read_points(path).found["a.jpg"].skeleton == Skeleton(name="poses", points=tuple(names.tolist()))
    np.savez(path, names=np.array(["a.jpg"]), points=points[:1], point_names=np.array(COCO_17.points))
    assert read_points(path).found["a.jpg"].skeleton == COCO_17


def test_wrong_rows_of_npz_are_left_out_and_named(tmp_path):
    path = tmp_path / "poses.npz"
    points = np.full((4, 17, 3), 9.0)
    points[1, 3] = np.nan
    np.savez(path, names=np.array(["a.jpg", "b.jpg", "a.jpg", ""]), points=points)
    file = read_points(path)
    assert list(file.found) == ["a.jpg"]
    assert [(one.where.removeprefix(f"{path}, "), one.cause) for one in file.problems] == [
        ("row 1 ('b.jpg')", "key points have a value that is not finite, or a score below 0"),
        ("row 2 ('a.jpg')", "is of a crop that a row before is of"),
        ("row 3 ('')", "does not name its crop"),
    ]


@pytest.mark.parametrize(
    ("arrays", "cause"),
    [
        ({"points": np.ones((1, 17, 3))}, "has no array names or points; found points"),
        ({}, "has no array names or points; found nothing"),
        ({"names": np.array([1])}, "names is an array [1] of int64"),
        ({"names": np.array([["a"]])}, "names is an array [1, 1] of <U1"),
        ({"points": np.ones((2, 17, 3))}, "points is an array [2, 17, 3] of float64, for 1 names"),
        ({"points": np.ones((1, 17, 2))}, "points is an array [1, 17, 2] of float64, for 1 names"),
        ({"points": np.ones((1, 51))}, "points is an array [1, 51] of float64, for 1 names"),
        ({"points": np.full((1, 17, 3), "x")}, "points is an array [1, 17, 3] of <U1, for 1 names"),
        ({"skeleton": "body-25"}, "has the skeleton 'body-25', which is not known"),
        ({"point_names": np.array(["a", "a"])}, "point_names: a point is named twice"),
        ({"skeleton": "openpose-18"}, "key points have the shape [1, 17, 3], and 'openpose-18' has 18 points"),
        ({"points": np.full((1, 27, 3), 9)}, "has 27 key points, and nothing says which"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, cause):
    whole = {"names": np.array(["a.jpg"]), "points": np.full((1, 17, 3), 9.0)}
    given_arrays = arrays if cause.startswith("has no array") else whole | arrays
    np.savez(tmp_path / "poses.npz", **given_arrays)
    assert said(tmp_path / "poses.npz")[1].removesuffix("; nothing else can be used") == cause
