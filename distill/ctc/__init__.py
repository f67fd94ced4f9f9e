"""Fine-tuning of self-supervised backbones for recognition, by CTC on transcripts.

Graves et al., "Connectionist temporal classification", ICML 2006; as Baevski et al., "wav2vec 2.0",
2020, section 3.3, fine-tune: one linear layer on the last state.
"""
