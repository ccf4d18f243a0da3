"""Side-by-side measurements: a plain loop against our engine, the time to an accuracy, inference.

    commands/bench → speed | time_to | predict           this process: no torch, decides whose turn it is
                        └ contender ⇄ child              one process for each thing measured, one at work at a time
                             └ plain · engine · matrix · whole_run · inference

Every contender lives in a process of its own, so that its memory is its own and nothing that one of them sets (threads,
allocator, kernels) reaches another; they wait on a pipe, which takes no processor time, until it is their turn.
"""
