"""Which frozen weights a training used, so that neither its rest nor what builds on it uses others.

The folder of a cell keeps `frozen.json`: part -> where its weights came from, and their SHA-256.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.common.files import read_json, write_json
from stedm_jax.experiment.init_weights import source_folder
from stedm_jax.training import peers
from stedm_jax.training.checkpoints import finished
from stedm_jax.training.weights_folder import INFO, is_converted

NAME = "frozen.json"


@dataclass(frozen=True)
class Weights:
    """Weights that are used as they are: where they lie, and a SHA-256 over them."""

    source: str
    sha256: str


def identify(source: str, key: str) -> Weights:
    """The weights of a source, as `init_weights.load_weights` takes it.

    The checksum of a folder of weights is the one noted there, which is compared with the file
    whenever it is loaded.

    Raises:
      UserError: it is not there, or no source.
    """
    folder = source_folder(source, key)
    if is_converted(folder):
        return Weights(str(folder), read_json(folder / INFO)["sha256"])
    with finished(folder) as (store, step):
        return Weights(f"{folder}, step {step}", store.fingerprint(step))


def pin(folder: Path, used: Mapping[str, Weights]) -> dict[str, dict[str, str]]:
    """Notes the weights that a cell uses; compares them with those that it learned with before.

    Args:
      folder: of the cell.
      used: part -> weights.

    Returns:
      What is noted, for done.json.

    Raises:
      UserError: a part has other weights than before; names both.
    """
    return peers.on_first(lambda: _pin(folder, used))


def _pin(folder: Path, used: Mapping[str, Weights]) -> dict[str, dict[str, str]]:
    file = folder / NAME
    known: dict[str, dict[str, str]] = {}
    if file.exists() and ((folder / "checkpoints").exists() or (folder / "done.json").exists()):
        known = read_json(file)
    for part, now in used.items():
        before = Weights(**known[part]) if part in known else now
        if before.sha256 != now.sha256:
            raise UserError(
                f"What {folder} holds was learned with the weights of '{part}' from {before.source}"
                f" (SHA-256 {before.sha256[:12]}), but now they come from {now.source} (SHA-256"
                f" {now.sha256[:12]}). Put the former back; or delete {folder} and the folders of"
                " the cells after it, which are then made again."
            )
    # What was first stays noted: the same weights may lie elsewhere by now.
    noted = {part: asdict(weights) for part, weights in used.items()} | known
    if noted != known:  # a run that is only read may lie where nothing can be written
        write_json(file, noted)
    return noted
