"""The contract's hash is stable, and a difference is named by its field."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from latentkit.encoders import Autoencoder, Contract, ContractError, Random

CONTRACT = Contract(
    encoder="sd_vae",
    model="stabilityai/sd-vae-ft-mse",
    revision="31f26fdeee1355a5c34592e401dd41e45d25a493",
    weights={"diffusion_pytorch_model.safetensors": "ab" * 32},
    pretrained=True,
    input={"size": 256, "crop": "adm", "range": [-1, 1], "orientation": "ignored"},
    stored="posterior_mean",
    outputs={"latents": {"shape": [4, 32, 32], "dtype": "float16"}},
    precision="32-true",
    scaling_factor=0.18215,
)


def test_hash_is_that_of_the_documented_canonical_json() -> None:
    """Computed once with ``printf %s '<json>' | sha256sum``; a new value makes old outputs unusable."""
    assert CONTRACT.sha256 == "2f565040fc055cf07f4950137cf4dc84908b26d0b352aa9ef3a0775c899c6f23"


def test_hash_survives_json_and_the_order_of_keys() -> None:
    values = json.loads(json.dumps(CONTRACT.to_dict()))
    shuffled = dict(reversed(values.items()))
    assert Contract.from_dict(shuffled).sha256 == CONTRACT.sha256
    assert replace(CONTRACT, input={**CONTRACT.input, "range": (-1, 1)}).sha256 == CONTRACT.sha256


@pytest.mark.parametrize(
    ("change", "field", "ours", "theirs"),
    [
        ({"input": {**CONTRACT.input, "crop": "squash"}}, "input.crop", "adm", "squash"),
        ({"precision": "tf32"}, "precision", "32-true", "tf32"),
        ({"shift_factor": 0.1}, "shift_factor", None, 0.1),
        ({"input": {**CONTRACT.input, "new": 1}}, "input.new", "(absent)", 1),
    ],
)
def test_a_changed_field_changes_the_hash_and_is_named(
    change: dict[str, object], field: str, ours: object, theirs: object
) -> None:
    other = replace(CONTRACT, **change)
    assert other.sha256 != CONTRACT.sha256
    assert CONTRACT.difference(other) == [(field, ours, theirs)]


def test_require_names_the_field_that_is_not_as_asked() -> None:
    CONTRACT.require(input__size=256, stored="posterior_mean")
    with pytest.raises(ContractError, match=r"the contract says input\.size = 256, asked for 512"):
        CONTRACT.require(input__size=512)
    with pytest.raises(ContractError, match=r"no field 'input\.width'"):
        CONTRACT.require(input__width=256)


def test_a_record_that_is_no_contract_is_refused() -> None:
    with pytest.raises(ContractError, match="not an encoding contract"):
        Contract.from_dict({"encoder": "sd_vae"})


def test_an_encoder_s_contract_has_to_know_its_precision() -> None:
    encoder = Autoencoder(name="sd_vae", model="", precision="auto", weights=Random(seed=4))
    with pytest.raises(ValueError, match="precision 'auto' has to be resolved"):
        encoder.contract(orient=False)
    resolved = replace(encoder, precision="tf32").contract(orient=False)
    assert (resolved.precision, resolved.weights) == ("tf32", "random:4")
