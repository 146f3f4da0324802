"""Checks a bill of materials that scripts/sbom.py wrote, and what that script lets through: bill.py REPOSITORY FOLDER."""

import importlib.util
import json
import pathlib
import sys
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing

REPOSITORY, FOLDER = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("sbom", REPOSITORY / "scripts/sbom.py")
sbom = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sbom)

text = (FOLDER / "mxc.cdx.json").read_text()
wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
assert wrong is None, wrong

bill = json.loads(text)
spdx = get_spdx_licensing()
for component in [bill["metadata"]["component"], *bill["components"]]:
    for each in component["licenses"]:
        assert not spdx.validate(each["expression"]).errors, component["name"]

# Every crate of the registry has the checksum of Cargo.lock, and nothing depends on what is not there.
lock = {
    (each["name"], each["version"]): each.get("checksum")
    for each in tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
}
registry = [each for each in bill["components"] if each.get("purl", "").startswith("pkg:cargo/")]
assert len(registry) > 100
for each in registry:
    assert each["hashes"][0]["content"] == lock[each["name"], each["version"]], each["name"]
refs = {each["bom-ref"] for each in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
for each in bill["dependencies"]:
    assert {each["ref"], *each["dependsOn"]} <= refs, each["ref"]
for name in ("LLVM and MLIR", "Rust standard library", "oneDNN"):
    assert any(each["name"] == name for each in bill["components"]), name

# Each is named with where its source is, as the MPL asks for.
licences = (FOLDER / "THIRD-PARTY-LICENSES").read_text()
copyrights = (FOLDER / "copyright").read_text()
for each in registry:
    line = f"{each['name']} {each['version']} ({each['licenses'][0]['expression']}), {each['externalReferences'][0]['url']}"
    assert line in licences, line
    assert f"Files: vendor/{each['name']}-{each['version']}/*\n" in copyrights, each["name"]

for expression, answer in {
    "MIT": True,
    "GPL-3.0-only": False,
    "MIT OR GPL-3.0-only": True,
    "GPL-3.0-only OR MIT": True,
    "MIT AND GPL-3.0-only": False,
    "(MIT OR Apache-2.0) AND Unicode-3.0": True,
    "MIT AND (GPL-3.0-only OR ISC)": True,
    "(MIT OR Apache-2.0) AND (GPL-2.0-only OR LGPL-2.1-only)": False,
    "Apache-2.0 WITH LLVM-exception": True,
    "MIT OR Apache-2.0 AND GPL-3.0-only": True,
    "GPL-3.0-only WITH GCC-exception-3.1": False,
}.items():
    assert sbom.allowed(expression) is answer, expression
for expression in ("", "MIT OR", "(MIT", "MIT Apache-2.0", "MIT)", "AND MIT"):
    try:
        sbom.allowed(expression)
    except sbom.Problem:
        continue
    raise AssertionError(expression)
