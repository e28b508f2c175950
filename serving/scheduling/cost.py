"""What blocks and the stem cost on this machine, learnt while they run."""

from __future__ import annotations

MEMORY = 0.99  # the weight that the past keeps at each new block: about the last hundred blocks count
WARM_UP = 3  # the first blocks of a process lay out weights and compile kernels
OUTLIER = 3  # times what is expected: a slower block was kept from its cores and counts as this much
SETTLED = 20  # measurements of the stem after which a call that begins with it also tells what its blocks cost
NOMINAL_S = 1e-3  # a block, and a row in it, until the cost of one is known
PRIOR = 0.25  # squared rows: the variation at which the measurement counts as much as the guess


class BlockCost:
    """Seconds of one block over n rows = fixed + per_row * n, by least squares in which the past fades.

    Until batches of different sizes have run, both parts are guessed to be equal at one row, so that two rows soon run
    together and the parts are measured.
    """

    def __init__(self) -> None:
        self.seen = 0
        """Measurements so far."""
        self._weight = 0.0
        self._rows = self._seconds = 0.0  # weighted means
        self._rows_spread = self._covariance = 0.0  # weighted sums of squares about them
        self.fixed = self.per_row = 0.0

    @property
    def known(self) -> bool:
        return self._weight > 0

    def learn(self, rows: float, seconds: float) -> None:
        """Add the measurement that a block over these rows took these seconds."""
        self.seen += 1
        if self.seen <= WARM_UP:
            return
        expected = self.of(1, rows)
        if self.known and seconds * OUTLIER < expected:
            self._weight = self._rows_spread = self._covariance = 0.0  # the earlier measurements were disturbed
        elif self.known:
            seconds = min(seconds, OUTLIER * expected)
        self._weight = MEMORY * self._weight + 1
        apart, late = rows - self._rows, seconds - self._seconds
        share = (1 - 1 / self._weight) * apart
        self._rows += apart / self._weight
        self._seconds += late / self._weight
        self._rows_spread = MEMORY * self._rows_spread + share * apart
        self._covariance = MEMORY * self._covariance + share * late
        self._solve()

    def of(self, blocks: int, row_blocks: float) -> float:
        """Seconds of so many blocks, over so many rows summed over the blocks; 0 before the first measurement."""
        return self.fixed * blocks + self.per_row * row_blocks

    def _solve(self) -> None:
        guess, most = self._seconds / (1 + self._rows), self._seconds / self._rows
        slope = (self._covariance + PRIOR * guess) / (self._rows_spread + PRIOR)
        self.per_row = min(max(slope, most / 10_000), most)
        self.fixed = self._seconds - self.per_row * self._rows


class EngineCost:
    """Seconds of a call: of the stem over the images that begin in it, and of its blocks over their rows."""

    def __init__(self) -> None:
        self.block = BlockCost()
        self.stem = BlockCost()

    @property
    def known(self) -> bool:
        return self.block.known

    @property
    def fixed_share(self) -> float:
        """The fixed part's share of what a block of one row costs."""
        return self.block.fixed / (self.block.fixed + self.block.per_row) if self.known else 0.5

    def of(self, blocks: int, row_blocks: int, images: int = 0) -> float:
        """Seconds of so many blocks, over so many rows summed over the blocks, and of the stem for so many images."""
        if not self.known:
            return NOMINAL_S * (blocks + row_blocks)
        return self.block.of(blocks, row_blocks) + (self.stem.of(1, images) if images else 0.0)

    def learn(self, blocks: int, row_blocks: int, images: int, seconds: float) -> None:
        """Add the measurement that a call took these seconds."""
        if not images:
            self.block.learn(row_blocks / blocks, seconds / blocks)
        elif self.known:
            blocks_s = self.block.of(blocks, row_blocks)
            if self.stem.seen >= SETTLED:  # both parts are known: a slower machine is slower in both
                blocks_s *= seconds / self.of(blocks, row_blocks, images)
                self.block.learn(row_blocks / blocks, blocks_s / blocks)
            self.stem.learn(images, max(0.0, seconds - blocks_s))
