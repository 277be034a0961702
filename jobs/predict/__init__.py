"""Use a trained model on images that nobody labeled: what `idxtrain predict`, `serve` and `demo` share.

`files.py` is the entry of `predict`. `inputs.py` decides what its inputs are: `picture_files.py` reads pictures
(`picture.py` brings one into the data's form), `tables.py` reads IDX and NumPy (`arrays.py` does the same for arrays).
`predict.py` is the loop, `rows.py` makes the rows, `output.py` writes them. `classifier.py` holds the model.
"""
