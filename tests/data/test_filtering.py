"""The idle and motion filter: which frames it leaves out, where its numbers come from, and what runs make of them."""

import shutil

import numpy as np
import pytest
from edits import edit_column, tables
from idle_dataset import LENGTH, make_idle_dataset
from test_data_module import run_of

from hlrp.config import FilterSection, load_config
from hlrp.data import FrameDataModule, FrameStore, read_dataset, read_episodes
from hlrp.data.filtering import Signal, View, kept_ranges, quiet_frames, select_frames
from hlrp.data.motion import EpisodeMotion, MotionScores, grey_blocks
from hlrp.data.robot_motion import rate_dimensions, robot_motion
from hlrp.errors import UserError

# Frames at which nothing changes within 0.5 s = 5 frames: those of `idle_dataset.IDLE`, less the last 5 of runs after
# which something moves. The run of 5 frames holds none of them.
QUIET = [[*range(10, 25)], [], [*range(15)], [*range(40, 60)]]
CAMERA = "observation.image"


def left_out(keep):
    """Frames of each episode that are not kept."""
    return [np.flatnonzero(~keep[e * LENGTH : (e + 1) * LENGTH]).tolist() for e in range(len(keep) // LENGTH)]


def select(root, cache, cameras=(CAMERA,), *, offset_seconds=None, **section):
    info = read_dataset(None, root)
    view = View(cameras, cache_root=cache, offset_seconds=offset_seconds)
    return select_frames(FilterSection(**section), info, range(info.episodes), view)


@pytest.mark.parametrize("section", [{"idle": True}, {"motion": True}, {"idle": 1.5}, {"motion": True, "idle": True}])
def test_the_idle_frames_are_found_and_no_other(section, idle_root, cache):
    selection = select(idle_root, cache, **section)
    assert left_out(selection.keep) == QUIET
    assert (selection.frames, selection.kept) == (240, 190)
    assert selection.dropped == dict.fromkeys(section, 50)
    assert "20.8% of 240" in selection.describe()


def test_runs_shorter_than_asked_for_are_kept(idle_root, cache):
    """The runs have 15, 15 and 20 frames, 1.5 s and 2 s."""
    assert left_out(select(idle_root, cache, idle=1.6).keep) == [[], [], [], QUIET[3]]
    assert select(idle_root, cache, motion={"min_seconds": 1.6}).dropped == {"motion": 20}


def test_a_shorter_time_between_pictures_finds_the_shorter_run(idle_root, cache):
    found = left_out(select(idle_root, cache, motion={"seconds": 0.2}).keep)
    assert found[0] == [*range(10, 28), *range(45, 48)]
    assert left_out(select(idle_root, cache, offset_seconds=0.2, motion=True).keep) == found, (
        "as windows of that offset"
    )


def test_two_thresholds_cut_no_run_into_pieces_and_begin_none_in_noise(idle_root):
    table = read_episodes(read_dataset(None, idle_root))
    scores = np.full(240, 9.0, np.float32)
    scores[5:15] = 1.5  # never below the lower one
    scores[20:30] = [1.5, 0.5, 1.9, 1.9, 1.9, 1.9, 1.9, 0.5, 1.5, 1.5]
    scores[55:65] = 0.5  # over the end of an episode: two runs
    found = np.flatnonzero(quiet_frames([Signal(scores, 1.0, 2.0)], table, range(4), 0.0)).tolist()
    assert found == [*range(20, 30), *range(55, 65)]
    assert np.flatnonzero(quiet_frames([Signal(scores, 1.0, 2.0)], table, range(4), 1.0)).tolist() == [*range(20, 30)]
    narrow = np.flatnonzero(quiet_frames([Signal(scores, 1.0, 1.0)], table, range(4), 0.0)).tolist()
    assert narrow == [21, 27, *range(55, 65)], "with one threshold noise cuts the run"
    other = np.zeros(240, np.float32)
    other[24] = 5.0
    both = np.flatnonzero(quiet_frames([Signal(scores, 1.0, 2.0), Signal(other, 1.0, 2.0)], table, range(2), 0.0))
    assert both.tolist() == [20, 21, 22, 23, *range(25, 30), *range(55, 65)], "neither signal may move"


def test_a_robot_that_moves_before_a_still_picture_is_not_idle(idle_root, tmp_path, cache):
    """And the other way round: of a picture that moves nothing is idle, whatever the numbers say."""
    root = shutil.copytree(idle_root, tmp_path / "moves")
    rng = np.random.default_rng(0)
    edit_column(tables(root)[0], "action", lambda x: rng.uniform(-1, 1, x.shape))
    assert select(root, cache, idle=True).kept == 240
    assert select(root, cache, (), idle=True).kept == 240
    root = shutil.copytree(idle_root, tmp_path / "stands")
    for column in ("action", "observation.state"):
        edit_column(tables(root)[0], column, np.zeros_like)
    assert left_out(select(root, cache, idle=True).keep) == QUIET
    assert left_out(select(idle_root, cache, (), idle=True).keep) == QUIET, "without a camera by the numbers alone"


def test_numbers_that_are_none_say_nothing(idle_root, tmp_path, cache):
    root = shutil.copytree(idle_root, tmp_path / "nan")
    edit_column(tables(root)[0], "action", lambda x: np.full_like(x, np.nan))
    assert left_out(select(root, cache, idle=True).keep) == QUIET


def test_motion_is_the_mean_change_of_small_grey_pictures():
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    frames[1:, :, :16] = (255, 0, 0)
    frames[2:, 32:] = (0, 0, 100)
    grey = grey_blocks(frames)
    assert grey.shape == (4, 32, 32)
    red, blue = 255 * 0.299, 100 * 0.114
    # From frame 0 to 2 the left quarter of the upper half turns red, the lower half blue.
    expected = [red * 16 * 32 / 64**2 + blue / 2, abs(blue - red) * 8 / 64 + blue * 24 / 64]
    motion = EpisodeMotion(2)
    motion.add(frames[:1])
    motion.add(frames[1:])
    np.testing.assert_allclose(motion.scores(4), [*expected, expected[1], expected[1]], rtol=1e-5)
    short = EpisodeMotion(9)
    short.add(frames)
    np.testing.assert_allclose(short.scores(4), [expected[0]] * 4, rtol=1e-5, err_msg="first and last frame")


def test_speeds_are_told_from_positions():
    """A joint target follows the state, a step its change; a gripper command held at its end counts as a position."""

    class Table:
        end = np.array([500, 1000])

        @staticmethod
        def episode_of(index):
            return np.searchsorted(Table.end, index, side="right")

    rng = np.random.default_rng(0)
    goal = np.repeat(rng.uniform(-1, 1, (50, 2)), 20, axis=0)
    state = np.zeros((1000, 2))
    for i in range(999):
        state[i + 1] = state[i] + 0.1 * (goal[i] - state[i])
    closed = (np.arange(1000) // 100 % 2).astype(float)
    opening = np.convolve(closed, np.ones(10) / 10)[:1000]
    states = np.column_stack([state, opening]).astype(np.float32)
    actions = np.column_stack([goal - state, state + 0.05, closed, np.ones(1000)]).astype(np.float32)
    assert rate_dimensions(actions, states, Table).tolist() == [True, True, False, False, False, False]
    assert not rate_dimensions(actions, None, Table).any(), "without states all are looked at by their change"


def test_the_actions_of_the_g1_are_positions(g1_root):
    info = read_dataset(None, g1_root)
    from hlrp.data.robot_motion import numbers_of

    values, table = numbers_of(info, None), read_episodes(info)
    assert not rate_dimensions(values["action"], values["observation.state"], table).any()
    motion = robot_motion(info, table, [0], 15)
    assert motion is not None and np.isfinite(motion[: table.end[0]]).all() and np.isnan(motion[table.end[0] :]).all()


def test_scores_are_computed_once_and_anew_for_other_data(idle_root, tmp_path):
    info, said = read_dataset(None, idle_root), []
    first = MotionScores(read_episodes(info), CAMERA, None, 5, root=tmp_path)
    part = first.read([1], announce=said.append)
    assert np.isfinite(part[:, 60:120]).all() and np.isnan(part[:, :60]).all() and len(said) == 1
    whole = first.read(range(4), announce=said.append)
    assert said[1].startswith("measuring motion in 180 frames"), "what was computed is not computed again"
    stamp = first.path.stat().st_mtime_ns
    again = MotionScores(read_episodes(info), CAMERA, None, 5, root=tmp_path)
    np.testing.assert_array_equal(again.read(range(4), announce=said.append), whole)
    assert len(said) == 2 and first.path.stat().st_mtime_ns == stamp
    other = read_dataset(None, shutil.copytree(idle_root, tmp_path / "other"))
    edit_column(tables(other.root)[0], "action", lambda x: x + 1)
    assert MotionScores(read_episodes(other), CAMERA, None, 5, root=tmp_path).missing(range(4)) == [0, 1, 2, 3]
    first.path.write_bytes(b"damaged")
    np.testing.assert_array_equal(first.read(range(4), announce=said.append), whole)
    store = FrameStore(read_episodes(info), CAMERA, where="disk", root=tmp_path / "frames")
    store.prepare(announce=said.append)
    stored = MotionScores(read_episodes(info), CAMERA, None, 5, root=tmp_path / "frames")
    np.testing.assert_array_equal(stored.read(range(4), announce=said.append), whole, err_msg="from the frame store")


def test_windows_leave_out_the_pairs_that_do_not_move(idle_root, cache, tmp_path):
    """Also of a mixture, and never of held-out episodes; the last frame of an episode begins no pair."""
    moving = make_idle_dataset(tmp_path / "moving", [[], []], action=False, state=False)
    run = run_of(idle_root, offset_seconds=0.5, cache="disk", filter={"motion": 1.0}, eval_split=0.5, num_workers=0)
    data = FrameDataModule(run, size=32, cache_root=cache)
    data.setup("fit")
    expected = [e * LENGTH + i for e in (0, 1) for i in range(LENGTH - 5) if i not in QUIET[e]]
    assert data.train_windows.ids()[:, 1].tolist() == expected
    assert data.val_windows.lengths == [2 * (LENGTH - 5)]
    sources = [{"root": str(idle_root)}, {"root": str(moving)}]
    run = run_of(None, sources=sources, offset_seconds=0.5, filter={"idle": True}, eval_split=0.0, num_workers=0)
    data = FrameDataModule(run, size=32, cache_root=cache)
    data.setup("fit")
    # Nothing begins in the last 0.5 s: of the run at the end of the fourth episode 15 windows are lost.
    assert data.train_windows.lengths == [4 * (LENGTH - 5) - 45, 2 * (LENGTH - 5)]
    assert [s.mark for s in data.selections()] == data.state_dict()["filter"]


def test_a_run_is_not_continued_with_another_filter(idle_root, cache):
    def data(**section):
        run = run_of(idle_root, offset_seconds=0.5, filter=section, eval_split=0.0, num_workers=0, cache="off")
        return FrameDataModule(run, size=32, cache_root=cache)

    saved = data(motion=True).state_dict()
    data(motion=1.5).load_state_dict(saved)  # leaves the same frames: the samples are the same
    for other in ({}, {"motion": {"min_seconds": 1.6}}):
        with pytest.raises(UserError, match="filter was"):
            data(**other).load_state_dict(saved)


def test_kept_frames_are_ranges_without_what_a_policy_drops(idle_root):
    table, keep = read_episodes(read_dataset(None, idle_root)), np.ones(240, bool)
    keep[10:25] = keep[115:130] = False
    assert kept_ranges(table, [0, 1], keep, drop_last=2) == ([0, 25, 60], [10, 58, 115])
    assert kept_ranges(table, [2], keep, drop_first=1) == ([130], [180])


@pytest.mark.parametrize(
    ("given", "cameras", "says"),
    [
        ({"motion": 200}, (CAMERA,), "leaves none of the 240 training frames"),
        ({"motion": True}, (), "no colour camera"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(given, cameras, says, idle_root, cache):
    with pytest.raises(UserError, match=says):
        select(idle_root, cache, cameras, **given)


def test_video_alone_has_no_numbers_but_a_picture(tmp_path, cache):
    root = make_idle_dataset(tmp_path / "video", [[(10, 30)]], action=False, state=False)
    assert left_out(select(root, cache, idle=True).keep) == [[*range(10, 25)]]
    with pytest.raises(UserError, match="no camera, action or"):
        select(root, cache, (), idle=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("data.filter={motion: {below: 3, above: 2}}", "'above' is 2, less than 'below', 3"),
        ("data.filter={idle: {robot_below: 2}}", r"data\.filter\.idle\.robot_below"),
        ("data.filter.moton=1", "motion"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(given, says):
    with pytest.raises(UserError, match=says):
        load_config(None, ["model.kind=laq", given])
