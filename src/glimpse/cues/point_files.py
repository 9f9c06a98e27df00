"""Key points in files that people already have: COCO, OpenPose, AlphaPose, npz.

Coordinates are taken as they are. Keys that are not named here may stand in these files and are passed over.
"""

from __future__ import annotations

import codecs
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy.typing as npt
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from glimpse.cues.people import People
from glimpse.cues.points import KeyPoints
from glimpse.cues.readers import CueFile, Reading, files_below, load_arrays, read_bytes, slashed
from glimpse.cues.skeleton import OPENPOSE_18, SKELETONS, Skeleton
from glimpse.errors import DataError, first_problem

_LAYOUT_REMEDY = "give key points in the layout of COCO, OpenPose or AlphaPose"
_Id = int | str
_Numbers = list[Annotated[float, Field(strict=True, allow_inf_nan=False)]]


class _Image(BaseModel):
    """One of COCO's `images`."""

    id: _Id
    file_name: str = Field(min_length=1)


class _Category(BaseModel):
    """One of COCO's `categories`."""

    id: int
    name: str = Field("declared", min_length=1)
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


class _Of(BaseModel):
    """Whose row it is: one of COCO's `annotations` or results."""

    image_id: _Id
    category_id: int | None = None


class _Flat(BaseModel):
    """The points of such a row."""

    keypoints: _Numbers


class _Person(BaseModel):
    """One of `people` (OpenPose) or `bodies` (AlphaPose)."""

    points: _Numbers = Field(validation_alias=AliasChoices("pose_keypoints_2d", "pose_keypoints", "joints"))


def read_points(
    path: str | Path, *, skeleton: Skeleton | None = None, images: str | Path | None = None
) -> CueFile[KeyPoints]:
    """Read key points of people in crops.

    The layout is told from the content:

    - COCO's data sets: `{"images", "annotations", "categories"}`. Visibility 0 becomes score 0; 1 and 2 become score 1.
      Images without annotations have nobody.
    - COCO's and AlphaPose's results: a list of `{"image_id", "keypoints"}`; the third number of a point is its score,
      which may exceed 1. `image_id` is the crop's name, or an id among `images`.
    - AlphaPose's results in OpenPose's layout: `{"a.jpg": {"people" or "bodies": [...]}, ...}`.
    - OpenPose: a folder of `NAME_keypoints.json`, or AlphaPose's of `NAME.json`, each `{"people" or "bodies": [...]}`;
      folders inside it are part of the names. Points lie under `pose_keypoints_2d`, `pose_keypoints` or `joints`.
    - npz: `names` `[n]` (text) and `points` `[n, k, 3]` or `[n, people, k, 3]`, where people without a point of a
      score above 0 only fill the array up; and `skeleton`, the name of a known one, or `point_names` `[k]`.

    Args:
        path: a file, or a folder of JSON files.
        skeleton: what the points are, needed where neither the file says it nor their number, which is 17 for COCO's,
            18 for OpenPose's, and 25 for OpenPose's `BODY_25`, of which the 18 are taken.
        images: for results whose `image_id` are numbers: the JSON file whose `images` say which crop each is.

    Returns:
        Key points by the names in the file, all by one skeleton. Rows that are wrong are left out and among its
        problems.

    Raises:
        DataError: the file cannot be read, its layout is none of these, or no row of it can be used.
    """
    people = People(Reading(str(path)), skeleton)
    if Path(path).suffix.lower() == ".npz":
        _read_npz(people, path)
        return people.done()
    names = {} if images is None else _image_names(people, str(images), _load(images))
    if not os.path.isdir(path):
        name = _bare(os.path.basename(path))
        _read_layout(people, str(path), _load(path), names, name)
        return people.done()
    files = files_below(path, ".json")
    if not files:
        remedy = "give the folder with NAME_keypoints.json or NAME.json, or a file"
        raise DataError(path, "holds no JSON file", remedy)
    for file in files:
        where = str(Path(path) / file)
        with people.reading.row(where):
            _read_layout(people, where, _load(where), names, _bare(file))
    return people.done()


def _bare(name: str) -> str:
    return posixpath.splitext(name)[0].removesuffix("_keypoints")


def _load(path: str | Path) -> object:
    data = read_bytes(path, "a JSON file or folder with key points").removeprefix(codecs.BOM_UTF8)
    try:
        return from_json(data)
    except ValueError as error:
        raise DataError(path, f"is not valid JSON ({error})", "write the file again") from error


def _read_layout(people: People, where: str, data: object, names: Mapping[_Id, str], name: str) -> None:
    """Read a JSON file of any layout; `name` is that of the crop, if it is of one."""
    if isinstance(data, list):
        for row, item in enumerate(data):
            with people.reading.row(f"{where}, [{row}]"):
                of = _whose(people, f"{where}, [{row}]", item, names)
                people.add(of[0], f"{where}, [{row}]", _Flat.model_validate(item).keypoints)
    elif not isinstance(data, dict):
        raise DataError(where, "is neither a list nor an object", _LAYOUT_REMEDY)
    elif "annotations" in data:
        _read_dataset(people, where, data, names)
    elif _bodies(data) is not None:
        _read_bodies(people, where, data, name)
    elif any(_bodies(value) is not None for value in data.values()):
        for crop, value in data.items():
            with people.reading.row(f"{where}, '{crop}'"):
                _read_bodies(people, f"{where}, '{crop}'", value, slashed(crop))
    else:
        shown = ", ".join(list(data)[:3]) or "nothing"
        cause = f"has neither annotations nor people nor bodies; found {shown}"
        raise DataError(where, cause, _LAYOUT_REMEDY)


def _bodies(value: object) -> object:
    """What stands under `people` or `bodies`; `None` if there is no such key."""
    return value.get("people", value.get("bodies")) if isinstance(value, dict) else None


def _read_bodies(people: People, where: str, value: object, name: str) -> None:
    """The people of one crop."""
    people.fallback = OPENPOSE_18
    bodies = _bodies(value)
    if not isinstance(bodies, list):
        raise DataError(where, "has no list of people or bodies", _LAYOUT_REMEDY)
    if name in people.seen:
        cause = f"is of '{name}', as is {people.reading.where.get(name, 'a row before')}"
        raise DataError(where, cause, "keep one of the two")
    people.seen.add(name)
    if not bodies:
        people.nobody(name, where)
    for row, body in enumerate(bodies):
        with people.reading.row(f"{where}, person {row}"):
            people.add(name, f"{where}, person {row}", _Person.model_validate(body).points)


def _read_dataset(people: People, where: str, data: Mapping[str, object], names: Mapping[_Id, str]) -> None:
    """COCO's layout of data sets."""
    declared = _declared(people, where, data.get("categories", []))
    images = _image_names(people, where, data) if "images" in data else {}
    names = {**names, **images}
    for row, item in enumerate(_listed(where, data, "annotations")):
        at = f"{where}, annotations[{row}]"
        with people.reading.row(at):
            name, category = _whose(people, at, item, names)
            numbers = _Flat.model_validate(item).keypoints
            if not set(numbers[2::3]) <= {0, 1, 2}:
                remedy = "write results, with scores, as a list of image_id and keypoints"
                raise DataError(at, "has a visibility that is none of 0, 1 and 2", remedy)
            numbers[2::3] = [float(flag > 0) for flag in numbers[2::3]]
            if category is None and len(declared) == 1:
                category = next(iter(declared))
            people.add(name, at, numbers, declared.get(category) if category is not None else None)
    people.fallback = next(iter(declared.values()), people.fallback)
    for name in dict.fromkeys(images.values()):
        if name not in people.seen:
            people.nobody(name, f"{where}, images ('{name}')")


def _declared(people: People, where: str, categories: object) -> dict[int, Skeleton]:
    """The skeleton of each of COCO's categories that has key points."""
    try:
        read = TypeAdapter(list[_Category]).validate_python(categories)
        return {one.id: _skeleton(people, where, one) for one in read if one.keypoints}
    except ValidationError as error:
        at, said = first_problem(error)
        cause = f"categories have a wrong field '{at}': {said}" if at else f"categories declare no skeleton: {said}"
        raise DataError(where, cause, "name each key point of a category once") from error


def _skeleton(people: People, where: str, category: _Category) -> Skeleton:
    points = tuple(name.strip().lower().replace(" ", "_").replace("-", "_") for name in category.keypoints)
    for known in SKELETONS.values():
        if known.points == points:
            return known
    bones = category.skeleton
    if not all(1 <= end <= len(points) for bone in bones for end in bone):
        # Bones are only drawn: the key points are as good without them.
        cause = f"the bones of '{category.name}' do not lie between 1 and {len(points)}, and are left out"
        people.reading.problems.append(DataError(where, cause, "count key points from 1 in categories.skeleton"))
        bones = ()
    return Skeleton(name=category.name, points=points, bones=tuple((points[a - 1], points[b - 1]) for a, b in bones))


def _whose(people: People, where: str, item: object, names: Mapping[_Id, str]) -> tuple[str, int | None]:
    """The name of the crop that a row is of, and its category."""
    of = _Of.model_validate(item)
    name = names.get(of.image_id)
    if not names and isinstance(of.image_id, str):
        name = slashed(of.image_id)
    if not name and names:
        cause = f"has the image_id {of.image_id!r}, which is none of the images"
        raise DataError(where, cause, "add it to images, or give the images file of these results")
    if not name:
        cause = f"has the image_id {of.image_id!r}, and nothing says which crop that is"
        raise DataError(where, cause, "pass images=, the JSON file with the id and file_name of each image")
    people.seen.add(name)
    return name, of.category_id


def _image_names(people: People, where: str, data: object) -> dict[_Id, str]:
    """What `images` call each id; a name stands for itself as well."""
    if not isinstance(data, dict) or "images" not in data:
        raise DataError(where, "has no images", "give a JSON file in COCO's layout, with the id and file_name of each")
    names: dict[_Id, str] = {}
    for row, item in enumerate(_listed(where, data, "images")):
        at = f"{where}, images[{row}]"
        with people.reading.row(at):
            image = _Image.model_validate(item)
            if image.id in names:
                raise DataError(at, f"has the id {image.id!r}, as an image before", "give each image an id of its own")
            names[image.id] = slashed(image.file_name)
    return {name: name for name in names.values()} | names


def _listed(where: str, data: Mapping[str, object], key: str) -> list[object]:
    value = data[key]
    if not isinstance(value, list):
        raise DataError(where, f"'{key}' is no list", _LAYOUT_REMEDY)
    return value


def _read_npz(people: People, path: str | Path) -> None:
    arrays = load_arrays(path)
    names, points = arrays.get("names"), arrays.get("points")
    if names is None or points is None:
        cause = f"has no array names or points; found {', '.join(arrays) or 'nothing'}"
        raise DataError(path, cause, "write names [n] and points [n, k, 3] or [n, people, k, 3]")
    if names.ndim != 1 or names.dtype.kind != "U":
        cause = f"names is an array {list(names.shape)} of {names.dtype}"
        raise DataError(path, cause, "write the names of the crops as text [n]")
    if points.ndim == 3:
        points = points[:, None]
    if points.ndim != 4 or len(points) != len(names) or points.shape[3] != 3 or points.dtype.kind not in "fiu":
        cause = f"points is an array {list(arrays['points'].shape)} of {points.dtype}, for {len(names)} names"
        raise DataError(path, cause, "write points [n, k, 3] or [n, people, k, 3]: x, y and score")
    declared = _said_by_arrays(path, arrays)
    for row, (name, values) in enumerate(zip(names.tolist(), points, strict=True)):
        where = f"{path}, row {row} ('{name}')"
        with people.reading.row(where):
            if not name or slashed(name) in people.seen:
                cause = "is of a crop that a row before is of" if name else "does not name its crop"
                raise DataError(where, cause, "give each crop one row and its name")
            people.seen.add(slashed(name))
            people.add_all(slashed(name), where, values[(values[..., 2] != 0).any(1)], declared)


def _said_by_arrays(path: str | Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Skeleton | None:
    """The skeleton that an npz file names or spells out."""
    if "skeleton" in arrays:
        name = str(arrays["skeleton"])
        if name not in SKELETONS:
            remedy = f"write one of {', '.join(SKELETONS)}, or the names of the points as point_names"
            raise DataError(path, f"has the skeleton '{name}', which is not known", remedy)
        return SKELETONS[name]
    if "point_names" not in arrays:
        return None
    points = tuple(map(str, arrays["point_names"].reshape(-1).tolist()))
    try:
        return next((known for known in SKELETONS.values() if known.points == points), None) or Skeleton(
            name=posixpath.splitext(os.path.basename(path))[0], points=points
        )
    except ValidationError as error:
        raise DataError(path, f"point_names: {first_problem(error)[1]}", "name each point once") from error
