"""Writing: transformers' tokens, one by one and in batches; what is drawn; what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats
import torch
import transformers
from gpt2_pairs import EOS, PAD, Case, case, models, trimmed

import offramp
from offramp import ConfigError, InputError
from offramp.generation.config import GenerationConfig
from offramp.generation.processors import Texts, processors_of, warpers_of

SEEDS = range(24)


def as_theirs(of: Case) -> bool:
    """Whether a batch's texts are transformers'; each of a ragged batch, if not, is those alone."""
    ours = of.ours.generate(of.ids, attention_mask=of.mask, **of.options)
    found = of.theirs.generate(
        of.ids,
        attention_mask=of.mask,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **of.options,
    )
    theirs = found.sequences
    if "num_beams" in of.options:
        # Where there are fewer ways than texts asked for, they fill up with a tie of nothings.
        none = found.sequences_scores < -1e8
        assert bool((ours[none, of.ids.shape[1] :] == PAD).all())
        theirs, ours = theirs[~none], ours[~none]
    if theirs.shape == ours.shape and torch.equal(theirs, ours):
        return True
    # Their padding counts among the words before: a row's text depends on those beside it.
    assert of.ragged, (theirs, ours)
    texts = of.ours.generate(of.ids, attention_mask=of.mask, **of.options)
    each = of.options.get("num_return_sequences", 1)
    for row in range(len(of.ids)):
        assert trimmed(texts[row * each, of.ids.shape[1] :]) == of.theirs_of(row)
    return False


@pytest.mark.parametrize("seed", SEEDS)
def test_the_likeliest_tokens_are_theirs(seed: int) -> None:
    as_theirs(case(seed, beams=False))


@pytest.mark.parametrize("seed", SEEDS)
def test_beams_are_theirs(seed: int) -> None:
    as_theirs(case(seed + 1000, beams=True))


@pytest.mark.slow
@pytest.mark.parametrize("beams", [False, True])
def test_five_hundred_cases(beams: bool) -> None:
    same = [as_theirs(case(seed + 5000, beams=beams)) for seed in range(500)]
    print(f"{sum(same)} of {len(same)} batches are transformers'; the rest as its rows alone")
    assert sum(same) > 480


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_does_not_depend_on_those_beside_it(seed: int, beams: int) -> None:
    _, ours = models(seed)
    prompts = [[5, 6, 7, 8, 9], [4], [3, 3, 3], [11, 5]]
    how: dict[str, Any] = {"max_new_tokens": 12, "num_beams": beams, "no_repeat_ngram_size": 2}
    for drawn in ({}, {"do_sample": True, "temperature": 1.5, "seed": [1, 2, 3, 4]}):
        together = ours.generate(prompts, **how, **drawn)
        for row, prompt in enumerate(prompts):
            own = {**drawn, "seed": [drawn["seed"][row]]} if drawn else {}
            alone = ours.generate([prompt], **how, **own)
            assert trimmed(together[row, 5:]) == trimmed(alone[0, len(prompt) :])


def test_lists_are_as_a_padded_tensor() -> None:
    _, ours = models(3)
    ids = torch.tensor([[PAD, PAD, 5], [4, 6, 7]])
    expected = ours.generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=4)
    assert torch.equal(ours.generate([[5], [4, 6, 7]], max_new_tokens=4), expected)
    assert torch.equal(ours.generate(ids, max_new_tokens=4), expected)  # guessed, as they guess it
    assert ours.generate(max_new_tokens=1)[0, 0] == 0  # bos_token_id


# What is drawn

WARPS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"typical_p": 0.6},
    {"temperature": 1.4, "top_k": 12, "top_p": 0.9},
)


def chances(theirs: Any, prompt: list[int], how: dict[str, Any]) -> torch.Tensor:
    """The next token's probabilities, by transformers' model and its classes of what is left."""
    kinds = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
        "typical_p": transformers.TypicalLogitsWarper,
    }
    ids = torch.tensor([prompt])
    with torch.no_grad():
        scores = theirs(ids).logits[:, -1].float()
    for name, value in how.items():
        scores = kinds[name](value)(ids, scores)
    found: torch.Tensor = scores[0].double().softmax(-1)
    return found


@pytest.mark.parametrize("how", WARPS, ids=str)
def test_two_tokens_are_drawn_as_their_probabilities_say(how: dict[str, Any]) -> None:
    theirs, ours = models(7)
    theirs.config.eos_token_id = ours.config.eos_token_id = None
    draws, words = 4000, ours.config.vocab_size
    drawn = ours.generate(
        [[4, 5]], max_new_tokens=2, do_sample=True, num_return_sequences=draws, seed=0, **how
    )
    pairs = drawn[:, 2] * words + drawn[:, 3]
    first = chances(theirs, [4, 5], how)
    both = torch.zeros(words, words, dtype=torch.float64)
    for word in range(words):
        if first[word] > 0:
            both[word] = first[word] * chances(theirs, [4, 5, word], how)
    expected = both.flatten() * draws
    counts = torch.bincount(pairs, minlength=words * words).double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    found = [*counts[common].tolist(), float(counts[~common].sum())]
    wanted = [*expected[common].tolist(), float(expected[~common].sum())]
    if wanted[-1] < 5:
        found, wanted = (
            [found[0] + found[-1], *found[1:-1]],
            [wanted[0] + wanted[-1], *wanted[1:-1]],
        )
    assert len(found) > 1
    assert scipy.stats.chisquare(found, wanted).pvalue > 1e-4


def test_a_seed_draws_the_same_text_again() -> None:
    _, ours = models(5)
    how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 4}
    first = ours.generate([[5, 6]], seed=1, **how)
    assert torch.equal(first, ours.generate([[5, 6]], seed=1, **how))
    assert not torch.equal(first, ours.generate([[5, 6]], seed=2, **how))
    assert len({tuple(row.tolist()) for row in first}) > 1
    torch.manual_seed(0)
    free = ours.generate([[5, 6]], **how)
    torch.manual_seed(0)
    assert torch.equal(free, ours.generate([[5, 6]], **how))


# What is done to logits

PROCESSORS: tuple[tuple[dict[str, Any], Any], ...] = (
    ({"repetition_penalty": 1.7}, lambda: transformers.RepetitionPenaltyLogitsProcessor(1.7)),
    ({"no_repeat_ngram_size": 1}, lambda: transformers.NoRepeatNGramLogitsProcessor(1)),
    ({"no_repeat_ngram_size": 3}, lambda: transformers.NoRepeatNGramLogitsProcessor(3)),
    (
        {"bad_words_ids": [[3], [1], [2, 4], [4, 4, 5]], "eos_token_id": 1},
        lambda: transformers.NoBadWordsLogitsProcessor([[3], [1], [2, 4], [4, 4, 5]], 1),
    ),
    (
        {"min_length": 9, "eos_token_id": [1, 2]},
        lambda: transformers.MinLengthLogitsProcessor(9, [1, 2]),
    ),
    (
        {"min_new_tokens": 5, "eos_token_id": 1},
        lambda: transformers.MinNewTokensLengthLogitsProcessor(4, 5, 1),
    ),
    (
        {"suppress_tokens": [0, 5]},
        lambda: transformers.SuppressTokensLogitsProcessor([0, 5]),
    ),
    (
        {"begin_suppress_tokens": [0, 5]},
        lambda: transformers.SuppressTokensAtBeginLogitsProcessor([0, 5], 4),
    ),
    ({"forced_eos_token_id": 3}, lambda: transformers.ForcedEOSTokenLogitsProcessor(10, 3)),
)


@pytest.mark.parametrize(("how", "theirs"), PROCESSORS, ids=lambda x: str(x) if x else "")
@pytest.mark.parametrize("length", [4, 5, 9, 12])
def test_processors_are_theirs(how: dict[str, Any], theirs: Any, length: int) -> None:
    torch.manual_seed(length)
    ids, scores = torch.randint(0, 6, (20, length)), torch.randn(20, 7)
    lengths = torch.full((20,), length)
    texts = Texts(ids, lengths, torch.full((20,), 4), torch.full((20,), 10))
    found = scores
    for process in processors_of(GenerationConfig(**how)):
        found = process(texts, found)
    assert torch.equal(found, theirs()(ids, scores.clone()))
    # And so behind places that are of no token.
    wider = torch.nn.functional.pad(ids, (0, 5), value=-1)
    wide = Texts(wider, lengths, texts.prompts_R, texts.most_R)
    for process in processors_of(GenerationConfig(**how)):
        assert torch.equal(process(wide, scores), process(texts, scores))


@pytest.mark.parametrize("how", [how for how in WARPS if how], ids=str)
def test_what_is_left_to_draw_from_is_theirs(how: dict[str, Any]) -> None:
    kinds = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
        "typical_p": transformers.TypicalLogitsWarper,
    }
    torch.manual_seed(0)
    scores = 3 * torch.randn(50, 30)
    expected, found = scores, scores
    for name, value in how.items():
        expected = kinds[name](value)(torch.zeros(50, 1).long(), expected)
    for warp in warpers_of(GenerationConfig(do_sample=True, **how)):
        found = warp(found)
    assert torch.equal(found, expected)


def test_presence_and_frequency_by_hand() -> None:
    texts = Texts(
        torch.tensor([[3, 4, 3, 3, 5, -1]]), *(torch.tensor([n]) for n in (5, 2, 9))
    )  # 3, 3 and 5 were written
    (process,) = processors_of(GenerationConfig(presence_penalty=0.5, frequency_penalty=0.25))
    found = process(texts, torch.zeros(1, 7))
    assert found.tolist() == [[0, 0, 0, -1.0, 0, -0.75, 0]]


def test_options_of_paddlenlp() -> None:
    _, ours = models(4)
    ours.config.eos_token_id = None
    prompt = [[5, 6, 7]]
    same: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({"decode_strategy": "greedy_search", "max_length": 5}, {"max_new_tokens": 5}),
        (
            {"decode_strategy": "beam_search", "num_beams": 3, "max_length": 5, "min_length": 2},
            {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 2},
        ),
        (
            {"decode_strategy": "sampling", "max_length": 5, "top_p": 0.8, "seed": 1},
            {"do_sample": True, "max_new_tokens": 5, "top_p": 0.8, "seed": 1},
        ),
    )
    for theirs, own in same:
        texts = ours.generate(prompt, **theirs)
        assert texts.shape == (1, 8)
        assert torch.equal(texts, ours.generate(prompt, **own))
    assert ours.generate(prompt, max_length=5).shape == (1, 5)  # transformers': the prompt counts
    with pytest.raises(ConfigError, match="decode_strategy is one of greedy_search"):
        ours.generate(prompt, decode_strategy="diverse")
    with pytest.raises(ConfigError, match="num_beams=2 with decode_strategy='sampling'"):
        ours.generate(prompt, decode_strategy="sampling", num_beams=2)
    with pytest.raises(offramp.UnsupportedError, match=r"diversity_rate=0\.5"):
        ours.generate(prompt, decode_strategy="beam_search", num_beams=2, diversity_rate=0.5)


# What ends a text, and who hears of it


class Letters:
    """A tokenizer by which each id is a letter."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + token % 26) for token in ids)


@pytest.mark.parametrize("seed", range(4))
def test_a_text_ends_behind_a_string(seed: int) -> None:
    _, ours = models(seed)
    ours.config.eos_token_id = None
    whole = ours.generate([[5, 6], [7]], max_new_tokens=12)
    letters = [Letters().decode(row[2:].tolist()) for row in whole]
    string = letters[0][3:5]
    ended = ours.generate(
        [[5, 6], [7]], max_new_tokens=12, stop_strings=[string], tokenizer=Letters()
    )
    for row, text in enumerate(letters):
        length = text.index(string) + 2 if string in text else 12
        assert torch.equal(ended[row, 2 : 2 + length], whole[row, 2 : 2 + length])
        assert bool((ended[row, 2 + length :] == PAD).all())
    with pytest.raises(ConfigError, match="pass tokenizer="):
        ours.generate([[5]], max_new_tokens=2, stop_strings=["a"])


def test_streamers_hear_each_token() -> None:
    _, ours = models(2)
    heard: list[tuple[int, int]] = []
    texts = ours.generate(
        [[5, 6], [7, 8]],
        max_new_tokens=6,
        streamer=lambda rows, tokens: heard.extend(
            zip(rows.tolist(), tokens.tolist(), strict=True)
        ),
    )
    for row in (0, 1):
        own = [token for number, token in heard if number == row]
        assert own == texts[row, 2 : 2 + len(own)].tolist()

    class Kept(transformers.generation.streamers.BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    kept = Kept()
    text = ours.generate([[5, 6]], max_new_tokens=6, streamer=kept)
    assert kept.ended
    assert kept.seen == text[0].tolist()
    with pytest.raises(ConfigError, match="hears one text, and 2 are written"):
        ours.generate([[5], [6]], max_new_tokens=2, streamer=kept)
    with pytest.raises(ConfigError, match="streamer= with num_beams=2"):
        ours.generate([[5]], max_new_tokens=2, num_beams=2, streamer=kept)


# What is refused

REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"num_return_sequences": 2}, "num_return_sequences=2 without do_sample"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 .* num_beams=2"),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens=5 .* max_new_tokens=4"),
    ({"top_k": 5}, "top_k=5 with do_sample=False"),
    ({"temperature": 0, "do_sample": True}, "temperature is above 0"),
    ({"top_p": 1.5, "do_sample": True}, "top_p is a number from 0 to 1"),
    ({"max_new_tokens": 0}, "max_new_tokens is a whole number of at least 1"),
    ({"bad_words_ids": [[]]}, "none empty"),
    ({"early_stopping": "now"}, "early_stopping"),
    ({"max_new_token": 3}, "Did you mean 'max_new_tokens'"),
)


@pytest.mark.parametrize(("how", "said"), REFUSED)
def test_options_that_are_none(how: dict[str, Any], said: str) -> None:
    _, ours = models(0)
    with pytest.raises(ConfigError, match=said):
        ours.generate([[3]], **how)


def test_prompts_that_are_none() -> None:
    _, ours = models(0)
    for wrong, said in (
        ([], "There is no prompt"),
        ([[]], "Prompt 0 is empty"),
        ([[3], [99]], "Prompt 1 holds 99"),
        ([[3] * 40], "Prompt 0 has 40 tokens, and a row has 40 at most"),
        (torch.zeros(3), "whole numbers"),
    ):
        with pytest.raises(InputError, match=said):
            ours.generate(wrong, max_new_tokens=2)
    ids = torch.tensor([[3, 4]])
    with pytest.raises(InputError, match="attention_mask is"):
        ours.generate(ids, attention_mask=torch.ones(1, 3), max_new_tokens=2)
    ours.transformer.ln_f.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="NaN"):
        ours.generate(ids, max_new_tokens=2)
    assert ours.generate(ids, max_new_tokens=2, remove_invalid_values=True).shape == (1, 4)


def test_a_text_stops_at_the_last_position() -> None:
    theirs, ours = models(2)
    theirs.config.eos_token_id = ours.config.eos_token_id = None
    assert ours.generate([[3] * 35], max_new_tokens=30).shape == (1, 40)


def test_settings_of_a_file(tmp_path: Any) -> None:
    theirs = transformers.GenerationConfig(
        max_new_tokens=7, do_sample=True, temperature=0.5, top_k=9, eos_token_id=[EOS, 4], mine=3
    )
    theirs.save_pretrained(tmp_path)
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.max_new_tokens, config.temperature, config.top_k) == (7, 0.5, 9)
    assert config.ends == (EOS, 4)
    assert config.extra["mine"] == 3
    (tmp_path / "generation_config.json").write_text(config.to_json())
    again = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (again.max_new_tokens, again.temperature, again.mine) == (7, 0.5, 3)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    with pytest.raises(ConfigError, match="cannot be read"):
        GenerationConfig.from_pretrained(tmp_path / "none")


def test_an_encoder_writes_nothing() -> None:
    model = offramp.BertModel(
        offramp.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    )
    assert not model.can_generate()
    assert offramp.GPT2LMHeadModel.can_generate()
    with pytest.raises(offramp.UnsupportedError, match="cannot generate"):
        model.generate([[3]])
