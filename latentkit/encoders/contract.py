"""The encoding contract: all that changes the stored numbers, written down, hashed and compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from latentkit.errors import LatentkitError

Vector = float | tuple[float, ...]
"""One number, or one a channel."""

UNRECORDED = "unrecorded"
"""Stands in a contract for what was not recorded when the numbers were made."""


class ContractError(LatentkitError):
    """The numbers that are there are not the numbers that were asked for."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the numbers of one encoder mean. Two outputs with equal hashes can be used together.

    `input` may lack what older versions did not record. Of pictures (where it has ``orientation``) they
    always used ``decoder: pillow``, and ``damaged_jpeg: refused`` where the orientation is ``exif``,
    ``decoded`` where it is ``ignored``. Hash and comparisons take these values for granted: the hash leaves
    them out, so that contracts of old and new outputs with equal numbers have equal hashes; `difference` and
    `require` read them in.

    Attributes:
        encoder: public name, e.g. ``sd_vae``.
        model: hub id, ``local:<folder name>`` for a folder, or ``random <class>``; the encoder's class
            when it has no weights; `UNRECORDED` for numbers from before there were contracts.
        revision: the hub revision that was asked for; None for a folder or random weights.
        weights: file name -> sha256 of every weights, configuration and tokenizer file, or ``random:<seed>``
            or ``none``.
        pretrained: False marks random weights: shapes are right, numbers mean nothing.
        input: how a picture or a caption becomes the network's input (size, crop, interpolation, range,
            orientation; or max length, padding, whether the encoder sees the mask).
        stored: ``posterior_mean``, ``posterior_sample:<seed>``, ``moments``, ``cls``, ``cls+patches`` or
            ``hidden``.
        outputs: output name -> {"shape": [...], "dtype": ...}; a dimension may be text, such as ``H/8``.
        scaling_factor, shift_factor, latents_mean, latents_std: the model's, see `normalisation`. The last
            two have a number a channel, and stand in the JSON only where the model has them.
        scaled: whether they were applied to what is stored. Default: never.
        precision: arithmetic of the forward pass: ``32-true``, ``tf32``, ``16-mixed``, ``bf16-mixed``.
    """

    encoder: str
    model: str
    revision: str | None
    weights: Mapping[str, str] | str
    pretrained: bool
    input: Mapping[str, Any]
    stored: str
    outputs: Mapping[str, Mapping[str, Any]]
    precision: str
    scaling_factor: float | None = None
    shift_factor: float | None = None
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None
    scaled: bool = False
    format_version: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values (tuples become lists)."""
        plain, optional = json.loads(json.dumps(asdict(self))), ("latents_mean", "latents_std")
        return {name: value for name, value in plain.items() if name not in optional or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ContractError when a field is missing or unknown."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ContractError(f"not an encoding contract: {error}") from None

    @property
    def sha256(self) -> str:
        """sha256 of the canonical JSON (sorted keys, no spaces, ASCII), without implied values of `input`."""
        values, implied = self.to_dict(), self._implied.items()
        values["input"] = dict(item for item in values["input"].items() if item not in implied)
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def normalisation(self) -> tuple[Vector, Vector]:
        """(shift, scale) of the model that made latents, whether applied to what is stored or not.

        Raises:
            ContractError: none is recorded.
        """
        if self.scaling_factor is None and not self.latents_std:
            raise ContractError(
                f"{self.encoder}: the contract says scaling_factor = None: it cannot be scaled"
            )
        return normalisation(self.scaling_factor, self.shift_factor, self.latents_mean, self.latents_std)

    @property
    def recorded(self) -> bool:
        """Whether it is known what made the numbers; if not, only `stored` and `outputs` say anything."""
        return self.model != UNRECORDED

    @property
    def _implied(self) -> dict[str, str]:
        """What `input` of pictures means where it does not say."""
        damaged = {"exif": "refused", "ignored": "decoded"}.get(self.input.get("orientation", ""))
        return {"decoder": "pillow", "damaged_jpeg": damaged} if damaged else {}

    def _explicit(self) -> dict[str, Any]:
        """`to_dict`, with what `input` implies."""
        values = self.to_dict()
        return values | {"input": self._implied | values["input"]}

    def fits(self, other: Self) -> bool:
        """Whether arrays of one could be the other's: what is stored, output names, shapes and types."""
        ours, theirs = self.to_dict(), other.to_dict()
        return all(ours[name] == theirs[name] for name in ("stored", "outputs", "scaled"))

    def difference(self, other: Self) -> list[tuple[str, Any, Any]]:
        """(field, ours, theirs) for every leaf that differs, in order of the fields' names."""
        return differences(self._explicit(), other._explicit())

    def require(self, **asked: Any) -> None:
        """Check fields by value, dots written as double underscores: ``require(input__size=256)``.

        Raises:
            ContractError: names the first field that is not as asked.
        """
        values = self._explicit()
        have = dict(_leaves(values)) | values
        for name, value in asked.items():
            dotted = name.replace("__", ".")
            if dotted not in have:
                raise ContractError(f"{self.encoder}: the contract has no field {dotted!r}")
            if have[dotted] != value:
                raise ContractError(
                    f"{self.encoder}: the contract says {dotted} = {have[dotted]!r}, asked for {value!r}"
                )


def normalisation(
    scaling_factor: float | None,
    shift_factor: float | None,
    latents_mean: Sequence[float] | None,
    latents_std: Sequence[float] | None,
) -> tuple[Vector, Vector]:
    """(shift, scale) of a model's latents: what it is trained on is (z - shift) * scale.

    With mean and std that is (z - mean) * scaling_factor / std, the factor 1 where there is none, as in
    diffusers' pipelines of the models that have them (Playground v2.5, Qwen-Image, Wan); else
    (z - shift_factor) * scaling_factor.
    """
    factor = 1.0 if scaling_factor is None else scaling_factor
    if latents_mean and latents_std:
        return tuple(latents_mean), tuple(factor / deviation for deviation in latents_std)
    return shift_factor or 0.0, factor


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(field, ours, theirs) for each leaf of two JSON objects that differs, in order of the names."""
    mine, others = dict(_leaves(ours)), dict(_leaves(theirs))
    absent = "(absent)"
    return [
        (name, mine.get(name, absent), others.get(name, absent))
        for name in sorted(mine.keys() | others.keys())
        if mine.get(name, absent) != others.get(name, absent)
    ]


def resolve_shape(shape: Sequence[int | str], height: int, width: int) -> list[int]:
    """A declared shape in numbers, for a picture that was prepared to so many pixels: H/8 -> height // 8."""
    sides = {"H": height, "W": width}
    return [
        dimension if isinstance(dimension, int) else sides[dimension[0]] // int(dimension[2:] or 1)
        for dimension in shape
    ]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner
