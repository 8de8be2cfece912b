"""The backward pass of a loss, taken apart so that it can be run with one step changed.

The right backward pass is a sum over paths of products of local derivatives, one for each operation of the loss.
People's mistakes are edits of it: a local derivative left out or replaced, a path cut, a mask of another array.

    program.py     what can be read from a jaxpr: equations, names, places in the source
    arithmetic.py  values of operations in NumPy; pulls.py: products with their derivatives
    tape.py        a program run forward with every value kept; record.py: how it is run
    sweep.py       the tape run backward, in many variants at once
    site.py        an edge of the backward pass and a change of it
    edits.py       EDITS: what people write in place of a local derivative, by operation
                   (elementwise.py, arrays.py, signals.py, jacobians.py, matrices.py)
    reading.py     names of values, turns of recurrences; words.py: what a change is called
    candidates.py  where each edit can be made; groups.py: changes that are more than one edge
    trial.py       the pass under many candidates, beside a gradient

Nothing here is compiled, except operations that are not in the tables.
"""
