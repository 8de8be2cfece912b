"""How a run is cut into chunks. The host runs each chunk by one call of a compiled program."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from jaxgd.descent.fast.blocks import NUM_CHUNKS


class Chunk(NamedTuple):
    """The steps of one call: whole epochs, or some steps of one epoch, with or without its last step."""

    num_epochs: int = 0
    num_steps: int = 0
    closes: bool = False


class Cut(NamedTuple):
    """How a run of any number of steps is cut."""

    steps_per_epoch: int
    chunk_steps: int

    def chunks(self, num_steps: int) -> Iterator[Chunk]:
        """The chunks of a run. They have few different shapes, and each shape is compiled once.

        Args:
          num_steps: of the run.

        Yields:
          Chunks that take every step once.
        """
        num_epochs, rest = divmod(num_steps, self.steps_per_epoch)
        at_once = self.chunk_steps // self.steps_per_epoch
        for epoch in range(0, num_epochs, max(at_once, 1)):
            if at_once:
                yield Chunk(num_epochs=min(at_once, num_epochs - epoch))
            else:
                yield from _parts(self.steps_per_epoch, self.chunk_steps, closes=True)
        if rest:
            yield from _parts(rest, max(self.chunk_steps, 1), closes=False)

    def passing(self, num_steps: int) -> int:
        """The chunk that ends at a step at which no chunk of a longer run ends, although another chunk follows.

        Args:
          num_steps: of the run.

        Returns:
          Its position, counted from 1; 0 without such a chunk.
        """
        num_epochs, rest = divmod(num_steps, self.steps_per_epoch)
        at_once = self.chunk_steps // self.steps_per_epoch
        return -(-num_epochs // at_once) if rest and at_once and num_epochs % at_once else 0

    def steps_after(self, position: int, num_steps: int) -> int:
        """The total number of steps of the first chunks of a run.

        Args:
          position: the number of chunks.
          num_steps: of the run.

        Returns:
          Their steps.
        """
        first = itertools.islice(self.chunks(num_steps), position)
        return sum(chunk.num_epochs * self.steps_per_epoch or chunk.num_steps for chunk in first)


def default_chunk(num_steps: int, steps_per_epoch: int, block_size: int) -> int:
    """The default chunk: a twentieth of the run in whole blocks, or one epoch; parts of epochs need more programs."""
    share = -(-num_steps // NUM_CHUNKS)
    # Parts of an epoch need a program for the last of them too, which closes it.
    if 1 < steps_per_epoch <= num_steps // 2:
        return max(share, steps_per_epoch)
    return share // block_size * block_size if 0 < block_size <= share else share


def _parts(num_steps: int, chunk_steps: int, *, closes: bool) -> Iterator[Chunk]:
    """Cut an epoch, or the beginning of one, into chunks."""
    for first in range(0, num_steps, chunk_steps):
        count = min(chunk_steps, num_steps - first)
        yield Chunk(num_steps=count, closes=closes and first + count == num_steps)
