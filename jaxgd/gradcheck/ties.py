"""Points where a loss has no derivative: which of its operations tie there, and which gradients are right.

`max(x, y)` with x = y, `|x|` at 0, a maximum over entries of which several are largest: each side has a slope of its
own, and reverse mode, like every hand gradient, has to choose. A tie gets a number c between 0 and 1, its choice: the
weight of the slope of one side. The backward pass for given choices is reverse mode of the loss with the operation
written as `c x + (1 - c) y` at its ties, which changes no value. A gradient is right if some choices reproduce it.
Slopes of the values along one direction do not decide that: an entry of the gradient of a network sums over many ties,
and what lies between the slopes of each need not lie between those of the sum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # loads scipy.optimize at its first use, which `import jaxgd` need not wait for

from jaxgd.gradcheck import reference
from jaxgd.gradcheck.backward.program import name_of, quote
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.pair import Pair
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.rules import program
from jaxgd.gradcheck.sides import Key, handler

SLACK = 64.0
"""Values closer than this many units in the last place of the largest entry tie: the order of a sum moves them as
far."""

MAX_CHOICES = 400
"""Ties that get choices of their own; if there are more, all ties of one operation share one."""

FIT = 1e-8
"""Misfit relative to the largest entry of a leaf up to which choices reproduce it."""


class Tie(NamedTuple):
    """An operation whose inputs tie.

    Attributes:
      name: of the operation.
      place: where in the loss, quoted.
      mask: which of its entries tie; None in a loop, where that is not known.
      axes: of a maximum over entries; () for other operations.
    """

    name: str
    place: str
    mask: Any
    axes: tuple[int, ...]


class Ties(NamedTuple):
    """The ties of a loss at a point.

    Attributes:
      ties: each by its operation.
      gradient: `choices -> leaves`, choices `[number of choices]`: reverse mode in float64.
      sums: rows `[maxima, number of choices]`: the choices of one maximum add up to 1.
      start: the choices that reverse mode of JAX makes, or near them.
    """

    ties: dict[Key, Tie]
    gradient: Callable[[Any], Any]
    sums: Any
    start: Any

    def words(self, *, maxima: bool = False) -> str:
        """Where the loss has no derivative.

        Args:
          maxima: whether to name maxima over entries only.

        Returns:
          The operations, with the lines they are in.
        """
        named = [tie for tie in self.ties.values() if tie.axes or not maxima]
        known = {f"{tie.name}{f' in {tie.place}' if tie.place else ''}" for tie in named}
        return ", ".join(sorted(known))


class Fit(NamedTuple):
    """The gradient that comes closest to another one.

    Attributes:
      leaves: what the choices give.
      sizes: the size of each leaf, with which a misfit is compared.
    """

    leaves: Arrays
    sizes: list[float]

    def reproduces(self, leaf: int, hand: Any, tolerance: Any) -> bool:
        """Whether the choices give a leaf of a gradient.

        Args:
          leaf: its number.
          hand: its values.
          tolerance: how far rounding can bring two gradients apart, by entry.

        Returns:
          True if so.
        """
        gap = np.abs(self.leaves[leaf] - hand)
        return bool((gap <= tolerance + FIT * self.sizes[leaf]).all())


def ties_of(pair: Pair, unit: float) -> Ties | None:
    """Find the ties of a loss.

    Args:
      pair: the loss and the point.
      unit: the rounding unit of the loss.

    Returns:
      The ties; None if there are none, or if they cannot be seen.
    """
    if not reference.rewritable(pair):
        return None
    with precision(np.float64):
        closed = reference.program(pair, pair.base)
        leaves = jax.tree.leaves(pair.base)
        seen: dict[Key, tuple[Any, tuple[int, ...], bool]] = {}

        def masks(leaves: Any) -> dict[Key, Any]:
            found: dict[Key, Any] = {}

            def note(key: Key, eqn: Any, mask: Any, axes: tuple[int, ...], in_loop: bool) -> None:
                seen[key] = eqn, axes, in_loop
                if not in_loop:
                    found[key] = mask

            program.run(closed, leaves, handler(note, SLACK * unit))
            return found

        # Keys are tuples of different lengths, which a dictionary in a jitted result could not sort.
        keys: list[Key] = []

        def flat(leaves: Any) -> list[Any]:
            found = masks(leaves)
            keys.extend(found)
            return list(found.values())

        found = dict(zip(keys, map(np.asarray, jax.jit(flat)(leaves)), strict=True))
        ties = {
            key: Tie(name_of(eqn), quote(eqn), None if in_loop else found[key], axes)
            for key, (eqn, axes, in_loop) in seen.items()
            if in_loop or found[key].any()
        }
        return _with_choices(pair, closed, ties, SLACK * unit) if ties else None


def _with_choices(pair: Pair, closed: Any, ties: dict[Key, Tie], slack: float) -> Ties:
    own = sum(int(tie.mask.sum()) for tie in ties.values() if tie.mask is not None) <= MAX_CHOICES
    counts = [int(tie.mask.sum()) if tie.mask is not None and (own or tie.axes) else 1 for tie in ties.values()]
    offsets = dict(zip(ties, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))
    sizes = dict(zip(ties, counts, strict=True))

    def gradient(point: Any, choices: Any) -> Any:
        def choice_of(key: Key, eqn: Any, mask: Any, axes: tuple[int, ...], in_loop: bool) -> Any:
            del eqn, axes
            if key not in ties:
                return None
            mine = choices[offsets[key] : offsets[key] + sizes[key]]
            if in_loop or sizes[key] == 1:
                return mine[0]
            return jnp.zeros(jnp.shape(mask)).at[np.nonzero(ties[key].mask)].set(mine)

        def loss(params: Any) -> Any:
            leaves = jax.tree.leaves(point._replace(params=params))
            return program.run(closed, leaves, handler(choice_of, slack))[0]

        return jax.grad(loss)(point.params)

    return Ties(ties, lambda choices: gradient(pair.base, choices), *_sums(ties, offsets, sum(counts)))


def _sums(ties: dict[Key, Tie], offsets: dict[Key, int], total: int) -> tuple[Any, Any]:
    """Which choices add up to 1, and choices to start from."""
    rows = []
    start = np.full(total, 0.5)
    for key, tie in ties.items():
        if not tie.axes or tie.mask is None:
            continue
        kept = [axis for axis in range(tie.mask.ndim) if axis not in tie.axes]
        index = np.argwhere(tie.mask)[:, kept]
        for group in np.unique(index, axis=0):
            members = offsets[key] + np.flatnonzero((index == group).all(1))
            row = np.zeros(total)
            row[members] = 1.0
            start[members] = 1.0 / len(members)
            rows.append(row)
    return np.array(rows).reshape(len(rows), total), start


def fit(ties: Ties, hand: Arrays, *, shared: bool = True, beyond: float = 0.0) -> Fit:
    """The choices that come closest to a gradient.

    Args:
      ties: of the loss.
      hand: the gradient; leaves that are not finite are left out.
      shared: whether the choices of one maximum have to add up to 1.
      beyond: how far choices may lie below 0 or above 1.

    Returns:
      The fit.
    """
    with precision(np.float64):
        compiled = jax.jit(ties.gradient)
        usual = [np.asarray(leaf) for leaf in compiled(ties.start)]
    sizes = [
        float(max(np.max(np.abs(a), initial=0.0), np.max(np.abs(b), initial=0.0)))
        for a, b in zip(hand, usual, strict=True)
    ]
    scales = [1.0 / top if np.isfinite(top) and top > 0 else 0.0 for top in sizes]
    target = _flat([np.where(np.isfinite(leaf), leaf, 0.0) * scale for leaf, scale in zip(hand, scales, strict=True)])

    def scaled(choices: Any) -> Any:
        return jnp.concatenate([jnp.ravel(g) * s for g, s in zip(ties.gradient(choices), scales, strict=True)])

    with precision(np.float64):
        both = jax.jit(lambda c: (scaled(c), jax.jacfwd(scaled)(c)))
        values = jax.jit(scaled)

        def misfit(choices: Any) -> Any:
            own = target - np.asarray(values(choices))
            return np.concatenate([own, 1.0 - ties.sums @ choices]) if shared else own

        limits = ties.sums if shared else None, beyond
        found = []
        # Hand gradients mostly take the same side everywhere.
        for start in (ties.start, np.zeros_like(ties.start), np.ones_like(ties.start)):
            choices, rest = _descend(start, misfit, lambda c: np.asarray(both(c)[1]), limits)
            found.append((float(np.max(np.abs(rest), initial=0.0)), choices))
            if found[-1][0] <= FIT:
                break
        choices = min(found, key=lambda pair: pair[0])[1]
        leaves = [np.asarray(leaf) for leaf in compiled(choices)]
    return Fit(leaves, sizes)


def _descend(
    choices: Any, misfit: Callable[[Any], Any], jacobian: Callable[[Any], Any], limits: tuple[Any, float]
) -> tuple[Any, Any]:
    """Bounded least squares: one step is exact for ties of one layer; those of several layers multiply."""
    sums, beyond = limits
    rest = misfit(choices)
    for _ in range(8):
        if np.max(np.abs(rest), initial=0.0) <= FIT:
            break
        rows = jacobian(choices)
        rows = rows if sums is None else np.concatenate([rows, sums])
        bounds = -beyond - choices - 1e-12, 1.0 + beyond - choices + 1e-12
        step = scipy.optimize.lsq_linear(rows, rest, bounds, "bvls").x
        for length in (1.0, 0.5, 0.1):
            moved = np.clip(choices + length * step, -beyond, 1.0 + beyond)
            after = misfit(moved)
            if np.sum(after**2) < np.sum(rest**2) * (1 - 1e-6):
                choices, rest = moved, after
                break
        else:
            break
    return choices, rest


def _flat(leaves: Arrays) -> Any:
    return np.concatenate([np.ravel(leaf) for leaf in leaves])
