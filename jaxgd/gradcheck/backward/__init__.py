"""The backward pass of a loss, taken apart so that it can be run with one step changed.

The right backward pass is a sum over paths of products of local derivatives, one for each operation of the loss.
People's mistakes are edits of it: a local derivative left out or replaced, a path cut, a mask of another array. `tape`
runs the loss forward and backward in NumPy, `edits` says what people write in place of a local derivative,
`candidates` lists where each edit can be made, and `trial` runs the pass under many of them at once.
"""
