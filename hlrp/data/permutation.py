"""A random order of any number of things that is computed, place by place, and never stored.

It is a Feistel network, a bijection of numbers of so many bits whatever its round function is; numbers that are too
large lead on to others: "cycle walking", J. Black and P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
# Of few things a network has too few bits to reach every order alike; their order fits into 32 KiB.
_FEW = 4096


class Permutation:
    """A permutation of `[0, length)` that depends on its key alone. It takes no memory, and no time to make.

    Args:
        length: Of what is permuted, in `[0, 2**62]`.
        key: Numbers >= 0, such as a seed and an epoch; keys of different length are different keys.
    """

    def __init__(self, length: int, *key: int) -> None:
        self.length = length
        seeds = np.random.SeedSequence([len(key), *key])
        self._stored = np.random.default_rng(seeds).permutation(length) if length <= _FEW else None
        bits = (length - 1).bit_length()
        self._low_bits = np.uint64(bits // 2)
        self._masks = np.uint64((1 << bits - bits // 2) - 1), np.uint64((1 << bits // 2) - 1)
        self._keys = seeds.generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.length

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at ``places`` `[n]`, each in `[0, length)`."""
        if self._stored is not None:
            return self._stored[places]
        found = self._encipher(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= np.uint64(self.length))):
            found[outside] = self._encipher(found[outside])
        return found.astype(np.int64)

    def _encipher(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, low = numbers >> self._low_bits, numbers & self._masks[1]
        for first, second in self._keys.reshape(-1, 2):
            high ^= _mixed(low ^ first) & self._masks[0]
            low ^= _mixed(high ^ second) & self._masks[1]
        return (high << self._low_bits) | low


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of a number spread over all 64: the last step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
