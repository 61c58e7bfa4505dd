"""What benchmarks/fuzz_checkpoints.py is made of.

`corpus` makes the files, `mutants` changes them (`byte_changes`, and one module for each format),
`worker` reads them with `readers` and checks what happens, `run` looks after the workers, and
`state` is what is known so far.
"""
