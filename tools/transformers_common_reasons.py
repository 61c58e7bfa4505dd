"""Why a common test of transformers is right to fail on offramp's classes: data of the script
beside it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """For tests named by patterns (`fnmatch`) whose errors all hold `says`, a regular expression.

    `families` are the model types that it is for; all where none are named.
    """

    why: str
    tests: tuple[str, ...]
    says: str
    families: tuple[str, ...] = ()

    def is_for(self, family: str) -> bool:
        return not self.families or family in self.families

    def tells(self, test: str, errors: Sequence[str]) -> bool:
        """Whether it is of this test, and of all that went wrong in it."""
        named = any(fnmatch.fnmatchcase(test, pattern) for pattern in self.tests)
        return named and all(re.search(self.says, error) for error in errors)


REASONS = (
    Reason(
        "Looks for transformers' own words in the error for an attention that is not known. "
        "offramp's is a ConfigError (a ValueError) that lists the known ones.",
        ("test_can_set_attention_dynamically",),
        r"does not match .*attn_implementation must be one of 'sdpa', 'eager'",
    ),
    Reason(
        "Iterates over a result for its names, as over a dictionary. offramp's results unpack into "
        "their values (`loss, logits = model(...)`), and `keys()` and `items()` have the names. "
        "That a row's answer does not depend on its batch is in tests/models/test_bert.py and "
        "tests/runner/test_run.py.",
        ("test_batching_equivalence",),
        "only integer tensors of a single element can be converted to an index",
    ),
    Reason(
        "Passes settings that no configuration here has (dtype, chunk_size_feed_forward). An "
        "unknown keyword is an error that names the nearest setting, because a typo would "
        "otherwise train another model; unknown keys of a file are kept.",
        ("test_config__config_arguments_init",),
        "UnknownOptionError: .* has no setting '(dtype|chunk_size_feed_forward)'",
    ),
    Reason(
        "Reads transformers' log for its word on a head of another size. offramp initialises the "
        "head anew too, and says so with NewWeightsWarning and in the loading report.",
        ("test_can_load_ignoring_mismatched_shapes", "test_load_with_mismatched_shapes"),
        "'Reinit due to size mismatch' not found",
    ),
    Reason(
        "Looks for transformers' own words in the error for loading under torch.device('meta'). "
        "offramp refuses it too, with a ConfigError: tensors there have no values.",
        ("test_cannot_load_with_meta_device_context_manager",),
        "ConfigError: The default device cannot be used here",
    ),
    Reason(
        "Empties the weights file and wants a model of random weights with all names reported "
        "missing. offramp never returns a silently random body: it refuses the file, and names "
        "what is missing.",
        ("test_model_weights_reload_no_missing_tied_weights",),
        "CheckpointError: .* does not fill this model, and nothing was loaded",
    ),
    Reason(
        "Puts an embedding of 10 x 10 into a model of another width and size. offramp refuses what "
        "no forward could pass, and names resize_token_embeddings.",
        ("test_model_get_set_embeddings",),
        r"ConfigError: The embedding in place is .* and the other \[10, 10\]",
    ),
    Reason(
        "Wants new rows of a resized vocabulary near the mean of the old ones. Here they are drawn "
        "as the model's initial weights are, as in PaddleNLP; `init='mean'` gives the mean. "
        "(The first also wants `model.vocab_size`, which offramp has in the configuration alone.)",
        ("test_resize_tokens_embeddings", "test_resize_embeddings_untied"),
        "Tensor-likes are not close",
    ),
    Reason(
        "Asks for the gradient of a returned hidden state. What is returned is a copy with zeros "
        "at masked positions (without a mask it is the state itself, and has the gradient), so "
        "the loss does not come from it. `inputs_embeds` has a gradient.",
        ("test_retain_grad_hidden_states_attentions",),
        "AssertionError: unexpectedly None",
    ),
    Reason(
        "Looks for layers of transformers' class GradientCheckpointingLayer, and counts calls of "
        "its private function. Layers here are offramp's own; that they compute again and give the "
        "same gradients is in tests/models/test_resizing.py.",
        (
            "test_gradient_checkpointing_enable_disable",
            "test_training_gradient_checkpointing",
            "test_training_gradient_checkpointing_use_reentrant_false",
        ),
        r"AssertionError: \[\] is not true|StopIteration",
    ),
    Reason(
        "Asks for the reentrant kind of checkpointing, which torch advises against and which "
        "transformers no longer takes by default. It is refused with that word.",
        ("test_training_gradient_checkpointing_use_reentrant_true",),
        "ConfigError: gradient_checkpointing_kwargs=.* non-reentrant",
    ),
    Reason(
        "Turns checkpointing on by a field of the configuration, as old transformers did. How a "
        "model is trained is not in its configuration: gradient_checkpointing_enable() does it.",
        ("test_gradient_checkpointing_backward_compatibility",),
        "AssertionError: False is not true",
    ),
)
