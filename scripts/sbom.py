#!/usr/bin/env python3
"""Says what a built program or library of mxc contains: writes into FOLDER

    mxc.cdx.json            a bill of materials (CycloneDX 1.5): every crate that it is built of, LLVM/MLIR where that is in it, Rust's standard
                            library and, if LIBRARY is given, the oneDNN that is installed beside it
    THIRD-PARTY-LICENSES    their licence texts
    copyright               the same in short, in the form of Debian's DEP-5

and fails where something is under a licence that is not in ALLOWED, or no text of its licence can be found.

    scripts/sbom.py CRATE FOLDER [LIBRARY]

CRATE may have cargo's flags behind it, as in "mxc-capi --no-default-features".
"""

import ctypes
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# All that we give away may be under. Of these only the MPL asks for more than notices: that who gets the program is told where the
# source of the files under it is; THIRD-PARTY-LICENSES does.
ALLOWED = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Zlib",
}

# Crates that name a file instead of a licence, with the SHA-256 of the file that was read: another text must be read again.
READ = {
    "mlir-sys": ("MIT", "LICENSE", "3c79953251133382e5543587593e1db5d45412617302e965444fed1deae065f9"),
}

NOTICE = re.compile(r"^(licen[cs]e|copying|notice|copyright|unlicense)[^/]*$", re.IGNORECASE)


class Problem(Exception):
    """What the user has to mend, in one line."""


def run(*command):
    """The stdout of a command that must succeed, run at the repository's root."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def cargo(*arguments):
    return run(os.environ.get("CARGO", "cargo"), *arguments)


def read(path):
    return path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n")


# Licences


def allowed(expression):
    """Whether an SPDX expression can be met with the licences of ALLOWED alone."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)

    def alternatives():
        met = together()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = together() or met
        return met

    def together():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        if not tokens or tokens[0] in (")", "AND", "OR", "WITH"):
            raise Problem(f"`{expression}` is no SPDX expression")
        name = tokens.pop(0)
        if name == "(":
            met = alternatives()
            if not tokens or tokens.pop(0) != ")":
                raise Problem(f"`{expression}` is no SPDX expression")
            return met
        if tokens and tokens[0] == "WITH":
            name += f" {tokens.pop(0)} {tokens.pop(0) if tokens else ''}"
        return name in ALLOWED

    met = alternatives()
    if tokens:
        raise Problem(f"`{expression}` is no SPDX expression")
    return met


def licence_files(folder):
    """The files of a crate that state its licence."""
    found = [path for path in folder.iterdir() if NOTICE.match(path.name)]
    found += [path for sub in found if sub.is_dir() for path in sub.iterdir()]
    return sorted(path for path in found if path.is_file() and path.suffix not in (".rs", ".html", ".toml"))


def common_text(expression):
    """The text of a licence that comes with no crate of it."""
    for name in re.findall(r"[^\s()]+", expression):
        for path in (ROOT / "LICENSE" if name == "Apache-2.0" else None, Path("/usr/share/common-licenses") / name):
            if path and path.exists():
                return read(path)
    return None


# What is in the program. A component is a dict:
#   name, version, licence (SPDX), source (where its code is), purl, texts, people (who has the copyright),
#   sha256 or None, built_in (False: needed to build it only), needs (purls)


def crates(wanted):
    """The crates that a program or library is built of, and mxc's own crates' purls of dependencies."""
    host = re.search(r"^host: (\S+)$", run(os.environ.get("RUSTC", "rustc"), "-vV"), re.MULTILINE)[1]

    def tree(edges):
        lines = cargo("tree", "--locked", "-p", *wanted, "-e", edges, "--target", host, "--prefix", "none", "-f", "{p}")
        return {tuple(line.split()[:2]) for line in lines.splitlines()}

    all_of_them, linked = tree("normal,build"), tree("normal,no-proc-macro")
    data = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", host))
    with open(ROOT / "Cargo.lock", "rb") as file:
        checksums = {(each["name"], each["version"]): each.get("checksum") for each in tomllib.load(file)["package"]}

    packages = {}
    for package in data["packages"]:
        if (package["name"], "v" + package["version"]) in all_of_them:
            packages[package["id"]] = package
    if len(packages) != len(all_of_them):
        raise Problem("cargo tree and cargo metadata name different crates")
    texts = {ident: [read(path) for path in licence_files(Path(package["manifest_path"]).parent)] for ident, package in packages.items()}

    def texts_of(ident, licence):
        if texts[ident]:
            return texts[ident]
        home = packages[ident]["repository"]
        for other, package in packages.items():
            if home and package["repository"] == home and texts[other]:
                return texts[other]
        text = common_text(licence)
        if text is None:
            raise Problem(f"the crate {packages[ident]['name']} comes without the text of its licence, {licence}")
        return [text]

    def purl(ident):
        package = packages[ident]
        return f"pkg:cargo/{package['name']}@{package['version']}"

    found = []
    for ident, package in packages.items():
        name, version = package["name"], package["version"]
        ours = package["source"] is None
        folder = Path(package["manifest_path"]).parent
        licence = (package["license"] or "").replace("/", " OR ")
        if not licence:
            if name not in READ:
                raise Problem(f"the crate {name} names no licence: read it and add it to READ in scripts/sbom.py")
            licence, file, digest = READ[name]
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
                raise Problem(f"{file} of the crate {name} {version} has changed: read it and update READ in scripts/sbom.py")
        [node] = [node for node in data["resolve"]["nodes"] if node["id"] == ident]
        needs = {dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])}
        found.append(
            {
                "name": name,
                "version": version,
                "licence": licence,
                "source": "ours" if ours else f"https://crates.io/crates/{name}/{version}",
                "purl": purl(ident),
                "texts": [] if ours else texts_of(ident, licence),
                "people": package["authors"],
                "sha256": checksums[name, version],
                "built_in": (name, "v" + version) in linked,
                "needs": sorted(purl(need) for need in needs if need in packages),
            }
        )
    return found


def rust():
    """Rust's standard library."""
    version = re.match(r"rustc (\S+)", run(os.environ.get("RUSTC", "rustc"), "-V"))[1]
    docs = Path(run(os.environ.get("RUSTC", "rustc"), "--print", "sysroot").strip()) / "share/doc/rust"
    page = docs / "COPYRIGHT-library.html"
    texts = [read(ROOT / "LICENSE")]
    if page.exists():
        body = re.sub(r"<(style|head)\b.*?</\1>", "", read(page), flags=re.DOTALL)
        lines = html.unescape(re.sub(r"<[^>]*>", "", body)).splitlines()
        texts.insert(0, re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n"))
    return {
        "name": "Rust standard library",
        "version": version,
        "licence": "MIT OR Apache-2.0",
        "source": f"https://github.com/rust-lang/rust/tree/{version}/library",
        "purl": f"pkg:github/rust-lang/rust@{version}#library",
        "texts": texts,
        "people": ["The Rust Project Developers"],
        "sha256": None,
        "built_in": True,
        "needs": [],
    }


def llvm(texts):
    """LLVM and MLIR, whose libraries are linked statically. `texts`: those of a crate under the same licence."""
    with open(ROOT / ".cargo/config.toml", "rb") as file:
        prefix = tomllib.load(file)["env"]["MLIR_SYS_220_PREFIX"]["value"]
    version = run(f"{os.environ.get('MLIR_SYS_220_PREFIX', prefix)}/bin/llvm-config", "--version").strip()
    debian = Path(f"/usr/share/doc/libmlir-{version.split('.')[0]}-dev/copyright")
    return {
        "name": "LLVM and MLIR",
        "version": version,
        "licence": "Apache-2.0 WITH LLVM-exception",
        "source": f"https://github.com/llvm/llvm-project/tree/llvmorg-{version}",
        "purl": f"pkg:github/llvm/llvm-project@llvmorg-{version}",
        "texts": [*([read(debian)] if debian.exists() else []), *texts],
        "people": ["2003-2026 LLVM contributors"],
        "sha256": None,
        "built_in": True,
        "needs": [],
    }


def onednn(library):
    """The oneDNN in a file."""

    class Version(ctypes.Structure):
        _fields_ = [(name, ctypes.c_int) for name in ("major", "minor", "patch")]

    code = ctypes.CDLL(str(library))
    code.dnnl_version.restype = ctypes.POINTER(Version)
    said = code.dnnl_version().contents
    version = f"{said.major}.{said.minor}" + (f".{said.patch}" if said.patch else "")
    texts = [read(path) for path in sorted(library.resolve().parent.parent.glob("share/doc/*/*")) if path.name in ("LICENSE", "THIRD-PARTY-PROGRAMS")]
    return {
        "name": "oneDNN",
        "version": version,
        "licence": "Apache-2.0",
        "source": f"https://github.com/oneapi-src/oneDNN/tree/v{version}",
        "purl": f"pkg:github/oneapi-src/oneDNN@v{version}",
        "texts": texts or [read(ROOT / "LICENSE")],
        "people": ["2016-2023 Intel Corporation"],
        "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        "built_in": True,
        "needs": [],
    }


# The three files


def bill(components, main, moment):
    """The bill of materials of a crate. `moment`: ISO 8601 or None."""
    [program] = [each for each in components if each["name"] == main]
    besides = [each["purl"] for each in components if not each["purl"].startswith("pkg:cargo/")]

    def entry(each):
        said = {
            "type": "application" if each is program and main == "mxc-cli" else "library",
            "bom-ref": each["purl"],
            "name": each["name"],
            "version": each["version"],
            "scope": "required" if each["built_in"] else "excluded",
            "hashes": [{"alg": "SHA-256", "content": each["sha256"]}] if each["sha256"] else None,
            "licenses": [{"expression": each["licence"]}],
            # mxc's crates are not in the registry.
            "purl": None if each["source"] == "ours" else each["purl"],
            "externalReferences": None if each["source"] == "ours" else [{"type": "distribution", "url": each["source"]}],
        }
        return {key: value for key, value in said.items() if value is not None}

    subject = entry(program)
    del subject["scope"]
    content = {
        "metadata": {
            **({"timestamp": moment} if moment else {}),
            "tools": {"components": [{"type": "application", "name": "scripts/sbom.py of mxc", "version": program["version"]}]},
            "component": subject,
        },
        "components": [entry(each) for each in components if each is not program],
        "dependencies": [
            {"ref": each["purl"], "dependsOn": each["needs"] + (besides if each is program else [])} for each in components
        ],
    }
    ident = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{ident}", "version": 1, **content}


def title(each):
    return f"{each['name']} {each['version']} ({each['licence']}), {each['source']}"


def licences(others):
    """The licence texts, each once, under what it is the text of."""
    holders, first = {}, {}
    for each in others:
        for text in each["texts"]:
            # The lines of some are broken elsewhere.
            text = first.setdefault("".join(text.split()), text)
            holders.setdefault(text, []).append(each)
    parts = [
        "mxc contains the works below, under their own licences. Each is named with its licence and with where its source is.\n"
        "mxc itself is under the Apache License 2.0.\n\n" + "\n".join(title(each) for each in others)
    ]
    for text, users in sorted(holders.items(), key=lambda item: (-len(item[1]), item[1][0]["name"], item[0])):
        names = "\n".join(textwrap.wrap(", ".join(f"{each['name']} {each['version']}" for each in users), 110, break_on_hyphens=False))
        parts.append(f"{'=' * 110}\n{names}\n{'=' * 110}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def owners(each):
    """Who has the copyright: the lines that say so, else the authors."""
    lines = []
    for text in each["texts"][:4]:
        for line in text.splitlines()[:40]:
            line = line.strip(" \t*#-")
            if re.match(r"(copyright\b.*\d{4}|(©|\(c\)) *\d{4})", line, re.IGNORECASE) and "yyyy" not in line and line not in lines:
                lines.append(line)
    return lines[:8] or each["people"] or [f"the authors of {each['name']}"]


def copyright_file(others):
    """Debian's copyright file. The sources are named as `cargo vendor` lays them out."""

    def field(licence):
        licence = licence.replace(" OR ", " or ").replace(" AND ", " and ").replace(" WITH ", " with ")
        return re.sub(r"^\((.*)\) and ", r"\1, and ", licence)

    def stanza(files, people, licence, comment=None):
        lines = [f"Files: {files}", "Copyright: " + "\n ".join(people), f"License: {field(licence)}"]
        return "\n".join(lines + ([f"Comment: {comment}"] if comment else []))

    parts = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: mxc\n"
        "Comment: Third parties' code is named by the folder that `cargo vendor` would lay it in.",
        stanza("*", ["the mxc contributors"], "Apache-2.0"),
    ]
    for each in others:
        slug = re.sub(r"[^A-Za-z0-9_.+]+", "-", each["name"])
        parts.append(stanza(f"vendor/{slug}-{each['version']}/*", owners(each), each["licence"], each["source"]))
    names = {name for each in others for name in re.split(r",? (?:or|and) ", field(each["licence"]))}
    for licence in sorted(names | {"Apache-2.0"}):
        where = " The texts are in /usr/share/doc/mxc/THIRD-PARTY-LICENSES."
        if licence == "Apache-2.0":
            where = " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0."
        parts.append(f"License: {licence}\n{where}")
    return "\n\n".join(parts) + "\n"


def moment():
    """The time of what is built, ISO 8601: SOURCE_DATE_EPOCH, else the commit's, else None."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if seconds is None:
        done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
        seconds = done.stdout.strip() or None
    if seconds is None:
        return None
    from datetime import datetime, timezone

    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: scripts/sbom.py CRATE FOLDER [LIBRARY]")
    wanted = sys.argv[1].split()
    components = crates(wanted)
    components.append(rust())
    if any(each["name"] == "mlir-sys" for each in components):
        [relative] = [each for each in components if each["name"] == "ar_archive_writer"]
        components.append(llvm(relative["texts"]))
    if len(sys.argv) == 4:
        components.append(onednn(Path(sys.argv[3])))
    components.sort(key=lambda each: (each["name"].lower(), each["version"]))
    for each in components:
        if not allowed(each["licence"]):
            raise Problem(f"{title(each)}: only {', '.join(sorted(ALLOWED))} are allowed (scripts/sbom.py)")
    others = [each for each in components if each["source"] != "ours"]

    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "mxc.cdx.json": json.dumps(bill(components, wanted[0], moment()), indent=1, ensure_ascii=False) + "\n",
        "THIRD-PARTY-LICENSES": licences(others),
        "copyright": copyright_file(others),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (Problem, OSError) as problem:
        sys.exit(f"sbom: {problem}")
