"""Teachers: frames, alignment, batching, layers, finding."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from distill.backbones import find as teachers
from distill.backbones import import_transformers
from distill.backbones.find import load
from distill.backbones.hf import HfTeacher, conv_geometry
from enhance.errors import EnhanceError

KINDS = ["wavlm", "hubert", "wav2vec2"]


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(teacher: HfTeacher, wave: torch.Tensor) -> torch.Tensor:
    """Hidden states of one clip, (L + 1, T', D)."""
    return teacher(wave[None], torch.tensor([len(wave)]))[0][:, 0]


def test_geometry_follows_the_convolutions() -> None:
    assert conv_geometry([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]) == (400, 320)
    assert conv_geometry([10, 8, 4, 4, 4], [5, 4, 2, 2, 2]) == (465, 160)  # wav2vec (2019)
    assert conv_geometry([7], [3]) == (7, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_contract(make_teacher, kind: str) -> None:
    teacher = load(make_teacher(kind))
    assert (teacher.field_samples, teacher.stride_samples) == (400, 320)
    assert (teacher.offset_samples, teacher.causal, teacher.sample_rate) == (-80, False, 16000)
    assert (teacher.num_layers, teacher.widths) == (2, (24, 24, 24))
    assert not any(p.requires_grad for p in teacher.parameters())
    waves = noise(2, 4000).requires_grad_()
    hidden, counts = teacher.train()(waves, torch.tensor([4000, 4000]))
    assert not teacher.training and not hidden.requires_grad
    assert hidden.shape == (3, 2, 12, 24)
    assert counts.tolist() == [12, 12]
    again, _ = teacher(waves, torch.tensor([4000, 4000]))
    assert torch.equal(hidden, again)  # no dropout, no dropped layer (layerdrop is 0.5)


@pytest.mark.parametrize("left_pad", [0, 80, 200])
def test_frame_counts_are_the_models_own(make_teacher, left_pad: int) -> None:
    teacher = load(make_teacher(), left_pad=left_pad)
    for n in [400, 401, 639, 640, 719, 720, 721, 959, 960, 1039, 1040, 5000, 16000]:
        own = teacher.model.feature_extractor(torch.zeros(1, n + left_pad)).shape[-1]
        assert own == (n + left_pad - 400) // 320 + 1 == teacher.frames(n)
        assert int(teacher(torch.zeros(1, n), torch.tensor([n]))[1]) == own
    if left_pad == 80:  # as many as whole strides: those of a causal STFT
        assert [teacher.frames(n) for n in (0, 1, 319, 320, 639, 640)] == [0, 0, 0, 1, 1, 2]


def test_too_short_for_a_frame(make_teacher) -> None:
    teacher = load(make_teacher())
    hidden, counts = teacher(torch.ones(1, 1), torch.tensor([1]))
    assert hidden.shape == (3, 1, 0, 24)
    assert counts.tolist() == [0]
    hidden, counts = teacher(noise(2, 700), torch.tensor([319, 700]))
    assert counts.tolist() == [0, 2]
    assert hidden[:, 0].abs().sum() == 0
    assert hidden.isfinite().all()


@pytest.mark.parametrize("left_pad", [80, 0])
def test_impulse_moves_exactly_the_frames_whose_field_holds_it(make_teacher, left_pad: int) -> None:
    # Kernel 1 in the positional convolution and norms per frame: state 0 is local in time.
    teacher = load(make_teacher(num_conv_pos_embeddings=1), left_pad=left_pad)
    wave = noise(3000)
    base = whole(teacher, wave)[0]
    start = teacher.offset_samples + teacher.stride_samples * torch.arange(len(base))
    for n in [0, 1, 239, 240, 319, 320, 321, 399, 560, 639, 640, 1300, 2799]:
        moved = wave.clone()
        moved[n] += 3
        change = (whole(teacher, moved)[0] - base).abs().amax(-1)
        expected = (start <= n) & (n < start + teacher.field_samples)
        assert torch.equal(change > 0, expected), n


def unequal(make_teacher, kind: str, norm: str, **config: object) -> tuple[HfTeacher, float]:
    """Largest change of any frame by batching clips of lengths 8000, 5000, 5000, 300."""
    teacher = load(make_teacher(kind, norm, **config))
    waves, sizes = noise(4, 8000), [8000, 5000, 5000, 300]
    hidden, counts = teacher(waves, torch.tensor(sizes))
    worst = 0.0
    for row, size in enumerate(sizes):
        alone = whole(teacher, waves[row, :size])
        assert alone.shape[1] == counts[row] == size // 320
        if size >= 320:
            together = hidden[:, row, : alone.shape[1]]
            worst = max(worst, (together - alone).abs().max().item())
        assert hidden[:, row, alone.shape[1] :].abs().sum() == 0
    return teacher, worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("normalize", [True, False])
def test_batching_never_changes_a_frame(make_teacher, kind, norm, normalize) -> None:
    stable = norm == "layer"
    teacher, worst = unequal(
        make_teacher, kind, norm, normalize=normalize, do_stable_layer_norm=stable
    )
    assert teacher.equal_lengths_only == (norm == "group")
    # States are of size 1 to 10; 3e-5 is float32 rounding of sums in another order.
    assert worst < 3e-5


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_who_runs_together(make_teacher, norm: str) -> None:
    """Layer-norm models: all at once, with a mask. Group-norm models: equal lengths only."""
    teacher = load(make_teacher("hubert", norm), left_pad=0)
    calls: list[tuple[int, list[int] | None]] = []

    def note(_: object, args: tuple[torch.Tensor], kwargs: dict) -> None:
        mask = kwargs["attention_mask"]
        calls.append((args[0].shape[1], None if mask is None else mask.sum(1).tolist()))

    teacher.model.register_forward_pre_hook(note, with_kwargs=True)
    teacher(noise(5, 8000), torch.tensor([5000, 8000, 5000, 300, 401]))
    expected = {
        "layer": [(8000, [5000, 8000, 5000, 401])],  # 300 samples are no frame
        "group": [(5000, None), (8000, None), (401, None)],
    }
    assert calls == expected[norm]


def test_l_plus_one_states_or_none(make_teacher, monkeypatch) -> None:
    """A dropped layer, or frames that the config does not promise, are told, never padded."""
    teacher = load(make_teacher())
    real = teacher.model.forward

    def drop(*args: object, **options: object) -> SimpleNamespace:
        output = real(*args, **options)
        return SimpleNamespace(
            hidden_states=output.hidden_states[1:], last_hidden_state=output.last_hidden_state
        )

    monkeypatch.setattr(teacher.model, "forward", drop)
    with pytest.raises(EnhanceError, match="gave 2 hidden states instead of 3"):
        whole(teacher, noise(4000))
    monkeypatch.setattr(teacher.model, "forward", real)
    teacher.stride_samples = 160  # as if the config's conv_stride said so
    with pytest.raises(EnhanceError, match="made 12 frames of 4080 samples, not 24"):
        whole(teacher, noise(4000))


def test_batching_with_a_batch_norm_before_the_positions(make_teacher) -> None:
    teacher, worst = unequal(make_teacher, "hubert", "layer", conv_pos_batch_norm=True)
    assert teacher.equal_lengths_only
    assert worst < 3e-5


def test_group_norm_would_change_under_padding(make_teacher) -> None:
    """The hazard is real: the same model, padded with a mask, gives other frames."""
    teacher = load(make_teacher("wavlm", "group"))
    wave = noise(5000)
    alone = whole(teacher, wave)
    padded = torch.zeros(1, 8080)
    padded[0, 80:5080] = wave
    mask = (torch.arange(8080) < 5080).long()[None]
    with torch.no_grad():
        last = teacher.model(padded, attention_mask=mask).last_hidden_state[0, :15]
    assert (last - alone[-1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_last_state_is_behind_the_final_norm(make_teacher, kind: str) -> None:
    teacher = load(make_teacher(kind, do_stable_layer_norm=True))
    wave = noise(4000)
    with torch.no_grad():
        own = teacher.model(F.pad(wave, (80, 0))[None], output_hidden_states=True)
    hidden = whole(teacher, wave)
    assert torch.equal(hidden[-1], own.last_hidden_state[0])
    assert (own.hidden_states[-1] - own.last_hidden_state).abs().max() > 0.1
    for k in range(2):
        assert torch.equal(hidden[k], own.hidden_states[k][0])


def test_do_normalize_is_honoured(make_teacher) -> None:
    wave = noise(4000)
    plain = load(make_teacher(normalize=False))
    normal = load(make_teacher(normalize=True))
    assert torch.equal(plain.model.feature_projection.projection.weight,
                       normal.model.feature_projection.projection.weight)  # fmt: skip
    extractor = import_transformers().Wav2Vec2FeatureExtractor(do_normalize=True)
    by_library = extractor(wave.numpy() * 5 + 1, sampling_rate=16000).input_values[0]
    expected = whole(plain, torch.from_numpy(by_library))
    torch.testing.assert_close(whole(normal, wave * 5 + 1), expected, atol=2e-5, rtol=0)
    assert (whole(plain, wave * 5 + 1) - whole(plain, wave)).abs().max() > 0.1
    assert whole(normal, torch.zeros(4000)).isfinite().all()


def test_fingerprint(make_teacher, tmp_path: Path) -> None:
    folder = make_teacher()
    one = load(folder)
    assert one.fingerprint == load(folder).fingerprint != load(folder, left_pad=0).fingerprint
    assert load(make_teacher(seed=1)).fingerprint != one.fingerprint
    assert load(make_teacher(normalize=True)).fingerprint != one.fingerprint
    copy = edit(folder, tmp_path, "config.json", transformers_version="0")  # not what counts
    assert load(copy).fingerprint == one.fingerprint


def test_a_mask_embedding_that_is_not_there_is_not_random(make_teacher, tmp_path: Path) -> None:
    """It serves pre-training only; a random one would change the fingerprint at every load."""
    from safetensors.torch import load_file, save_file

    folder = edit(make_teacher(), tmp_path, "config.json")
    weights = load_file(folder / "model.safetensors")
    del weights["masked_spec_embed"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    one, two = load(folder), load(folder)
    assert one.fingerprint == two.fingerprint
    assert torch.equal(whole(one, noise(4000)), whole(load(make_teacher()), noise(4000)))


def test_half_precision_weights_run_in_float32(make_teacher, tmp_path: Path) -> None:
    transformers = import_transformers()
    folder = make_teacher()
    model = transformers.WavLMModel.from_pretrained(folder)
    model.half().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    teacher = load(tmp_path)
    assert all(p.dtype == torch.float32 for p in teacher.parameters())
    a, b = whole(teacher, noise(4000)), whole(load(folder), noise(4000))
    assert 0 < (a - b).abs().max() < 0.05


def test_bf16_autocast_does_not_reach_the_teacher(make_teacher) -> None:
    teacher = load(make_teacher())
    plain = whole(teacher, noise(4000))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whole(teacher, noise(4000)), plain)


def test_a_torchaudio_that_does_not_fit_is_hidden(monkeypatch) -> None:
    """transformers would import it, and fail with it, though nothing here needs it."""

    class Broken:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "torchaudio":
                raise RuntimeError("compiled with different CUDA versions")

    for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    try:
        assert import_transformers().__name__ == "transformers"
        assert sys.modules["torchaudio"] is None
        with pytest.raises(ImportError):
            import torchaudio  # noqa: F401
    finally:
        sys.modules.pop("torchaudio", None)


# Finding and refusing ---------------------------------------------------------------------------


def test_shipped_name_comes_first(make_teacher, tmp_path, monkeypatch) -> None:
    folder = make_teacher()
    monkeypatch.setattr(teachers, "SHIPPED", folder.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder.name).mkdir()  # an empty folder of that name in the way
    assert teachers.resolve(folder.name) == folder
    assert load(folder.name).name == folder.name
    assert teachers.resolve(str(tmp_path)) == tmp_path


def test_hub(make_teacher, monkeypatch, capsys) -> None:
    import huggingface_hub

    folder, calls = make_teacher(), []
    files = ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin",
             "README.md"]  # fmt: skip
    siblings = [SimpleNamespace(rfilename=name, size=2_000_000) for name in files]

    def snapshot(repo: str, **options: object) -> str:
        calls.append((repo, options))
        if options.get("local_files_only"):
            raise OSError("not cached")
        return str(folder)

    def info(self: object, repo: str, files_metadata: bool) -> SimpleNamespace:
        return SimpleNamespace(sha="abc", siblings=siblings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    assert load("some-org/some.model").num_layers == 2
    assert calls[-1] == ("some-org/some.model", {"revision": "abc", "allow_patterns": files[:3]})
    said = " ".join(capsys.readouterr().err.split())
    assert "downloading teacher some-org/some.model" in said
    assert "6 MB" in said

    def refuse(self: object, repo: str, files_metadata: bool) -> SimpleNamespace:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(EnhanceError, match=r"no route to host\).*local folder") as caught:
        load("some-org/some.model")
    assert "\n" not in str(caught.value)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(folder))
    assert teachers.resolve("some-org/some.model") == folder  # already fetched: nobody is asked
    assert capsys.readouterr().err == ""


def test_hub_id_of_speechbrain(monkeypatch, tmp_path: Path) -> None:
    """Their repositories have files of their own; only those an encoder needs are fetched."""
    import huggingface_hub

    files = ["README.md", "classifier.ckpt", "config.json", "embedding_model.ckpt",
             "hyperparams.yaml", "label_encoder.txt", "mean_var_norm_emb.ckpt"]  # fmt: skip
    calls = []

    def snapshot(repo: str, **options: object) -> str:
        calls.append(options)
        if options.get("local_files_only"):
            return str(tmp_path)  # of an earlier call that was broken off
        for name in options["allow_patterns"]:
            (tmp_path / name).write_text("")
        return str(tmp_path)

    def info(self: object, repo: str, files_metadata: bool) -> SimpleNamespace:
        siblings = [SimpleNamespace(rfilename=name, size=1_000_000) for name in files]
        return SimpleNamespace(sha="abc", siblings=siblings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    assert teachers.resolve("speechbrain/spkrec-ecapa-voxceleb") == tmp_path
    assert calls[-1]["allow_patterns"] == ["hyperparams.yaml", "embedding_model.ckpt"]
    assert teachers.resolve("speechbrain/spkrec-ecapa-voxceleb") == tmp_path
    assert len(calls) == 3  # the third found everything there


def edit(folder: Path, tmp_path: Path, name: str, **changes: object) -> Path:
    """A copy of a model folder with one JSON file changed."""
    target = tmp_path / "edited"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    values = {**json.loads((folder / name).read_text()), **changes}
    (target / name).write_text(json.dumps(values))
    return target


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("config.json", {"model_type": "bert"}, "model_type 'bert'.*wavlm"),
        ("config.json", {"num_hidden_layers": 3}, "weights are missing"),
        ("config.json", {"hidden_size": 32}, "cannot be loaded|another shape"),
        ("preprocessor_config.json", {"do_normalize": None}, "do_normalize"),
        ("preprocessor_config.json", {"sampling_rate": "high"}, "sampling_rate is 'high'"),
        ("config.json", {"model": {}, "model_type": None}, "is an enhancer; .* encoder:/"),
        ("config.json", {"model_type": ["wavlm"]}, "model_type .'wavlm'. is no teacher"),
    ],
)
def test_refusals(make_teacher, tmp_path, name, changes, match) -> None:
    with pytest.raises(EnhanceError, match=match) as caught:
        load(edit(make_teacher(), tmp_path, name, **changes))
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(make_teacher, tmp_path: Path) -> None:
    with pytest.raises(EnhanceError, match="no teacher of this name"):
        load("nothing-here")
    with pytest.raises(EnhanceError, match=r"config\.json: not there"):
        load(tmp_path)
    folder = edit(make_teacher(), tmp_path, "config.json")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EnhanceError, match="preprocessor_config"):
        load(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(EnhanceError, match="cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_bad_input(make_teacher) -> None:
    teacher = load(make_teacher())
    with pytest.raises(EnhanceError, match="lengths"):
        teacher(torch.zeros(1, 400), torch.tensor([401]))
    with pytest.raises(EnhanceError, match="shapes"):
        teacher(torch.zeros(400), torch.tensor([400]))
    with pytest.raises(EnhanceError, match="left_pad"):
        load(make_teacher(), left_pad=400)


def test_the_fingerprint_does_not_depend_on_threads() -> None:
    """Folding weight norm does: a sum over many weights is parted among the threads."""
    from distill.backbones import import_transformers
    from distill.backbones.hf import HfTeacher

    transformers = import_transformers()
    sizes = {"hidden_size": 192, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.WavLMConfig(**sizes, num_conv_pos_embedding_groups=12)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            model = transformers.WavLMModel(config)
            found.append(HfTeacher(model, "x", sample_rate=16000, do_normalize=True).fingerprint)
    finally:
        torch.set_num_threads(threads)
    assert len(set(found)) == 1
