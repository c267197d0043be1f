"""The package's bill of materials (SBOM), CycloneDX 1.6: the pinned dependencies, and the weights with their hashes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement

from ..common.errors import PhanesInputError
from ..common.files import sha256_of_file

NAME = "sbom.cdx.json"


def pinned(requirements: str | Path) -> dict[str, str]:
    """Distribution name -> version of a requirements file whose entries are all pinned with `==`.

    Raises:
        PhanesInputError: an entry is not a pin.
    """
    pins: dict[str, str] = {}
    for line in Path(requirements).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
            (specifier,) = requirement.specifier
        except (InvalidRequirement, ValueError) as error:
            raise PhanesInputError(f"'{text}' in '{requirements}' is no pin: write it as name==version.") from error
        if specifier.operator != "==":
            raise PhanesInputError(f"'{text}' in '{requirements}' is no pin: write it as name==version.")
        pins[requirement.name] = specifier.version
    return pins


def write_sbom(root: str | Path, name: str, metadata: Mapping[str, str], released: datetime | None = None) -> Path:
    """Write `sbom.cdx.json` into a package.

    It lists the direct dependencies, as pinned in the package's `requirements.txt`. What they pull in depends on the
    platform and is not listed. The same package gives the same bytes: the serial number comes from the contents, the
    time stamp from the caller.

    Args:
        root: of the package; holds `requirements.txt` and `models/`.
        name: of the bundle.
        metadata: `version` and `description` are read.
        released: time stamp. The default is the beginning of 1980, as in the zip.
    """
    root = Path(root)
    bundle = Component(
        name=name,
        version=metadata["version"],
        type=ComponentType.APPLICATION,
        description=metadata["description"],
        licenses=[LicenseFactory().make_with_expression("Apache-2.0")],
        bom_ref=f"{name}@{metadata['version']}",
    )
    parts = [
        Component(
            name=package,
            version=version,
            type=ComponentType.LIBRARY,
            purl=(purl := PackageURL("pypi", None, package.lower(), version)),
            bom_ref=str(purl),
        )
        for package, version in pinned(root / "requirements.txt").items()
    ]
    for path in sorted((root / "models").iterdir()):
        if path.suffix in (".pt", ".ts"):
            file = path.relative_to(root).as_posix()
            hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256_of_file(path))]
            parts.append(
                Component(name=file, type=ComponentType.MACHINE_LEARNING_MODEL, hashes=hashes, bom_ref=f"file:{file}")
            )
    bom = Bom(components=parts)
    bom.metadata.component = bundle
    bom.metadata.timestamp = released or datetime(1980, 1, 1, tzinfo=timezone.utc)
    bom.register_dependency(bundle, parts)
    contents = "\n".join(sorted(f"{part.bom_ref} {[h.content for h in part.hashes]}" for part in parts))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {metadata['version']}\n{contents}")
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    target = root / NAME
    target.write_text(json.dumps(document, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return target
