"""What a backend is told: sizes that follow from others, and what does not fit together."""

import pytest
from pydantic import ValidationError

from hlrp.config import LightningRun
from hlrp.errors import UserError
from hlrp.foundation import BackendConfig
from hlrp.foundation.backends.registry import backend_class
from hlrp.latents import CodeSpec

SPEC = {"codebook_size": 16, "code_seq_len": 4, "num_frames": 3, "offset_seconds": 0.1, "laq_sha256": "0" * 64}


def make(**changes):
    return BackendConfig.model_validate({"backend": "smol_latent_head", "spec": SPEC, "cameras": ["a"]} | changes)


def test_positions_are_those_of_all_transitions():
    assert CodeSpec(**SPEC).positions == 8
    assert make(image_size=96).image_size == (96, 96)
    assert BackendConfig.model_validate_json(make(layers=2).model_dump_json()) == make(layers=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "vectors"}, "needs spec.vector_dim"),
        ({"cameras": ["a", "a"]}, "named twice"),
        ({"cameras": []}, "at least 1"),
        ({"image_sise": 96}, "Extra inputs"),
        ({"spec": SPEC | {"num_frames": 1}}, "greater than or equal to 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        make(**changes)


def test_an_unknown_backend_is_named():
    with pytest.raises(UserError, match="smol_latent_haed") as error:
        backend_class("smol_latent_haed")
    assert "smol_latent_head" in str(error.value)


def test_adapters_need_a_language_model_that_is_trained():
    model = {"kind": "foundation", "lora": {"rank": 4}, "train_language": False}
    with pytest.raises(ValidationError, match="'lora' trains the language model"):
        LightningRun.model_validate({"trainer_type": "lightning", "model": model})
