"""What codes mean: differences between specifications and what is asked for."""

import pytest
from pydantic import ValidationError

from hlrp.laq import LAQConfig
from hlrp.latents.spec import CODE_FIELDS, CodeSpec, Difference, describe

SPEC = CodeSpec(codebook_size=8, code_seq_len=4, num_frames=3, offset_seconds=0.2, laq_sha256="a" * 64, vector_dim=16)


def test_positions_are_those_of_all_transitions():
    assert SPEC.positions == 8
    assert SPEC.codes().vector_dim is None
    assert SPEC.codes(vectors=True) == SPEC


def test_a_whole_specification_has_to_agree_in_every_field():
    other = SPEC.model_copy(update={"num_frames": 2, "vector_dim": None})
    assert SPEC.differences(SPEC) == []
    assert SPEC.differences(other) == [
        Difference("frames T of a window", 3, 2),
        Difference("width of the continuous latents", 16, None),
    ]


def test_what_is_none_is_not_asked_for():
    assert SPEC.differences({"codebook_size": None, "offset_seconds": 0.2}) == []
    differ = SPEC.differences({"codebook_size": 16, "laq_sha256": None})
    assert describe(differ, "the table", "the policy") == "codes K: the table has 8, the policy 16"


def test_every_field_has_a_name_for_people():
    assert set(SPEC.NAMES) == set(CodeSpec.model_fields)
    assert set(CODE_FIELDS) | {"vector_dim"} == set(CodeSpec.model_fields)
    with pytest.raises(AttributeError):
        SPEC.differences({"laq": "b" * 64})


def test_a_quantizers_codes():
    config = LAQConfig(image_size=(16, 24), patch_size=8, offset_seconds=0.2, num_frames=3)
    spec = CodeSpec.of_quantizer(config, "c" * 64)
    assert (spec.codebook_size, spec.code_seq_len) == (config.codebook_size, config.code_seq_len)
    assert (spec.num_frames, spec.offset_seconds, spec.laq_sha256, spec.vector_dim) == (3, 0.2, "c" * 64, None)
    assert CodeSpec.of_quantizer(config, "c" * 64, vectors=True).vector_dim == config.code_dim


@pytest.mark.parametrize("wrong", [{"codebook_size": 1}, {"num_frames": 1}, {"offset_seconds": float("inf")}, {"S": 1}])
def test_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        CodeSpec(**{**SPEC.model_dump(), **wrong})
