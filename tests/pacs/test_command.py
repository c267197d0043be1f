"""`python -m scripts watch` on the command line: what is wrong is one sentence."""

from __future__ import annotations

import sys

import pytest

from scripts.common.errors import PhanesInputError
from scripts.pacs.command import watch
from tests.conftest import BUNDLE


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("https://127.0.0.1/dicom-web", "dicomweb", "dicomweb-client"),
        ("dicom://PACS@127.0.0.1:104", "node", "pynetdicom"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    url: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"scripts.pacs.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "dicomweb_client.api", None)
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    with pytest.raises(PhanesInputError, match=f"'{package}' is not installed.*pip install -r requirements-pacs.txt"):
        watch(url, bundle_root=str(BUNDLE))


@pytest.mark.parametrize("url", ["", "pacs", "dicom://127.0.0.1:104", "dicom://A@host", "ftp://a/b", "http://"])
def test_what_is_no_pacs_is_said_without_quoting_it(url: str) -> None:
    with pytest.raises(PhanesInputError, match=r"^pacs \(or store\) names no PACS: give https") as said:
        watch(url, bundle_root=str(BUNDLE))
    assert len(str(said.value)) < 140
