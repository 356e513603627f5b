"""Who computed a feature: a digest over everything that can change its value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from ferstore.store.schema import MapDtype

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Extractor:
    """An extractor's identity.

    Which layers are asked for is not part of it: one pass gives the same values for a layer whatever else it gives,
    and asking for one more layer must not rename, or compute again, what is there. The same holds for the batch size.

    Attributes:
        weights: what the user named; not part of the digest, since a copied file is the same weights.
        weights_kind: ``imagenet``, ``file`` or ``random``.
        weights_sha256: digest of the file, or of the random recipe and its seed.
        seed: of random weights.
        variant: the graph, and which node each layer is.
        preprocessing: version of the decoding and resizing rules.
        precision: arithmetic of the network.
        map_dtype: how maps are stored.
    """

    weights: str
    weights_kind: str
    weights_sha256: str
    seed: int | None
    variant: str
    preprocessing: str
    precision: Precision
    map_dtype: MapDtype

    @property
    def extractor_id(self) -> str:
        """First 16 hex digits of the SHA-256 over the identity as canonical JSON."""
        said = {key: value for key, value in asdict(self).items() if key not in ("weights", "weights_kind", "seed")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
