"""Makes ``tests/jobs/kuberay.json`` from KubeRay's published resource definitions (Apache-2.0).

    git clone --depth 1 --branch v1.7.0 https://github.com/ray-project/kuberay
    python tests/support/kuberay_schema.py kuberay v1.7.0 > tests/jobs/kuberay.json

Every field and constraint of OpenAPI is kept; what is left out is descriptions, ``status`` and Kubernetes' own
extensions (``x-kubernetes-...``: rules in CEL, keys of lists). An object that lists its fields allows no others, as the
API server prunes or refuses them. Subtrees that come often, such as a container, are written once.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

KINDS = {"RayJob": "ray.io_rayjobs.yaml", "RayCronJob": "ray.io_raycronjobs.yaml"}
_WORTH = 120  # characters of a subtree for which a reference is shorter and still readable


def closed(node: Any, *, names: bool = False) -> Any:
    """A schema without extensions and descriptions, in which listed fields are all there are.

    Args:
        node: of the schema.
        names: its keys are names of fields, not words of the schema.
    """
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {name: closed(below) for name, below in node.items()}
    kept = {
        word: closed(below, names=word == "properties")
        for word, below in node.items()
        if word not in ("description", "default") and not word.startswith("x-")
    }
    if "properties" in kept and not node.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas with subtrees that come more than once below ``$defs``."""
    seen: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, dict):
            seen[json.dumps(node, sort_keys=True)] += 1
            if seen[json.dumps(node, sort_keys=True)] > 1:
                return  # its parts are shared with it
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            count(below)

    count(schemas)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def write(node: Any, *, schema: bool) -> Any:
        if isinstance(node, list):
            return [write(one, schema=True) for one in node]
        if not isinstance(node, dict):
            return node
        text = json.dumps(node, sort_keys=True)
        if schema and seen[text] > 1 and len(text) > _WORTH:
            if text not in names:
                names[text] = f"d{len(names)}"
                definitions[names[text]] = below(node)
            return {"$ref": f"#/$defs/{names[text]}"}
        return below(node)

    def below(node: dict[str, Any]) -> dict[str, Any]:
        return {word: write(one, schema=word != "properties") for word, one in node.items()}

    return {"$defs": definitions, **{kind: write(schema, schema=False) for kind, schema in schemas.items()}}


def main() -> None:
    import yaml

    folder, tag = Path(sys.argv[1]), sys.argv[2]
    schemas = {}
    for kind, name in KINDS.items():
        definition = yaml.safe_load((folder / "ray-operator/config/crd/bases" / name).read_text("utf-8"))
        (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        del schema["properties"]["status"]
        schemas[kind] = closed(schema)
    head = {"from": f"https://github.com/ray-project/kuberay at {tag}, Apache-2.0; by tests/support/kuberay_schema.py"}
    print(json.dumps({**head, **shared(schemas)}, separators=(",", ":")))


if __name__ == "__main__":
    main()
