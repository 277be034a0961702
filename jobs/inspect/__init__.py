"""Show what is in IDX archives: in the terminal, and as one page.

`archives.py` finds the archives of a path, `survey.py` reads each once, `text.py` and `html.py` show the result.
"""
