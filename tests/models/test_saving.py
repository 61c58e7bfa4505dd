"""What `save_pretrained` and `from_pretrained` take beside a directory."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import IDS, MASK, TINY

import offramp
from offramp import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from offramp.storage.manifest import MANIFEST_FILE


def new_model(**settings: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**TINY, **settings})).eval()


def logits(model: BertForSequenceClassification) -> torch.Tensor:
    return model(IDS, MASK).logits


load = BertForSequenceClassification.from_pretrained


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    new_model().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != MANIFEST_FILE)


# Names of files


class OwnFiles(BertForSequenceClassification):
    model_config_file = "settings.json"
    resource_files_names = {"model_state": "state.safetensors"}


@pytest.mark.parametrize("shards", [None, "1KB"])
def test_a_class_with_file_names_of_its_own(tmp_path: Path, shards: str | None) -> None:
    torch.manual_seed(0)
    model = OwnFiles(BertConfig(**TINY)).eval()
    model.save_pretrained(tmp_path, max_shard_size=shards)
    files = names(tmp_path)
    assert "settings.json" in files
    assert "config.json" not in files
    assert not any(name.startswith("model") for name in files)
    assert ("state.safetensors" in files) is (shards is None)
    torch.testing.assert_close(logits(OwnFiles.from_pretrained(tmp_path)), logits(model))
    with pytest.raises(offramp.ModelNotFoundError, match=r"config\.json"):
        load(tmp_path)


def test_model_config_json_is_read_too(saved: Path) -> None:
    expected = logits(load(saved))
    (saved / "config.json").rename(saved / "model_config.json")
    torch.testing.assert_close(logits(load(saved)), expected)
    assert BertConfig.from_pretrained(saved).hidden_size == TINY["hidden_size"]
    text = '{"init_args": [7, 8, 1, 2, 16, "gelu", 0.0], "init_class": "BertModel"}'
    (saved / "model_config.json").write_text(text)
    config = BertConfig.from_pretrained(saved)
    assert (config.vocab_size, config.num_attention_heads, config.hidden_act) == (7, 2, "gelu")
    assert config.hidden_dropout_prob == 0.0
    (saved / "model_config.json").write_text('{"init_args": [[7]], "init_class": "BertModel"}')
    with pytest.raises(offramp.ConfigError, match="which takes 14 by position"):
        load(saved)


# Options of loading


@pytest.mark.parametrize("dtype", [torch.float16, "float16", "torch.float16"])
def test_dtype_by_name(saved: Path, dtype: Any) -> None:
    assert load(saved, dtype=dtype).dtype is torch.float16
    assert load(saved, dtype="auto").dtype is torch.float32


@pytest.mark.parametrize("dtype", ["float17", "int8", torch.int64, 16, "nn"])
def test_a_dtype_that_is_none(saved: Path, dtype: Any) -> None:
    with pytest.raises(offramp.ConfigError, match="floating type"):
        load(saved, dtype=dtype)


def test_a_device_is_where_the_model_goes(saved: Path) -> None:
    assert load(saved, device=torch.device("cpu")).device.type == "cpu"
    with torch.device("cuda:99"):  # torch's default device
        with pytest.raises(offramp.ConfigError, match="The default device cannot be used here"):
            load(saved)
        assert load(saved, load_state_as_np=True).device.type == "cpu"
        assert load(saved, device="cpu").device.type == "cpu"


def test_a_model_is_never_loaded_without_values(saved: Path) -> None:
    with torch.device("meta"):
        with pytest.raises(offramp.ConfigError, match="tensors there have no values"):
            load(saved)
        model = load(saved, load_state_as_np=True)
    assert torch.equal(logits(model), logits(load(saved)))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5, "meta"])
def test_a_device_that_is_not_there(saved: Path, device: Any) -> None:
    with pytest.raises(offramp.ConfigError, match="cannot be used here"):
        load(saved, device=device)


def test_weights_are_views_of_the_mapped_file(saved: Path) -> None:
    """The kernel's own list of mappings says which file an address belongs to."""
    model = load(saved, load_state_as_np=True)
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(saved / "model.safetensors")):
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            assert line.split()[1].endswith("p"), "a private mapping"
            ranges.append(range(low, high))
    for name, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in span for span in ranges), name
    before = (saved / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)  # a write is the process's own
    assert (saved / "model.safetensors").read_bytes() == before


def test_a_state_dict_takes_the_place_of_the_file(saved: Path) -> None:
    other = new_model()
    with torch.no_grad():
        other.classifier.bias += 1
    state = other.state_dict()
    found = load(saved, state_dict=state)
    assert torch.equal(logits(found), logits(other))
    found.classifier.bias.data += 1
    assert torch.equal(state["classifier.bias"], other.classifier.bias)
    (saved / "model.safetensors").unlink()
    assert torch.equal(logits(load(saved, state_dict=state)), logits(other))
    del state["bert.embeddings.LayerNorm.weight"]
    with pytest.raises(offramp.CheckpointError, match="the state_dict given.*missing"):
        try:
            load(saved, state_dict=state)
        except offramp.CheckpointError as error:
            raise type(error)(str(error).replace("\n", " ")) from None


def test_a_model_of_tensors_and_a_configuration_alone() -> None:
    model = new_model()
    state = model.state_dict()
    found, report = load(None, config=model.config, state_dict=state, output_loading_info=True)
    assert report.initialised == report.dropped == ()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    assert not found.training
    for given in ({}, {"config": model.config}, {"state_dict": state}):
        with pytest.raises(offramp.ConfigError, match="both config= and state_dict="):
            load(None, **given)


def test_the_older_name_of_dtype(saved: Path) -> None:
    assert load(saved, torch_dtype="float16").dtype is torch.float16
    with pytest.raises(offramp.ConfigError, match="one setting"):
        load(saved, dtype=torch.float32, torch_dtype=torch.float16)


def test_pickles_are_not_written(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(offramp.ConfigError, match="use_safetensors is True, False or None"):
        load(saved, use_safetensors="pt")
    assert load(saved, use_safetensors=True)
    with pytest.raises(offramp.ModelNotFoundError, match="expected pytorch_model.bin"):
        load(saved, use_safetensors=False)
    with pytest.raises(offramp.UnsupportedError, match="safetensors alone"):
        new_model().save_pretrained(tmp_path / "x", safe_serialization=False)
    assert not (tmp_path / "x").exists()


def test_a_misspelt_option_names_the_nearest(saved: Path) -> None:
    with pytest.raises(offramp.UnknownOptionError, match="Did you mean 'device'"):
        load(saved, devise="cpu")
    with pytest.raises(offramp.UnknownOptionError, match="Did you mean 'dtype'"):
        load(saved, dtipe="float16")


# Options of saving


def test_what_lay_beside_the_weights_goes_along(saved: Path, tmp_path: Path) -> None:
    beside = {"vocab.txt": "[UNK]\nä\n", "tokenizer.json": "{}", "generation_config.json": "{} "}
    for name, text in beside.items():
        (saved / name).write_text(text)
    (saved / "README.md").write_text("not the model's")
    load(saved).save_pretrained(tmp_path / "again")
    assert names(tmp_path / "again") == sorted([*beside, "config.json", "model.safetensors"])
    for name, text in beside.items():
        assert (tmp_path / "again" / name).read_text() == text


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    new_model().save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


def test_a_state_dict_is_written_in_place_of_the_models(tmp_path: Path) -> None:
    model = new_model()
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "x", state_dict=state)
    found = load(tmp_path / "x").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    for wrong in (
        {name: state[name] for name in list(state)[1:]},
        {**state, "more": torch.zeros(1)},
        {**state, "classifier.bias": torch.zeros(7)},
    ):
        with pytest.raises(offramp.CheckpointError, match="differ in name, shape or kind"):
            model.save_pretrained(tmp_path / "y", state_dict=wrong)
    assert not (tmp_path / "y").exists()


def test_tied_weights_of_a_given_state_dict_are_written_once(tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**TINY)).eval()
    state = model.state_dict()
    assert "cls.predictions.decoder.weight" in state
    model.save_pretrained(tmp_path, state_dict=state, max_shard_size=500)
    found = BertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(found(IDS, MASK).logits, model(IDS, MASK).logits)


def test_weights_of_an_earlier_save_do_not_stay(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path, max_shard_size="1KB", variant="fp16")
    model.save_pretrained(tmp_path, max_shard_size="1KB")
    model.save_pretrained(tmp_path)
    assert names(tmp_path) == ["config.json", "model.safetensors"]


def test_a_variant_lies_beside_the_others(tmp_path: Path) -> None:
    model = new_model()
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size="1KB")
    model.save_pretrained(tmp_path, variant="fp16")
    model.half().save_pretrained(tmp_path, variant="bf16")
    files = ["config.json", *(f"model{v}.safetensors" for v in (".bf16", ".fp16", ""))]
    assert names(tmp_path) == sorted(files)
    assert load(tmp_path).dtype is torch.float32
    assert load(tmp_path, variant="bf16").dtype is torch.float16
    model.save_pretrained(tmp_path)  # a new model: the others are of an earlier one
    assert names(tmp_path) == ["config.json", "model.safetensors"]


def test_files_that_are_not_the_model_s_weights_stay(tmp_path: Path) -> None:
    others = ["adapter_model.safetensors", "optimizer.bin", "vectors.bin", "notes.md", "model.py"]
    weights = [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "model_state.pdparams",
        "tf_model.h5",
        "flax_model.msgpack",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
    ]
    for name in (*others, *weights):
        (tmp_path / name).write_text("old")
    new_model().save_pretrained(tmp_path)
    assert names(tmp_path) == sorted([*others, "config.json", "model.safetensors"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_pair_of_a_given_state_dict_must_agree(tied: bool, tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**TINY, tie_word_embeddings=tied)).eval()
    state = dict(model.state_dict())
    decoder, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    state[decoder] = state[words] + 1
    if not tied:
        model.save_pretrained(tmp_path, state_dict=state)
        found = BertForMaskedLM.from_pretrained(tmp_path).state_dict()
        assert torch.equal(found[decoder], state[decoder])
        return
    with pytest.raises(offramp.CheckpointError, match="one tensor of this BertForMaskedLM"):
        model.save_pretrained(tmp_path / "x", state_dict=state)
    del state[words]  # either name of the pair will do
    model.save_pretrained(tmp_path / "x", state_dict=state)
    found = BertForMaskedLM.from_pretrained(tmp_path / "x").state_dict()
    assert torch.equal(found[words], state[decoder])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1], "mapping of names"),
        ({1: torch.zeros(1)}, "under a text"),
        ({"a": [1.0]}, "is a list"),
        ({"a": torch.zeros(1, device="meta")}, "meta device"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "sparse"),
    ],
)
def test_a_state_dict_that_is_none(bad: Any, message: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(offramp.CheckpointError, match=message):
        load(saved, state_dict=bad)
    with pytest.raises(offramp.CheckpointError, match=message):
        new_model().save_pretrained(tmp_path / "x", state_dict=bad)
    assert not (tmp_path / "x").exists()


def test_tensors_that_share_memory_are_each_written_whole(tmp_path: Path) -> None:
    model = new_model()
    state = dict(model.state_dict())
    both = torch.arange(16.0)
    state["bert.embeddings.LayerNorm.weight"] = both[:8]
    state["bert.embeddings.LayerNorm.bias"] = both[4:12]
    model.half().save_pretrained(tmp_path, state_dict=state)
    found = load(tmp_path)
    assert found.dtype is torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert found.bert.embeddings.LayerNorm.bias.tolist() == list(range(4, 12))


@pytest.mark.parametrize("target", ["a\0b", "x" * 300, "~no-such-user/x", "\udc80" * 300])
def test_a_path_that_cannot_be(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for save in (new_model().save_pretrained, BertConfig().save_pretrained):
        with pytest.raises(offramp.SaveError):
            save(target)
    assert names(tmp_path) == []


def test_home_is_where_it_is_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = new_model()
    model.save_pretrained("~/model")
    BertConfig(**TINY).save_pretrained("~/config")
    assert torch.equal(load("~/model").classifier.weight, model.classifier.weight)
    assert BertConfig.from_pretrained("~/config").hidden_size == TINY["hidden_size"]
    assert names(tmp_path) == ["config", "model"]


@pytest.mark.parametrize("name", ["strict", "load_state_as_np", "ignore_mismatched_sizes"])
def test_an_option_is_true_or_false(name: str, saved: Path) -> None:
    with pytest.raises(offramp.ConfigError, match=f"{name} is True or False; got 'no'"):
        load(saved, **{name: "no"})


def test_options_that_a_path_does_not_have(saved: Path) -> None:
    for options in ({"revision": "v2"}, {"force_download": True}):
        with pytest.raises(offramp.ConfigError, match="lies on this machine"):
            load(saved, **options)
    assert load(saved, revision="main", local_files_only=True)
    with pytest.raises(offramp.ConfigError, match="is a file"):
        load(saved / "model.safetensors", subfolder="x")


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(offramp.SaveError, match="is a file"):
        new_model().save_pretrained(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


# Generation, which encoders do not


def test_an_encoder_says_that_it_cannot_generate() -> None:
    model = new_model()
    assert isinstance(model, offramp.GenerationMixin)
    assert issubclass(offramp.PretrainedModel, offramp.GenerationMixin)
    assert not model.can_generate()
    assert not BertModel.can_generate()
    with pytest.raises(NotImplementedError) as caught:
        model.generate(IDS, max_new_tokens=3)
    message = str(caught.value)
    assert "BertForSequenceClassification cannot generate" in message
    assert message.count(".") == 1, "one sentence"


# Many at once


def test_thirty_two_threads_load_at_once(saved: Path) -> None:
    expected = {name: t.clone() for name, t in load(saved).state_dict().items()}
    start = threading.Barrier(32)
    random, dtype = torch.get_rng_state(), torch.get_default_dtype()

    def one(number: int) -> Mapping[str, torch.Tensor]:
        start.wait()
        return load(saved, dtype=torch.float64 if number % 2 else None).state_dict()

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, range(32)))
    for number, state in enumerate(found):
        wanted = torch.float64 if number % 2 else torch.float32
        assert state.keys() == expected.keys()
        for name, tensor in state.items():
            assert tensor.dtype is wanted
            assert torch.equal(tensor.float(), expected[name])
    assert torch.get_default_dtype() is dtype
    assert torch.equal(torch.get_rng_state(), random), "loading draws no random number"


def test_loading_in_one_thread_leaves_anothers_modules_and_devices_alone(saved: Path) -> None:
    """Another thread builds models meanwhile: none of them is left on the meta device."""
    stop = threading.Event()
    wrong: list[str] = []

    def build() -> None:
        while not stop.is_set():
            layer = torch.nn.Linear(3, 3)
            if layer.weight.is_meta or layer.weight.dtype is not torch.float32:
                wrong.append(str(layer.weight))

    builder = threading.Thread(target=build)
    builder.start()
    try:
        for _ in range(20):
            load(saved, dtype=torch.float16)
    finally:
        stop.set()
        builder.join()
    assert not wrong


def test_a_save_is_what_transformers_reads(saved: Path) -> None:
    theirs = transformers.BertForSequenceClassification.from_pretrained(saved).eval()
    torch.testing.assert_close(theirs(IDS, MASK).logits, logits(load(saved)), atol=1e-5, rtol=0)
    stated = json.loads((saved / "config.json").read_text())
    assert stated["architectures"] == ["BertForSequenceClassification"]
