"""The contract's hash is stable, and a difference is named by its field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from recipes import AS_STORED, UPRIGHT

from latentkit.encoders import T5, Autoencoder, Contract, ContractError, Random
from latentkit.pixels import Pillow

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
        encoder.contract(AS_STORED)
    resolved = replace(encoder, precision="tf32").contract(AS_STORED)
    assert (resolved.precision, resolved.weights) == ("tf32", "random:4")


def recorded_before(orientation: str) -> dict[str, Any]:
    """A contract as the version before wrote it: nothing of the image decoder or of damaged JPEGs."""
    return {
        "encoder": "sd_vae",
        "model": "random AutoencoderKL",
        "revision": None,
        "weights": "random:0",
        "pretrained": False,
        "input": {
            "size": 256,
            "resize": "shorter side",
            "crop": "adm",
            "interpolation": "box halving, then bicubic (Pillow)",
            "orientation": orientation,
            "range": [-1, 1],
        },
        "stored": "posterior_mean",
        "outputs": {"latents": {"shape": [4, 32, 32], "dtype": "float16"}},
        "precision": "32-true",
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "scaled": False,
        "format_version": 1,
    }


BEFORE = {
    "exif": "d832f4848d502de844ad6befd939acaf8c598f2d12bae3bd793625157c1793ef",
    "ignored": "e2cad73ce14be9f2f06294622e8a5cbebb95f707a6636c01aa010339f8ddb7af",
}
"""Orientation -> the hash that the version before gave."""


@pytest.mark.parametrize(("orientation", "usual"), [("exif", UPRIGHT), ("ignored", AS_STORED)])
def test_what_the_version_before_did_not_record_is_what_it_always_did(
    orientation: str, usual: Pillow
) -> None:
    before = Contract.from_dict(recorded_before(orientation))
    assert before.sha256 == BEFORE[orientation]
    encoder = Autoencoder(name="sd_vae", model="", weights=Random())
    now = encoder.contract(usual)
    assert now.to_dict()["input"]["decoder"] == "pillow"
    assert now.to_dict()["input"]["damaged_jpeg"] == {"exif": "refused", "ignored": "decoded"}[orientation]
    assert now.sha256 == before.sha256
    assert before.difference(now) == now.difference(before) == []
    before.require(input__decoder="pillow", input__damaged_jpeg=now.input["damaged_jpeg"])
    other = encoder.contract(replace(usual, strict=not usual.strict))
    assert other.sha256 != before.sha256
    assert [name for name, _, _ in before.difference(other)] == ["input.damaged_jpeg"]
    foreign = replace(now, input={**now.input, "decoder": "nvimgcodec"})
    assert foreign.sha256 != before.sha256
    assert before.difference(foreign) == [("input.decoder", "pillow", "nvimgcodec")]


def test_a_caption_s_contract_implies_no_image_decoder() -> None:
    contract = T5(weights=Random()).contract(UPRIGHT)
    assert contract.sha256 == "b9b92988f46e9eb7e98f3491523123894b3b1a98e188a5c690940034f9ed3d0a"
    with pytest.raises(ContractError, match=r"no field 'input\.decoder'"):
        contract.require(input__decoder="pillow")


def test_a_device_settles_what_auto_and_compile_stand_for() -> None:
    encoder = Autoencoder(name="sd_vae", model="", precision="auto", compile=True, weights=Random(seed=4))
    assert (encoder.fitted("cuda").precision, encoder.fitted("cuda").compile) == ("16-mixed", True)
    assert (encoder.fitted("cpu").precision, encoder.fitted("cpu").compile) == ("32-true", False)
    chosen = replace(encoder, precision="bf16-mixed", compile=False)
    assert chosen.fitted("cuda") == chosen.fitted("cpu") == chosen
