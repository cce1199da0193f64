"""What goes without saying of cameras' names, and what has to be said."""

import pytest

from hlrp.camera_names import full_name, known_as, rename_pairs, suggest_camera, with_only_camera

UNNAMED, TOP, FRONT = "observation.image", "observation.images.top", "observation.images.front"
WRIST, STATE = "observation.images.left.wrist", "observation.state"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("front", FRONT),
        (FRONT, FRONT),
        ("left.wrist", WRIST),
        ("wrist", WRIST),
        ("ront", None),
    ],
)
def test_the_end_of_a_name_is_enough(asked: str, found: str | None) -> None:
    assert full_name(asked, [FRONT, WRIST]) == found


def test_the_end_of_two_names_is_not_enough() -> None:
    both = [WRIST, "observation.images.right.wrist"]
    assert full_name("wrist", both) is None
    assert full_name("right.wrist", both) == both[1]
    assert suggest_camera("wirst", both).startswith("known: observation.images.left.wrist")
    assert suggest_camera("frnt", [FRONT, TOP]) == "did you mean 'front'?"


@pytest.mark.parametrize(
    ("given", "wanted", "rename", "expected"),
    [
        # An old policy in a simulator that names its camera, and the other way round.
        ([TOP, STATE], [UNNAMED, STATE], {}, {TOP: UNNAMED}),
        ([UNNAMED], [TOP, STATE], {}, {UNNAMED: TOP}),
        # Cameras that are asked for but never given do not count.
        ([TOP], [UNNAMED, "observation.images.empty_camera_0"], {}, {TOP: UNNAMED}),
        # A policy that was started from another one: its map says what its data called the camera.
        ([TOP], [FRONT], {UNNAMED: FRONT, "a": "b"}, {TOP: FRONT, "a": "b"}),
    ],
)
def test_the_only_camera_of_both_sides(
    given: list[str], wanted: list[str], rename: dict[str, str], expected: dict[str, str]
) -> None:
    said: list[str] = []
    assert with_only_camera(given, wanted, rename, said.append) == expected
    assert said == [f"camera {given[0]} is taken for {wanted[0]}: there is one on each side"]


@pytest.mark.parametrize(
    ("given", "wanted", "rename"),
    [
        ([TOP], [FRONT], {}),  # both have names: they may look from elsewhere
        ([TOP, FRONT], [UNNAMED], {}),
        ([UNNAMED], [TOP, FRONT], {}),
        ([UNNAMED], [UNNAMED], {}),
        ([STATE], [UNNAMED], {}),
        ([TOP], [UNNAMED], {TOP: FRONT}),  # what was asked for stands
        ([TOP], [UNNAMED], {TOP: UNNAMED}),
        ([UNNAMED], [UNNAMED], {TOP: UNNAMED}),
        ([UNNAMED], [TOP], {UNNAMED: TOP}),
    ],
)
def test_nothing_else_goes_without_saying(given: list[str], wanted: list[str], rename: dict[str, str]) -> None:
    said: list[str] = []
    assert with_only_camera(given, wanted, rename, said.append) == rename
    assert said == []


def test_what_a_dataset_calls_a_camera() -> None:
    assert known_as(UNNAMED, [TOP]) == TOP
    assert known_as(TOP, [UNNAMED]) == UNNAMED
    assert known_as(TOP, [FRONT]) == known_as(TOP, [TOP, FRONT]) == TOP


def test_pairs_to_ask_for_are_of_one_kind_and_the_closest() -> None:
    given = ["action", STATE, "observation.images.cam_wrist", "observation.images.cam_front"]
    assert rename_pairs(given, [FRONT, "observation.images.wrist"]) == [
        f"observation.images.cam_front={FRONT}",
        "observation.images.cam_wrist=observation.images.wrist",
    ]
    assert rename_pairs(["action", TOP], ["observation.environment_state"]) == []
