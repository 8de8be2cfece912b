"""An edge of the backward pass, and a change of what flows along it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import UNARY, evaluate
from jaxgd.gradcheck.backward.pulls import pull
from jaxgd.gradcheck.backward.sweep import Edge, between
from jaxgd.gradcheck.backward.tape import Step, Tape
from jaxgd.gradcheck.finding import Kind


class Site(NamedTuple):
    """An edge of the backward pass at a point: one input of an operation, or of a group of operations.

    Attributes:
      tape: the loss at the point.
      edge: which edge.
    """

    tape: Tape
    edge: Edge

    @property
    def step(self) -> Step:
        """The operation."""
        return self.tape.steps[self.edge.step]

    @property
    def is_group(self) -> bool:
        """Whether several operations lie between the input and the output."""
        return self.edge.target != -1

    @property
    def number(self) -> int:
        """The number of the input among the values of the tape."""
        return self.edge.target if self.is_group else self.step.ins[max(self.edge.position, 0)]

    @property
    def values(self) -> list[Any]:
        """All inputs of the operation."""
        return [self.tape.values[i] for i in self.step.ins]

    @property
    def x(self) -> Any:
        """The input."""
        return self.tape.values[self.number]

    @property
    def y(self) -> Any:
        """The output."""
        return self.tape.values[self.step.outs[0]]

    @property
    def other(self) -> Any:
        """The other input of an operation on two."""
        return self.tape.values[self.step.ins[1 - self.edge.position]]

    def back(self, ahead: Any) -> Any:
        """The right cotangent of the input, for a cotangent of the output."""
        if self.is_group:
            return between(self.tape, self.edge.target, self.step.outs[0], ahead, self.edge.through)
        return self.tape.pull(self.step, [ahead], self.edge.position)

    def slope(self) -> Any:
        """The derivative of an elementwise function."""
        return self.back(np.ones((1, *self.y.shape)))[0]

    def back_with(self, values: Sequence[Any], ahead: Any) -> Any:
        """The cotangent of the input if the inputs of the operation had other values."""
        outs = evaluate(self.step.primitive, values)
        return pull(self.step.primitive, values, outs, [ahead], self.edge.position)

    def rerun(self, x: Any) -> tuple[Any, Any]:
        """An elementwise function of one input, at another argument: its value and its slope."""
        if not self.is_group:
            (y,) = evaluate(self.step.primitive, [x])
            return y, UNARY[self.step.name].slope(x, y, self.step.primitive.params)
        there = self.at(x)
        return there.y, there.slope()

    def at(self, x: Any) -> "Site":
        """The same group of operations with another value of the input."""
        moved = {self.edge.target: np.asarray(x)}
        for index in self.edge.through:
            step = self.tape.steps[index]
            outs = evaluate(step.primitive, [moved.get(i, self.tape.values[i]) for i in step.ins])
            moved.update(zip(step.outs, outs, strict=True))
        values = tuple(moved.get(i, value) for i, value in enumerate(self.tape.values))
        return Site(self.tape._replace(values=values), self.edge)


Send = Callable[[Site, Any, Any], Any]


def always(site: Site) -> bool:
    """Every edge."""
    del site
    return True


class Change(NamedTuple):
    """One mistake in a local derivative.

    Attributes:
      kind: what to call it.
      words: what was done, in words; `{f}` is the operation, `{x}` the input and `{other}` the other one.
      send: `(site, ahead, right) -> cotangent`: what is sent to the input, `[R, ...]`, where `ahead` is the cotangent
        of the output and `right` what ought to be sent.
      applies: whether the shapes at an edge allow it.
    """

    kind: Kind
    words: str
    send: Send
    applies: Callable[[Site], bool] = always


def is_square(site: Site) -> bool:
    """Whether the input is a square matrix."""
    return site.x.ndim == 2 and site.x.shape[0] == site.x.shape[1] and len(site.x) > 1
