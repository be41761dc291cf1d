"""Which set of pictures a path is."""

from pathlib import Path

from latentkit.encoders.contract import ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.evaluation.compatibility import LATENTS, Decodable, latent_channels, recorded_geometry
from latentkit.evaluation.picture_set import PictureSet
from latentkit.evaluation.sets.latents import EncodedLatents, Reconstructions
from latentkit.evaluation.sets.pictures import SourcePictures
from latentkit.evaluation.sets.tensor_files import SUFFIXES
from latentkit.evaluation.sets.tensors import TensorRows
from latentkit.pixels.geometry import Geometry
from latentkit.sources import FolderSource, Source
from latentkit.stores.contract_file import CONTRACT
from latentkit.stores.open import find_outputs
from latentkit.stores.shard_manifest import MANIFEST


def open_set(path: str, decodable: Decodable | None, geometry: Geometry | None = None) -> PictureSet:
    """The pictures or latents at a path.

    A folder of latent shards or its ``manifest.json``; an encoder's folder of ``store=npy``, or an output_dir
    that holds one such; a tensor file (see `TensorRows`); else a folder of pictures.

    Args:
        decodable: which latents are asked for; None where pictures are needed.
        geometry: how picture files are cropped; None leaves them as they are. Tensors are never cropped.

    Raises:
        UsageError: nothing that can be evaluated is there.
        ContractError: latents were made for another decoder.
        LatentkitError: what is there is damaged, or fewer than two pictures.
    """
    place = existing(path)
    opened: PictureSet
    if place.is_dir() or place.name == MANIFEST:
        latents = _find_latents(place, decodable)
        opened = latents or SourcePictures(FolderSource(root=str(place)), geometry, place.resolve().name)
    elif place.suffix in SUFFIXES:
        opened = TensorRows(place, decodable)
    else:
        raise UsageError(f"{path} is nothing that can be evaluated: give {_CHOICES}")
    _check_count(opened)
    return opened


def existing(path: str, *, or_statistics: bool = False) -> Path:
    """The path, ``~`` replaced. Raises UsageError, which says what can be there, where nothing is."""
    choices = _CHOICES + ", or statistics (.npz with mu and sigma)" * or_statistics
    if not path:
        raise UsageError(f"an empty path: give {choices}; or leave the key out")
    place = Path(path).expanduser()
    if not place.exists():
        raise UsageError(f"{path} does not exist: give {choices}")
    return place


def open_own(
    output_dir: str, decodable: Decodable, source: Source, name: str, geometry: Geometry | None = None
) -> Reconstructions:
    """The latents that a dataset's encoding run left, beside its pictures.

    Args:
        output_dir: of that run.
        decodable: which latents are asked for.
        source: the dataset.
        name: its, for messages and tables.
        geometry: what the pictures are brought to; None: what the latents' contract says.

    Raises:
        UsageError: there are no latents yet.
        ContractError, LatentkitError: as `open_set` and `Reconstructions`.
    """
    root = Path(output_dir).expanduser()
    latents = _find_latents(root, decodable)
    if latents is None:
        raise UsageError(
            f"{output_dir} holds no latents: run python -m latentkit.encode with the same dataset first, "
            "or give generated=PATH"
        )
    pictures = SourcePictures(source, geometry or recorded_geometry(latents.contract), name)
    opened = Reconstructions(latents, pictures)
    _check_count(opened)
    return opened


def _find_latents(place: Path, decodable: Decodable | None) -> EncodedLatents | None:
    """The latents of a folder, or of one folder in it; None where there are none.

    Raises:
        UsageError: several folders in it would do; or pictures are needed.
        ContractError: none of them is the decoder's.
    """
    alone = place.name == MANIFEST or (place / MANIFEST).exists() or (place / CONTRACT).exists()
    below = {} if alone else find_outputs(place)
    channels = {
        folder: latent_channels(contract) for folder, contract in below.items() if LATENTS in contract.outputs
    }
    if not alone and not channels:
        return None
    if decodable is None:
        raise UsageError(f"{place} holds latents: pictures are needed here")
    if alone:
        return EncodedLatents(place, decodable)
    asked = decodable.decoder.channels
    fitting = [folder for folder, count in channels.items() if count == asked]
    if len(fitting) == 1:
        return EncodedLatents(fitting[0], decodable)
    told = ", ".join(f"{folder.name} ({count} channels)" for folder, count in channels.items())
    if fitting:
        raise UsageError(f"{place} holds {told}: name the folder of one of them")
    raise ContractError(f"{place} holds {told}, the decoder takes {asked}: choose another")


def _check_count(opened: PictureSet) -> None:
    """Raise LatentkitError where no statistic is defined on so few pictures."""
    if len(opened) < 2:
        raise LatentkitError(f"{opened.name} holds {len(opened)} of the at least 2 pictures needed")


_CHOICES = (
    "a folder of latents (manifest.json or contract.json), a folder of pictures, or a tensor file "
    f"({' '.join(SUFFIXES)})"
)
