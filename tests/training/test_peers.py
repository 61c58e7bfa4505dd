"""The peer that speeds are measured against answers the same rows the same way."""

from pathlib import Path

import pytest
import torch
import transformers
from exit_models import random_rows, tiny_model

from offramp.runner.run import Runner
from offramp.training.peers import transformers_model, transformers_run


@pytest.mark.parametrize("sort", [False, True])
def test_transformers_gives_the_plain_model_s_logits_in_input_order(
    sort: bool, tmp_path: Path
) -> None:
    model = tiny_model(2)
    model.save_pretrained(tmp_path)
    before = transformers.logging.get_verbosity()
    peer = transformers_model(tmp_path)
    assert transformers.logging.get_verbosity() == before
    assert isinstance(peer, transformers.BertForSequenceClassification)
    assert not peer.training
    rows = random_rows(75)
    logits_RC = transformers_run(peer, rows, sort=sort, batch_size=16)()
    expected = Runner(model, exits=False).run(rows).logits_RC
    torch.testing.assert_close(logits_RC, expected, rtol=1e-4, atol=1e-4)
