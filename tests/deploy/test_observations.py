"""Messages against what a policy reads: names in both spellings, pictures in both layouts, one sentence per mistake."""

from typing import Any

import numpy as np
import pytest

from hlrp.deploy.observations import Input, ObservationReader
from hlrp.deploy.protocol import MessageError

TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"
INPUTS = {
    TOP: Input((3, 4, 6), True),
    STATE: Input((2,), False),
    "observation.images.empty_camera_0": Input((3, 4, 6), True, empty=True),
}
PICTURE = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
NUMBERS = np.array([1.5, -2.0])
GOOD: dict[str, Any] = {TOP: PICTURE, STATE: NUMBERS}


def reader(**changed: Any) -> ObservationReader:
    return ObservationReader(**{"inputs": INPUTS, "rename": {}, "resizes": False, "language": False, **changed})


@pytest.mark.parametrize(
    "message",
    [
        GOOD,
        {"observation/images/top": PICTURE, "observation/state": NUMBERS},
        {"images": {"top": PICTURE.transpose(2, 0, 1)}, "state": NUMBERS.tolist()},
        {"observation": {"images.top": PICTURE, "state": NUMBERS.astype(np.float32)}},
    ],
)
def test_names_and_layouts_of_both_worlds(message: dict[str, Any]) -> None:
    found = reader().read(message)
    assert found.arrays.keys() == {TOP, STATE} and found.unknown == () and not found.reset
    assert np.array_equal(found.arrays[TOP], PICTURE.transpose(2, 0, 1)) and found.arrays[TOP].flags.writeable
    assert found.arrays[STATE].dtype == np.float32 and found.arrays[STATE].tolist() == [1.5, -2.0]


def test_a_renamed_camera_is_asked_for_by_the_name_of_the_client() -> None:
    renamed = reader(rename={"observation.images.front": TOP})
    assert renamed.names[TOP] == "observation.images.front"
    assert renamed.read({"images/front": PICTURE, "state": NUMBERS}).arrays.keys() == {
        "observation.images.front",
        STATE,
    }
    assert renamed.read(GOOD).arrays.keys() == {TOP, STATE}
    with pytest.raises(MessageError, match="are the same input"):
        renamed.read({**GOOD, "images/front": PICTURE})


def test_an_only_camera_may_have_no_name_on_either_side() -> None:
    unnamed = "observation.image"
    found = reader().read({"observation/image": PICTURE, "state": NUMBERS})
    assert found.arrays.keys() == {TOP, STATE} and found.unknown == ()
    assert np.array_equal(found.arrays[TOP], PICTURE.transpose(2, 0, 1))
    assert found.renamed == f"camera {unnamed} is taken for {TOP}: there is one on each side"
    old = reader(inputs={unnamed: INPUTS[TOP], STATE: INPUTS[STATE]})
    assert old.read({"images/top": PICTURE, "state": NUMBERS}).arrays.keys() == {unnamed, STATE}
    # The preprocessor was told of one name when the policy was loaded: under that one the picture has to come.
    saved = reader(rename={unnamed: TOP})
    assert saved.read({"images/front": PICTURE, "state": NUMBERS}).arrays.keys() == {unnamed, STATE}
    assert reader().read(GOOD).renamed is None
    with pytest.raises(MessageError, match=r"lacks observation\.images\.top; not known: 'images/front'"):
        reader().read({"images/front": PICTURE, "state": NUMBERS})
    with pytest.raises(MessageError, match=r"lacks observation\.images\.top; not known: 'image', 'images/wrist'"):
        reader().read({"image": PICTURE, "images/wrist": PICTURE, "state": NUMBERS})


def test_resets_controls_prompts_and_what_is_not_known() -> None:
    assert reader().read({"reset": True}) == reader().read({"reset": np.bool_(True)})
    assert reader().read({"reset": True}).reset and not reader().read({"reset": True}).arrays
    assert reader().read({**GOOD, "reset": True}).reset and reader().read({**GOOD, "reset": True}).arrays
    assert reader().read({"__ctrl__": "episode_start", "__task__": "x"}).control == "episode_start"
    assert reader().read({**GOOD, "prompt": "push"}).prompt == reader().read({**GOOD, "task": "push"}).prompt == "push"
    assert reader(task="pull").read(GOOD).prompt == "pull" and reader().read(GOOD).prompt == ""
    assert reader().read({**GOOD, WRIST: PICTURE, "x": 1}).unknown == (repr(WRIST), "'x'")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({TOP: PICTURE[:2]}, "6x2 pixels (width x height), the policy was trained on 6x4 and does not resize"),
        ({TOP: PICTURE.astype(np.float32)}, "is a picture: uint8 [H, W, 3] or [3, H, W], not float32 [4, 6, 3]"),
        ({TOP: PICTURE[None]}, "not uint8 [1, 4, 6, 3]"),
        ({TOP: PICTURE[:, :, :2]}, "has 3 channels, first or last, not the shape [4, 6, 2]"),
        ({TOP: np.zeros((3, 9, 3), np.uint8)}, "has 3 channels, first or last, not the shape [3, 9, 3]"),
        ({TOP: PICTURE[:0]}, "not uint8 [0, 6, 3]"),
        ({TOP: "picture"}, "not str"),
        ({STATE: [1.0, float("nan")]}, "not finite"),
        ({STATE: np.array([1e300, 0])}, "not finite"),
        ({STATE: [10**400, 0]}, "not finite"),
        ({STATE: [1.0]}, "has the shape [1], the policy takes [2]"),
        ({STATE: NUMBERS[None]}, "has the shape [1, 2], the policy takes [2]"),
        ({STATE: ["1", "2"]}, "is an array of numbers, not list"),
        ({STATE: {"deep": {"er": {"and": {"on": 1}}}}}, "maps lie at most 4 deep"),
        ({"reset": 1}, "reset is true or false, not 1"),
        ({"__ctrl__": ["a"]}, "__ctrl__ is ['a']"),
        ({"prompt": "a", "task": "b"}, "not both"),
        ({"prompt": b"a"}, "'prompt' is a text"),
        ({"prompt": "a" * 5000}, "at most 4096 characters"),
        ({"state": NUMBERS}, "are the same input"),
        ({"a": {"b": 1}, "a/b": 2}, "'a/b' is there twice"),
        ({b"x": 1}, "names are text, not b'x'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(changed: dict[Any, Any], said: str) -> None:
    with pytest.raises(MessageError) as refused:
        reader().read({**GOOD, **changed})
    assert said in str(refused.value)


def test_what_is_missing_is_named_as_the_client_knows_it() -> None:
    with pytest.raises(MessageError, match=r"lacks observation\.images\.front; not known: 'images/frnt'"):
        reader(rename={"observation.images.front": TOP}).read({"images/frnt": PICTURE, "state": NUMBERS})
    with pytest.raises(MessageError, match="reads an instruction: send it as 'prompt'"):
        reader(language=True).read(GOOD)
    with pytest.raises(MessageError, match="is a map of names to arrays, not list"):
        reader().read([1, 2])


def test_a_policy_that_resizes_takes_any_size() -> None:
    assert reader(resizes=True).read({**GOOD, TOP: PICTURE[:2]}).arrays[TOP].shape == (3, 2, 6)
    square = np.zeros((3, 6, 3), np.uint8)
    wide = {TOP: Input((3, 3, 6), True), STATE: INPUTS[STATE]}
    # Three rows: the trained size tells that the channels are last.
    assert reader(inputs=wide).read({TOP: square, STATE: NUMBERS}).arrays[TOP].shape == (3, 3, 6)


def test_of_cameras_that_can_lack_one_has_to_be_there() -> None:
    two = reader(inputs={TOP: Input((3, 4, 6), True, True), WRIST: Input((3, 4, 6), True, True), STATE: INPUTS[STATE]})
    assert two.read({WRIST: PICTURE, STATE: NUMBERS}).arrays.keys() == {WRIST, STATE}
    with pytest.raises(MessageError, match=f"lacks {TOP}, {WRIST}$"):
        two.read({STATE: NUMBERS})
    with pytest.raises(MessageError, match=f"lacks {STATE}$"):
        two.read({TOP: PICTURE})
