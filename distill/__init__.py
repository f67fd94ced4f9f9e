"""What self-supervised speech models can teach a small causal enhancer.

Teachers are found by `distill.teacher.contract.load`; `distill.modes.distill` is the first way to
learn from one. Nothing of this package is needed to run an enhancer.
"""
