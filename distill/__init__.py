"""What self-supervised speech models can teach a small causal enhancer.

Teachers are found by `distill.backbones.find.load`; `distill.modes.distill` is the first way to
learn from one. Nothing of this package is needed to run an enhancer.
"""
