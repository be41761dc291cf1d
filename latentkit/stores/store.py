"""What a store promises: outputs under a contract, planned from what is there, published, never lost."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from latentkit.encoders.contract import Contract, ContractError
from latentkit.errors import LatentkitError, UsageError
from latentkit.prediction.plan import Outputs, Unit
from latentkit.prediction.results import Failure
from latentkit.sources.source import Source
from latentkit.stores.contract_file import contract_record, read_contract
from latentkit.stores.ledger import fold_done
from latentkit.stores.quarantine import Quarantine, quarantine, quarantine_ledger, release
from latentkit.stores.storage import publish_json, remove_many, remove_temporaries

LEDGERS = ".latentkit"


class Counts(NamedTuple):
    """What an output holds: pictures, and bytes of its arrays."""

    items: int
    bytes: int


@dataclass(kw_only=True)
class Store(Outputs):
    """Where encoded arrays lie. One thread in each process writes.

    The order of calls: ``check`` and ``missing`` plan and change nothing. Then, under an `OutputLock`:
    ``open`` in the process of rank 0, after it ``open`` in the others; ``begin``, ``write`` and ``fail`` in
    each; and when all have ended ``finish`` in the process of rank 0, also when there was nothing to
    encode.

    Attributes:
        root: the output folder.
        folders: encoder -> folder under the root; the encoder's own name by default.
    """

    per_picture: ClassVar[bool] = False
    """Whether each picture has files of its own."""

    foreign: ClassVar[str]
    """The file by which the folder of another kind of store is known."""

    root: str
    folders: dict[str, str] = field(default_factory=dict)
    _contracts: dict[str, Contract] = field(default_factory=dict, init=False, repr=False)
    _held: dict[str, set[str]] = field(default_factory=dict, init=False, repr=False)

    def contract(self, encoder: str) -> Contract | None:
        """The contract of what is there; None when nothing is. Changes nothing.

        Raises:
            LatentkitError: the file is damaged, or was edited so that its hash does not fit.
        """
        path = next(filter(Path.exists, self.contract_files(encoder)), None)
        return read_contract(path) if path else None

    def check(self, contracts: Mapping[str, Contract], *, adopt: bool = False) -> None:
        """Hold what is there against what is asked. Changes nothing.

        Args:
            contracts: encoder -> what its numbers will mean.
            adopt: accept arrays of unrecorded origin, where they fit.

        Raises:
            UsageError: this store cannot hold such outputs, or two of them would lie in one folder.
            ContractError: another contract is there, or arrays without one. The first line says which, and a
                line for each field follows: ``  field: there X, asked Y``.
        """
        self.check_layout(contracts)
        lines: list[str] = []
        for encoder, asked in contracts.items():
            there, place = self.contract(encoder), self.folder(encoder)
            if not self._has_arrays(encoder):
                continue
            if there is None:
                lines.append(f"{place} holds arrays without a contract, their meaning is unknown: {_CHOICE}")
            elif not there.recorded and there.fits(asked):
                if not adopt:
                    lines.append(
                        f"{place} holds {self.counts(encoder).items:,} arrays of unrecorded origin: "
                        f"adopt=true takes them for {encoder}'s own, encoder=[others] leaves them, "
                        "overwrite=true encodes them again"
                    )
            elif differences := self._differences(encoder, there, asked):
                lines.append(f"{place} holds other numbers than {encoder} would write: {_CHOICE}")
                lines += [f"  {name}: there {ours}, asked {theirs}" for name, ours, theirs in differences]
        if lines:
            raise ContractError("\n".join(lines))

    def open(self, contracts: Mapping[str, Contract], rank: int = 0, overwrite: bool = False) -> None:
        """Take the root for writing. Rank 0 repairs what kills left behind and writes the contracts.

        Args:
            contracts: encoder -> what its numbers will mean.
            rank: this process among those that write, from 0. Others than 0 change nothing here.
            overwrite: remove the arrays of another contract instead of refusing.

        Raises:
            UsageError, ContractError: as `check`; ContractError not with ``overwrite``.
        """
        self._contracts = dict(contracts)
        if rank != 0:
            return
        if overwrite:
            self.check_layout(contracts)
        else:
            self.check(contracts)
        self.repair()
        for encoder, contract in contracts.items():
            if overwrite or not self._has_arrays(encoder):
                self._make_room(encoder, contract)
            if not (path := self.contract_files(encoder)[0]).exists():
                publish_json(path, contract_record(contract) | self.fixed())

    def begin(self, encoder: str, units: Sequence[Unit], source: Source) -> None:
        """As `Outputs.begin`, of an encoder that was opened."""
        self._held[encoder] = set(Quarantine.read(self.root).held(encoder))

    def fail(self, failure: Failure) -> None:
        quarantine(Path(self.root), failure)

    @abstractmethod
    def finish(self, source: Source, *, complete: bool) -> None:
        """Fold the ledgers, then publish what mentions all outputs: records, or the manifest.

        Args:
            source: the collection.
            complete: whether the plan was carried out to its end.
        """

    @abstractmethod
    def counts(self, encoder: str) -> Counts:
        """How much is there of one encoder's output."""

    @abstractmethod
    def array_folders(self) -> list[Path]:
        """Every folder that holds arrays or is about to, sorted; also where a contract is damaged."""

    def repair(self) -> None:
        """Remove the temporaries of killed processes and fold the ledgers; for the lock's holder."""
        root = Path(self.root)
        remove_temporaries(root, below=False)
        remove_temporaries(root / LEDGERS, below=True)
        for folder in self.array_folders():
            remove_temporaries(folder, below=folder != root)
        self._fold()

    def _fold(self) -> None:
        quarantine_ledger(Path(self.root)).fold()
        fold_done(Path(self.root))

    def _release(self, encoder: str, keys: Sequence[str]) -> None:
        """To be called just before the ledger says that these are done."""
        if freed := sorted(self._held[encoder].intersection(keys)):
            release(Path(self.root), encoder, freed)
            self._held[encoder].difference_update(freed)

    def folder(self, encoder: str) -> Path:
        """Where an encoder's arrays lie; `open_output` reads them."""
        return Path(self.root, self.folders.get(encoder, encoder))

    def check_layout(self, contracts: Mapping[str, Contract]) -> None:
        """Folders stay under the root, and no two outputs share one, nor one with another kind of store."""
        owners: dict[Path, str] = {}
        root = Path(self.root)
        for encoder, contract in contracts.items():
            name = PurePosixPath(self.folders.get(encoder, encoder))
            if name.is_absolute() or ".." in name.parts or LEDGERS in name.parts:
                raise UsageError(f"store.folders.{encoder}={name}: give a folder under {self.root}")
            for place in self.output_folders(encoder, contract).values():
                folder = place.relative_to(root)
                for other, owner in owners.items():
                    above = {*folder.parents, *other.parents} - {Path()}
                    if folder == other or {folder, other} & above:
                        raise UsageError(
                            f"store.folders: {owner} would write into {other}, {encoder} into {folder}: "
                            "give each its own folder, none inside another"
                        )
                owners[folder] = encoder
            if (there := root / name / self.foreign).exists():
                raise UsageError(f"{there}: another kind of store wrote there; choose another output_dir")

    def _readable(self, encoder: str) -> Contract | None:
        """As `contract`; None also for a damaged one, which `check` refuses and overwriting replaces."""
        with contextlib.suppress(LatentkitError):
            return self.contract(encoder)
        return None

    def _make_room(self, encoder: str, asked: Contract) -> None:
        """Remove all outputs of another contract: what mentions them first, their contract last."""
        there, files = self._readable(encoder), self.contract_files(encoder)
        if not (self._differences(encoder, there, asked) if there else any(map(Path.exists, files))):
            return
        remove_many(self.ledgers(encoder))
        for folder in self.output_folders(encoder, there or asked).values():
            remove_many(self.arrays(folder))
        remove_many(files)

    def _differences(self, encoder: str, there: Contract, asked: Contract) -> list[tuple[str, Any, Any]]:
        """(field, there, asked) for all that keeps old and new outputs from lying together."""
        return there.difference(asked)

    def _has_arrays(self, encoder: str) -> bool:
        return next(self.arrays(self.folder(encoder)), None) is not None

    def fixed(self) -> dict[str, Any]:
        """Settings that outputs in one folder must share; they lie beside the contract."""
        return {}

    def output_folders(self, encoder: str, contract: Contract) -> dict[str, Path]:
        """Output name -> folder; the outputs of one encoder can share theirs."""
        return {"": self.folder(encoder)}

    @abstractmethod
    def contract_files(self, encoder: str) -> list[Path]:
        """The files that hold the contract, the one that is written when a root is opened first."""

    @abstractmethod
    def ledgers(self, encoder: str) -> list[Path]:
        """The files that say what is done."""

    @abstractmethod
    def arrays(self, folder: Path) -> Iterator[Path]:
        """The files of arrays in a folder."""


def hidden_folder(folder: Path, home: Path) -> Path:
    """The ``.latentkit`` that a folder's files can be renamed into: its home's, on another disk its own."""
    same = not folder.exists() or folder.stat().st_dev == home.stat().st_dev
    return (home if same else folder) / LEDGERS


_CHOICE = "choose another output_dir, or give overwrite=true to encode again"
