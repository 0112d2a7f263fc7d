"""Mutation testing: single edits of the package, each of which some test should notice.

    python -m tests.mutation --edits 200 --seed 0 --out results

`edits` lists the edits and chooses some of them, `lines` records which tests run which lines, and
`__main__` applies one edit at a time to a copy of the package and runs the tests of its lines.
"""
