"""Mutated images and tables: none may crash, hang, take the memory, or lose a row.

`python -m tests.fuzz --count 20000` runs the cases 0 to 19999 and prints the counts. A case is a
function of its number, so `--first N --count 1` makes any one of them again.
"""
