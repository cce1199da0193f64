"""A scripted expert for PushT: it plans a few straight pushes ahead, makes the first one, and plans again.

The block stops where nothing pushes it and slides along the disc without friction, so a push turns it and moves it by
geometry alone. A model of that, for thousands of pushes at once, is all that the search needs. Lengths are in the
environment's pixels, angles in radians; what is "local" is seen from the block, its centre of mass in the origin.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RADIUS = 15.0
"""Of the disc that pushes."""
CENTRE = 45.0
"""From the block's origin to its centre of mass, along its stem."""
_INERTIA = 3000.0  # of the block, by its mass
_BAR, _STEM = (-60.0, 60.0, -45.0, -15.0), (-15.0, 15.0, -15.0, 75.0)  # x from, to; y from, to; local
_OUTLINE = np.array([[-60, -45], [60, -45], [60, -15], [15, -15], [15, 75], [-15, 75], [-15, -15], [-60, -15]], float)
_TURN = 44.0  # pixels that a radian counts for: how far the block's points lie from its middle
_GOAL = np.array([256 - CENTRE * np.sin(np.pi / 4), 256 + CENTRE * np.cos(np.pi / 4), np.pi / 4])
_WALLS = (7.0, 504.0)
_SQUEEZE = 2.0  # how much closer to a wall, or beyond it, a push may bring the block
_REACH = (12.0, 500.0)  # where the disc's middle may be

_GAP = 8.0  # between the disc and the block where a push begins
_SWING = 9.0  # how much wider its target goes around the block
_CLEAR = 3.0  # between the two on the way there, at least
_SLANTS = np.deg2rad([0, -35, 35])  # directions of pushes against the block's side
_STRIDE = 3.0  # of a push in the model
_LENGTHS = np.arange(9.0, 100.0, _STRIDE)  # of pushes, the way to the block included
_SHORTEST = 15.0  # of those that do not reach the goal
_FAST, _STEADY, _SLOW = 16.0, 8.0, 2.0  # how far the target moves in a step: on the way, pushing, near the goal
_CAREFUL, _BEYOND = 18.0, 6.0  # how much of the last push is slow, and how far it goes on, as it may pass the goal
_STUCK = 0.5  # what has moved the block less is not tried again
_APART = 10  # steps in which the simulator parts two bodies that overlap
_SETTLE, _PAUSE = 3, 5  # steps that the disc is given to arrive; where it has to be exactly there
_SOLVED = 1.5  # error of a pose that covers enough of the goal; at 1.8 all do
_ROUGH = 10.0  # steps that a pixel of that error counts for: the push is seen at 10 Hz only
_BEAM, _DEPTH = 12, 6
_NEVER = 1e6  # any number of steps is better than not to reach the goal
_MORE, _PER_PIXEL = 16.0, 0.7  # steps that a pose will still take: those of one more push, and more the farther it is
_SAME = np.array([6.0, 6.0, 0.12])  # poses so close count as one


class Push(NamedTuple):
    """A straight push: which of the ring's, how far, and whether the block is to be at its goal then."""

    number: int
    length: float
    last: bool


class _Ring(NamedTuple):
    """Where pushes begin, around the block and at one distance from it (local).

    `places` [P, 2]; `free` [P, P] lengths of straight ways between them, infinite where the block is in the way, and
    `ways` of the shortest; of each push, `place` [C] where it begins and `direction` [C, 2].
    """

    places: np.ndarray
    free: np.ndarray
    ways: np.ndarray
    place: np.ndarray
    direction: np.ndarray


def distance(points: np.ndarray) -> np.ndarray:
    """From local points [..., 2] to the block; 0 inside."""
    x, y = points[..., 0], points[..., 1]
    boxes = ((x - np.clip(x, a, b), y - np.clip(y, c, d)) for a, b, c, d in (_BAR, _STEM))
    return np.minimum(*(np.hypot(*apart) for apart in boxes))


def error(poses: np.ndarray) -> np.ndarray:
    """How far poses [..., 3] of the block (centre of mass, angle) are from the goal, in pixels."""
    turn = (poses[..., 2] - _GOAL[2] + np.pi) % (2 * np.pi) - np.pi
    return np.sqrt(((poses[..., :2] - _GOAL[:2]) ** 2).sum(-1) + (_TURN * turn) ** 2)


def shove(poses: np.ndarray, discs: np.ndarray) -> None:
    """Move blocks [3, N] (in place) out of the way of discs [2, N] that have come to overlap with them a little."""
    cos, sin = np.cos(poses[2]), np.sin(poses[2])
    x, y = discs - poses[:2]
    x, y = cos * x + sin * y, cos * y - sin * x
    for left, right, low, high in (_BAR, _STEM):
        at_x, at_y = np.clip(x, left, right), np.clip(y, low, high)
        normal_x, normal_y = x - at_x, y - at_y
        gap = np.hypot(normal_x, normal_y) + 1e-6
        normal_x, normal_y = normal_x / gap, normal_y / gap
        lever = at_x * normal_y - at_y * normal_x
        moved = np.maximum(RADIUS - gap, 0) / (1 + lever * lever / _INERTIA)
        turned = moved * lever / _INERTIA
        poses[0] -= moved * (cos * normal_x - sin * normal_y)
        poses[1] -= moved * (sin * normal_x + cos * normal_y)
        poses[2] -= turned
        x, y = x + moved * normal_x - turned * y, y + moved * normal_y + turned * x


def _straight(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Lengths [N, M] of the lines between local points that stay clear of the block; infinite where one does not."""
    share = np.linspace(0, 1, 40)[:, None]
    apart = ends[None] - starts[:, None]
    length = np.linalg.norm(apart, axis=-1)
    gaps = distance(starts[:, None, None] + share * apart[:, :, None])
    # A disc that touches the block may leave it.
    wanted = np.minimum(RADIUS + _CLEAR, gaps[..., :1] - 0.3 + 0.3 * share[:, 0] * length[..., None])
    return np.where((gaps >= wanted).all(-1), length, np.inf)


@lru_cache
def _ring() -> _Ring:
    sides = np.roll(_OUTLINE, -1, 0) - _OUTLINE
    places, outward = [], []
    for corner, side, following in zip(_OUTLINE, sides, np.roll(sides, -1, 0), strict=True):
        length = np.hypot(*side)
        normal, next_normal = (np.array([s[1], -s[0]]) / np.hypot(*s) for s in (side, following))
        for share in np.linspace(0, 1, max(3, round(length / 7) + 1)):
            places.append(corner + share * side + (RADIUS + _GAP) * normal)
            outward.append(normal)
        for angle in np.deg2rad([22.5, 45, 67.5]):  # around the corner; within the block where it is a hollow one
            turned = np.cos(angle) * normal + np.sin(angle) * next_normal
            places.append(corner + side + (RADIUS + _GAP) * turned)
            outward.append(turned)
    found, outer = np.array(places), np.array(outward)
    fitting = distance(found) > RADIUS + _GAP - 0.5
    found, outer = found[fitting], outer[fitting]
    free = _straight(found, found)
    ways = free.copy()
    for through in range(len(found)):
        ways = np.minimum(ways, ways[:, through, None] + ways[through])
    directions = np.concatenate([-outer @ _rotation(slant).T for slant in _SLANTS])
    return _Ring(found, free, ways, np.tile(np.arange(len(found)), len(_SLANTS)), directions)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _to_world(poses: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Local vectors [M, 2] as each of the blocks [K, 3] has them in the world: [K, M, 2]."""
    cos, sin = np.cos(poses[:, 2, None]), np.sin(poses[:, 2, None])
    x, y = vectors.T
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _within(points: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return np.all((points > limits[0]) & (points < limits[1]), axis=-1)


def _room(poses: np.ndarray) -> np.ndarray:
    """How far blocks [..., 3] are from the walls, negative beyond; what is far enough counts as no more."""
    flat = poses.reshape(-1, 3)
    corners = _to_world(flat, _OUTLINE) + flat[:, None, :2]
    room = np.minimum(corners.min((1, 2)) - _WALLS[0], _WALLS[1] - corners.max((1, 2)))
    return np.minimum(room, _SQUEEZE).reshape(poses.shape[:-1])


class _Level(NamedTuple):
    """States that the search goes on from: blocks [K, 3], discs [K, 2], steps so far [K], first push of each."""

    poses: np.ndarray
    discs: np.ndarray
    steps: np.ndarray
    first: list[Push | None]


def plan(pose: np.ndarray, disc: np.ndarray, barred: np.ndarray) -> Push | None:
    """The first of the pushes that bring the block to its goal in few steps, by beam search.

    Args:
        pose: Of the block, [3].
        disc: Its middle, [2].
        barred: Pushes of the ring that cannot be made now, [C] bool.

    Returns:
        The push; of a plan that only comes closer where none is found to the goal; None if nothing can be pushed.
    """
    level, best, lowest = _Level(pose[None], disc[None], np.zeros(1), [None]), None, np.inf
    for _ in range(_DEPTH):
        source, number, poses, discs, steps = _outcomes(level, barred)
        barred = np.zeros_like(barred)
        if not np.isfinite(steps).any():
            break
        far = error(poses)
        solved = far <= _SOLVED
        steps = np.where(solved | (_LENGTHS >= _SHORTEST)[:, None], steps, np.inf)
        rest = steps + _MORE + _PER_PIXEL * far
        rank = np.where(solved, steps + _ROUGH * far, rest + _NEVER)
        top = divmod(int(rank.argmin()), rank.shape[1])
        kept = _distinct(poses, np.where(solved, np.inf, rest))
        first = [
            level.first[source[column]] or Push(int(number[column]), float(_LENGTHS[row]), bool(solved[row, column]))
            for row, column in [top, *kept]
        ]
        if rank[top] < lowest:
            best, lowest = first[0], rank[top]
        if not kept:
            break
        at = tuple(np.array(kept).T)
        level = _Level(poses[at], discs[at], steps[at], first[1:])
        if level.steps.min() + _MORE > lowest:
            break
    return best


def _outcomes(level: _Level, barred: np.ndarray) -> tuple[np.ndarray, ...]:
    """What comes of the ring's pushes, after each stride.

    Returns:
        Which state [M] and push of the ring [M] each comes from, blocks [L, M, 3], discs [L, M, 2], and steps [L, M],
        infinite where the block or the disc would leave the field.
    """
    ring = _ring()
    starts = _to_world(level.poses, ring.places[ring.place]) + level.poses[:, None, :2]
    source, number = np.nonzero(_within(starts, _REACH) & ~barred)
    disc = starts[source, number].T.copy()
    stride = _STRIDE * _to_world(level.poses, ring.direction)[source, number].T
    block = level.poses[source].T.copy()
    blocks, discs = [], []
    for length in _STRIDE * np.arange(1, round(_LENGTHS[-1] / _STRIDE) + 1):
        disc += stride
        if length >= _LENGTHS[0]:
            shove(block, disc)
            blocks.append(block.T.copy())
            discs.append(disc.T.copy())
    after, at = np.stack(blocks), np.stack(discs)
    seen = np.stack([_to_local(pose, disc) for pose, disc in zip(level.poses, level.discs, strict=True)])
    near = np.linalg.norm(seen[:, None] - ring.places, axis=-1)
    nearest = near.argmin(1)
    way = near.min(1)[source] + ring.ways[nearest[source], ring.place[number]]
    steps = level.steps[source] + way / _FAST + _SETTLE + 2 + _LENGTHS[:, None] / _STEADY
    allowed = _within(at, _REACH) & (_room(after) >= _room(level.poses)[source] - _SQUEEZE)
    return source, number, after, at, np.where(allowed, steps, np.inf)


def _distinct(poses: np.ndarray, cost: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns of the cheapest of poses [L, M, 3] that differ; [L, M] costs."""
    kept: dict[tuple[int, ...], tuple[int, int]] = {}
    for flat in np.argsort(cost, axis=None, kind="stable")[:5000]:
        row, column = divmod(int(flat), cost.shape[1])
        if len(kept) == _BEAM or not np.isfinite(cost[row, column]):
            break
        kept.setdefault(tuple(np.round(poses[row, column] / _SAME).astype(int)), (row, column))
    return list(kept.values())


def _to_local(pose: np.ndarray, point: np.ndarray) -> np.ndarray:
    return (point - pose[:2]) @ _rotation(pose[2])


def _routes(pose: np.ndarray, disc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shortest ways from the disc around the block to the ring's places.

    Returns:
        Lengths [P], infinite where there is none, and the place before each [P], -1 for the disc.
    """
    ring = _ring()
    length = _straight(_to_local(pose, disc)[None], ring.places)[0]
    previous = np.full(len(length), -1)
    left = _within(ring.places @ _rotation(pose[2]).T + pose[:2], _REACH)
    length[~left] = np.inf
    while np.isfinite(length[left]).any():
        at = int(np.where(left, length, np.inf).argmin())
        left[at] = False
        through = length[at] + ring.free[at] + 2.0  # rather few corners
        shorter = left & (through < length)
        length[shorter], previous[shorter] = through[shorter], at
    return length, previous


def _along(corners: list[np.ndarray], speed: float) -> Iterator[np.ndarray]:
    """Points on a line through corners, at equal distances of at most ``speed``, up to its end."""
    line = np.array(corners)
    passed = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    for share in np.linspace(0, passed[-1], max(1, int(np.ceil(passed[-1] / speed))) + 1)[1:]:
        yield np.array([np.interp(share, passed, line[:, axis]) for axis in (0, 1)])


def targets(pose: np.ndarray, disc: np.ndarray, push: Push, previous: np.ndarray) -> list[np.ndarray]:
    """Targets [2] that take the disc around the block and make a push.

    Args:
        pose: Of the block, [3].
        disc: Its middle, [2].
        push: Which push.
        previous: The place before each on the way, as of `_routes`.
    """
    ring, turned = _ring(), _rotation(pose[2]).T
    at = int(ring.place[push.number])
    corners = [ring.places[at]]
    while (at := int(previous[at])) >= 0:
        # The disc lags behind its target and cuts corners; the first P directions are straight at the block.
        corners.insert(0, ring.places[at] - _SWING * ring.direction[at])
    corners = [corner @ turned + pose[:2] for corner in corners]
    direction = ring.direction[push.number] @ turned
    slow = min(push.length, _CAREFUL) if push.last else 0.0
    begin, slower = corners[-1], corners[-1] + (push.length - slow) * direction
    found = [*_along([disc, *corners], _FAST), *[begin] * (_PAUSE if push.last else _SETTLE)]
    if push.length > slow:
        found += _along([begin, slower], _STEADY)
    if slow:
        found += _along([slower, slower + (slow + _BEYOND) * direction], _SLOW)
    return [*found, *[found[-1]] * _SETTLE]


def act(look: Callable[[], tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """Targets of the disc, [2], without end.

    Args:
        look: Gives the block's pose [3] and the disc's middle [2] of that moment.
    """
    ring = _ring()
    for _ in range(_APART):  # an episode may begin with the disc in the block
        pose, disc = look()
        if distance(_to_local(pose, disc)) > RADIUS - 1:
            break
        yield disc
    vain = np.zeros(len(ring.places), bool)
    before = np.full(3, np.inf)
    while True:
        pose, disc = look()
        if np.abs(pose - before).max() > _STUCK:
            vain[:] = False
        length, previous = _routes(pose, disc)
        push = plan(pose, disc, (vain | np.isinf(length))[ring.place])
        if push is None:
            # The disc is wedged in, or all was in vain: off to the nearest place, whatever is in the way.
            world = ring.places @ _rotation(pose[2]).T + pose[:2]
            off = np.where(_within(world, _REACH), np.linalg.norm(world - disc, axis=1), np.inf)
            yield from _along([disc, world[off.argmin()]], _STEADY)
            vain[:] = False
            continue
        before = pose
        vain[ring.place[push.number]] = True
        yield from targets(pose, disc, push, previous)
