"""What self-supervised speech models can teach a small causal enhancer.

Teachers are found by `distill.teacher.load`; `distill.l1` is the first way to learn from one.
Nothing of this package is needed to run an enhancer.
"""
