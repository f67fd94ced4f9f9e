"""A recogniser of speechbrain as published ones are laid out, tiny and with random weights."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
from hyperpyyaml import load_hyperpyyaml

from distill.backbones.ecapa_model import import_speechbrain

SETTINGS = """
pretrained_path: nobody/a-recogniser-that-is-nowhere
sample_rate: 16000
n_fft: 400
n_mels: 12
activation: !name:torch.nn.LeakyReLU
output_neurons: 30
neurons: 8
cnn_kernelsize: (3, 3)
normalizer: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: !ref <n_fft>
    n_mels: !ref <n_mels>
enc: !new:speechbrain.lobes.models.CRDNN.CRDNN
    input_shape: [null, null, !ref <n_mels>]
    activation: !ref <activation>
    cnn_blocks: 2
    cnn_channels: (4, 8)
    cnn_kernelsize: !ref <cnn_kernelsize>
    inter_layer_pooling_size: (2, 2)
    time_pooling: True
    time_pooling_size: 4
    rnn_class: !name:speechbrain.nnet.RNN.LSTM
    rnn_layers: 1
    rnn_neurons: !ref <neurons>
    rnn_bidirectional: True
    dnn_blocks: 1
    dnn_neurons: !ref <neurons>
emb: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <output_neurons>
    embedding_dim: 6
dec: !new:speechbrain.nnet.RNN.AttentionalRNNDecoder
    enc_dim: !ref <neurons>
    input_size: 6
    rnn_type: gru
    attn_type: location
    hidden_size: 8
    attn_dim: 8
    num_layers: 1
    scaling: 1.0
    channels: 4
    kernel_size: 5
seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: 8
    n_neurons: !ref <output_neurons>
ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <neurons>
    n_neurons: !ref <output_neurons>
lm_model: !new:speechbrain.lobes.models.RNNLM.RNNLM
    output_neurons: !ref <output_neurons>
    embedding_dim: 6
    activation: !name:torch.nn.LeakyReLU
    rnn_layers: 1
    rnn_neurons: 8
    dnn_blocks: 1
    dnn_neurons: 8
    return_hidden: True
tokenizer: !new:sentencepiece.SentencePieceProcessor
asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <emb>, !ref <dec>, !ref <ctc_lin>, !ref <seq_lin>]
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    input_shape: [null, null, !ref <n_mels>]
    compute_features: !ref <compute_features>
    normalize: !ref <normalizer>
    model: !ref <enc>
coverage_scorer: !new:speechbrain.decoders.scorer.CoverageScorer
    vocab_size: !ref <output_neurons>
rnnlm_scorer: !new:speechbrain.decoders.scorer.RNNLMScorer
    language_model: !ref <lm_model>
    temperature: 1.25
scorer: !new:speechbrain.decoders.scorer.ScorerBuilder
    full_scorers: [!ref <rnnlm_scorer>, !ref <coverage_scorer>]
    weights:
        rnnlm: 0.5
        coverage: 1.5
decoder: !new:speechbrain.decoders.S2SRNNBeamSearcher
    embedding: !ref <emb>
    decoder: !ref <dec>
    linear: !ref <seq_lin>
    bos_index: 0
    eos_index: 0
    min_decode_ratio: 0.3
    max_decode_ratio: 0.6
    beam_size: 3
    using_eos_threshold: False
    temperature: 1.25
    scorer: !ref <scorer>
modules:
    encoder: !ref <encoder>
    decoder: !ref <decoder>
    lm_model: !ref <lm_model>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        normalizer: !ref <normalizer>
        asr: !ref <asr_model>
        lm: !ref <lm_model>
        tokenizer: !ref <tokenizer>
    paths:
        normalizer: !ref <pretrained_path>/normalizer.ckpt
        asr: !ref <pretrained_path>/asr.ckpt
        lm: !ref <pretrained_path>/lm.ckpt
        tokenizer: !ref <pretrained_path>/tokenizer.ckpt
"""


def make(folder: Path, seed: int = 0) -> None:
    """Write the folder: settings, weights, statistics, tokenizer."""
    import_speechbrain("speechbrain")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(SETTINGS, "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = load_hyperpyyaml(io.StringIO(SETTINGS))
        values["asr_model"].eval()
        for parameter in values["asr_model"].parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    torch.save(values["asr_model"].state_dict(), folder / "asr.ckpt")
    torch.save(values["lm_model"].state_dict(), folder / "lm.ckpt")
    statistics = {
        "count": 10,
        "glob_mean": torch.full((12,), -20.0),
        "glob_std": torch.full((12,), 15.0),
        "spk_dict_mean": {},
        "spk_dict_std": {},
        "spk_dict_count": {},
    }  # what older versions wrote
    torch.save(statistics, folder / "normalizer.ckpt")
    words = [
        "GO",
        "STOP",
        "LEFT",
        "RIGHT",
        "YES",
        "NO",
        "RED",
        "BLUE",
        "DOOR",
        "LIGHT",
        "ONE",
        "TEN",
    ]
    text = [" ".join(words[i % 12] for i in range(k, k + 5)) for k in range(60)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=30, minloglevel=2,
        bos_id=-1, eos_id=-1, unk_id=0,
    )  # fmt: skip
    (folder / "tokenizer.ckpt").write_bytes(model.getvalue())
