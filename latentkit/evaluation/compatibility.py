"""Whether it belongs together: latents and decoder, latents and originals, statistics and run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentkit.encoders import LatentDecoder
from latentkit.encoders.contract import Contract, ContractError, differences
from latentkit.errors import UsageError
from latentkit.evaluation.picture_set import LatentSpace
from latentkit.pixels.geometry import AdmCrop, BucketCrop, CropToMultiple, Geometry, ResizeSquare

AsTheyAre = Literal["as they are"]
"""Pictures that nothing is done to, where that was asked for."""

CROPS: Mapping[str, type[AdmCrop | ResizeSquare]] = {"adm": AdmCrop, "resize": ResizeSquare}
"""What ``crop=`` can be, beside ``none``."""


LATENTS = "latents"
"""The output of an encoder that can be decoded."""


@dataclass(frozen=True)
class Decodable:
    """What is known before any latents were opened.

    Attributes:
        decoder: its channels and normalisation are asked for only where they matter, for that may fetch the
            model. If its weights are random, it takes latents of any weights.
        scaled: whether latents without a contract are in its training space, as a diffusion model gives
            them; None where nobody said.
    """

    decoder: LatentDecoder
    scaled: bool | None = None

    def recorded(self, contract: Contract, where: str) -> LatentSpace:
        """The space of latents that have a contract; of moments it is the mean's.

        Raises:
            ContractError: names the field that is not as the decoder needs it.
        """
        if LATENTS not in contract.outputs:
            raise ContractError(
                f"{where}: {contract.encoder} stores {', '.join(contract.outputs)}, no latents"
            )
        channels, decoder = latent_channels(contract), self.decoder
        if channels != decoder.channels:
            raise ContractError(
                f"{where}: the contract of {contract.encoder} says {channels} latent channels, the decoder "
                f"takes {decoder.channels}: choose the decoder of its model"
            )
        if not contract.pretrained and decoder.pretrained:
            raise ContractError(
                f"{where}: the contract says pretrained = False, the weights were random and no decoder fits "
                "them: give weights=random to see it run all the same"
            )
        if self.scaled not in (None, contract.scaled):
            raise ContractError(
                f"{where}: the contract says scaled = {contract.scaled}: leave generated_scaled out"
            )
        if (contract.scaling_factor is not None or contract.latents_std) and decoder.pretrained:
            made_for, own = contract.normalisation, decoder.normalisation
            if made_for != own:
                raise ContractError(
                    f"{where}: the contract says (shift, scale) = {made_for}, the decoder's are {own}: "
                    f"it belongs to another autoencoder; choose the decoder of {contract.model}"
                )
        shift, scale = contract.normalisation if contract.scaled else (0.0, 1.0)
        return LatentSpace(channels, scale, shift, pretrained=contract.pretrained)

    def told(self, where: str) -> LatentSpace:
        """The space of latents that say nothing of themselves.

        Raises:
            UsageError: nobody said whether they are scaled.
        """
        if self.scaled is None:
            raise UsageError(
                f"{where} does not say whether its latents are scaled: give generated_scaled=true for a "
                "diffusion model's output in its training space, or false for the autoencoder's own latents"
            )
        shift, scale = self.decoder.normalisation if self.scaled else (0.0, 1.0)
        return LatentSpace(self.decoder.channels, scale, shift)


def latent_channels(contract: Contract) -> int:
    """C of the latents of a contract that has any: of moments, half of what is stored."""
    stored = contract.outputs[LATENTS]["shape"][0]
    return stored // 2 if contract.stored == "moments" else stored


def recorded_geometry(contract: Contract) -> Geometry:
    """The geometry that a contract's input describes.

    Raises:
        ContractError: it is none that pictures can be brought to again.
    """
    have = contract.input
    size, buckets = have.get("size"), have.get("buckets")
    candidates: list[Geometry] = []
    if multiple := re.fullmatch(r"centre, to multiples of (\d+)", str(have.get("crop"))):
        candidates.append(CropToMultiple(multiple=int(multiple[1])))
    if isinstance(size, int):
        candidates += [crop(size=size) for crop in CROPS.values()]
    if isinstance(buckets, list):
        candidates.append(BucketCrop(buckets=tuple(buckets), multiple=1))
    for geometry in candidates:
        if all(have.get(field) == value for field, value in geometry.describe().items()):
            return geometry
    raise ContractError(
        f"{contract.encoder}: how its pictures were cropped is not recorded: give crop and size"
    )


def check_originals(
    latents: str, contract: Contract, geometry: Geometry | None, *, orient: bool | None = None
) -> None:
    """Raise ContractError unless pictures are prepared as those were that latents were made from.

    Args:
        latents: name of the latents, for messages.
        geometry, orient: of the pictures; None: they stay as they are, and nobody asked.
    """
    asked = geometry.describe() if geometry else {}
    if orient is not None:
        asked["orientation"] = "exif" if orient else "ignored"
    _agree(
        {f"input.{field}": value for field, value in contract.input.items()},
        {f"input.{field}": value for field, value in asked.items()},
        f"{latents}: the contract says",
        "the originals are prepared with",
        "give the settings that encoded them",
    )


def check_statistics(
    path: Path,
    recorded: Mapping[str, Any],
    geometry: Geometry | AsTheyAre | None,
    orient: bool | None,
    extractors: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise ContractError, which names what differs, where statistics are not of this run's networks or crop.

    What was not recorded, or not asked about, is not compared; pictures recorded as they are, ``geometry``
    null, are.

    Args:
        path: of the statistics.
        recorded: their identity, ``pictures`` and ``extractors``.
        geometry, orient, extractors: as in `open_reference`.
    """
    pictures = recorded["pictures"]
    have = {f"extractors.{name}": identity for name, identity in recorded["extractors"].items()}
    asked: dict[str, Any] = {f"extractors.{name}": identity for name, identity in extractors.items()}
    advice = "the pictures in place of statistics"
    if geometry is not None and "geometry" in pictures:
        described = geometry.describe() if isinstance(geometry, Geometry) else None
        if differences({"crop": pictures["geometry"]}, {"crop": described}):
            there, here = _in_words(pictures["geometry"]), _in_words(described)
            raise ContractError(
                f"{path}: its statistics are of pictures with {there}, this run has {here}: "
                f"give the same crop, or {advice}"
            )
    if orient is not None:
        asked["orientation"] = "exif" if orient else "ignored"
    _agree(
        have | pictures,
        asked,
        f"{path}: its statistics were made with",
        "this run uses",
        f"give the same settings, or {advice}",
    )


def _agree(recorded: Mapping[str, Any], asked: Mapping[str, Any], there: str, here: str, advice: str) -> None:
    """Raise ContractError, which names all that was recorded and is asked for otherwise."""
    common = recorded.keys() & asked.keys()
    plain: dict[str, Any] = json.loads(json.dumps({field: asked[field] for field in common}))
    differing = differences({field: recorded[field] for field in common}, plain)
    if differing:
        told = "; ".join(f"{field} = {have!r}, {here} {want!r}" for field, have, want in differing)
        raise ContractError(f"{there} {told}: {advice}")


def _in_words(geometry: Mapping[str, Any] | None) -> str:
    """A described geometry as the command line has it; what it has no words for as JSON."""
    if geometry is None:
        return "crop=none"
    for name, crop in CROPS.items():
        size = geometry.get("size")
        if isinstance(size, int) and crop(size=size).describe() == geometry:
            return f"crop={name} size={size}"
    return json.dumps(geometry, sort_keys=True)
