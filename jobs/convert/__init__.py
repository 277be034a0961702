"""Convert pictures, NumPy, CSV, CIFAR and Parquet files to IDX, and IDX to PNG folders or NumPy.

A source is read once, in its own order. Its images are staged in a plain file; the archives are written from there, so
memory does not grow with the number of images. The same source and options give the same bytes.

`convert.py` is the entry. `pictures.py` collects pictures: `entries.py` lists them, `picture.py` decodes one,
`layout.py` finds splits and classes. `csv_file.py`, `npz.py`, `cifar.py` and `parquet.py` read tables of numbers.
`archives.py` writes IDX; `export.py` reads it.
"""
