//! What a release is made of: the Debian package, the bill of materials, the list of the public API, the changelog.

use crate::common::{model, onnxruntime, root, succeed};
use regex::Regex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::tempdir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mxc-under-test");

/// A released version, such as `1.2.3`.
type Version = [u64; 3];

fn version(text: &str) -> Option<Version> {
    let numbers: Option<Vec<u64>> = text.split('.').map(|number| number.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// The workspace's version: that of every crate, and what the program says.
fn ours() -> Version {
    version(env!("CARGO_PKG_VERSION")).expect("a released form, without a suffix")
}

/// The last release before or at this commit: its tag and version.
fn last_release() -> Option<(String, Version)> {
    let found = Command::new("git")
        .args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*.[0-9]*.[0-9]*"])
        .current_dir(root())
        .output()
        .unwrap();
    let tag = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let version = version(tag.strip_prefix('v')?)?;
    Some((tag, version))
}

// The Debian package

#[test]
fn the_debian_package_runs_where_it_is_unpacked() {
    let folder = tempdir().unwrap();
    let pack = |to: &str| {
        let to = folder.path().join(to);
        // Uncompressed, which is quick.
        let said = succeed(Command::new(root().join("scripts/deb.sh")).arg(PROGRAM).arg(&to).arg("-Znone"));
        PathBuf::from(said.trim())
    };
    let (first, again) = (pack("first"), pack("again"));
    assert!(fs::read(&first).unwrap() == fs::read(&again).unwrap(), "two builds differ");
    let architecture = succeed(Command::new("dpkg").arg("--print-architecture"));
    let name = format!("mxc_{}-1_{}.deb", env!("CARGO_PKG_VERSION"), architecture.trim());
    assert_eq!(first.file_name().unwrap().to_str(), Some(name.as_str()));

    let field = |name: &str| succeed(Command::new("dpkg-deb").arg("-f").arg(&first).arg(name));
    for library in ["libc6", "libgomp1", "libstdc++6"] {
        assert!(field("Depends").contains(library), "{}", field("Depends"));
    }
    let place = folder.path().join("root");
    succeed(Command::new("dpkg-deb").arg("-x").arg(&first).arg(&place));
    let program = place.join("usr/bin/mxc");
    let run =
        |arguments: &[&str]| succeed(Command::new(&program).args(arguments).env_clear().current_dir(folder.path()));
    assert_eq!(run(&["--version"]), format!("mxc {}\n", env!("CARGO_PKG_VERSION")));
    fs::copy(model("resnet20"), folder.path().join("model.onnx")).unwrap();
    run(&["compile", "--quiet", "model.onnx", "-o", "model.mxa"]);
    let images = ndarray::Array4::<f32>::zeros((2, 1, 28, 28));
    let mut file = ndarray_npy::NpzWriter::new(fs::File::create(folder.path().join("in.npz")).unwrap());
    file.add_array("input", &images).unwrap();
    file.finish().unwrap();
    run(&["run", "model.mxa", "--input", "in.npz", "-o", "out.npz"]);
    assert!(folder.path().join("out.npz").exists());
    // Neither looks for libraries in the folder that it was built in.
    let paths = succeed(Command::new("readelf").arg("-d").arg(&program));
    assert!(paths.contains("[$ORIGIN/../lib/mxc]"), "{paths}");
    let documents = ["copyright", "mxc.cdx.json", "THIRD-PARTY-LICENSES.gz", "changelog.gz", "changelog.Debian.gz"];
    for document in documents {
        assert!(place.join("usr/share/doc/mxc").join(document).exists(), "{document}");
    }
    assert!(place.join("usr/share/man/man1/mxc.1.gz").exists());
}

// The bill of materials

/// The crates whose code is in a program, as far as it tells: the places that its panics name.
fn crates_within(program: &[u8]) -> BTreeSet<String> {
    let place =
        regex::bytes::Regex::new(r"/registry/src/[^/]+/([A-Za-z0-9_-]+-[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.+-]*)/")
            .unwrap();
    place.captures_iter(program).map(|found| String::from_utf8(found[1].to_vec()).unwrap()).collect()
}

#[test]
fn the_bill_of_materials_names_what_is_in_the_program() {
    let folder = tempdir().unwrap();
    let libraries = succeed(Command::new("ldd").arg(PROGRAM));
    let needed: BTreeMap<&str, &str> = libraries
        .lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .map(|(name, path)| (name, path.split(" (").next().unwrap()))
        .collect();
    let onednn = needed.iter().find(|(name, _)| name.starts_with("libdnnl.so")).unwrap().1;
    succeed(Command::new(root().join("scripts/sbom.py")).arg("mxc-cli").arg(folder.path()).arg(onednn));
    if let Some(python) = onnxruntime() {
        let script = root().join("tests/python/bill.py");
        succeed(Command::new(python).arg(script).arg(root()).arg(folder.path()));
    }

    let bill: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("mxc.cdx.json")).unwrap()).unwrap();
    let named: BTreeSet<String> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|component| component["scope"] == "required")
        .map(|component| format!("{}-{}", component["name"].as_str().unwrap(), component["version"].as_str().unwrap()))
        .collect();
    let within = crates_within(&fs::read(PROGRAM).unwrap());
    assert!(within.len() > 20, "{within:?}");
    let missing: Vec<_> = within.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");

    // Nothing else is linked in, or needed, than what the script knows of.
    let system =
        ["libc.so", "libm.so", "libstdc++.so", "libgcc_s.so", "libgomp.so", "libdnnl.so", "libpthread.so", "libdl.so"];
    for library in needed.keys() {
        assert!(system.iter().any(|known| library.starts_with(known)), "{library}");
    }
    let symbols = succeed(Command::new("nm").arg("--defined-only").arg(PROGRAM));
    let foreign = Regex::new(r"(?m) [TD] (ZSTD_compress|inflate|xmlParseDoc|Z3_mk_context|el_init|ffi_call)$").unwrap();
    assert!(!foreign.is_match(&symbols), "a C library is linked statically: add it to scripts/sbom.py");
}

// The public API

/// What a file of rustdoc's JSON declares, an item a line.
fn items(file: &Path) -> Vec<String> {
    let api = public_api::Builder::from_rustdoc_json(file)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    api.items().map(ToString::to_string).collect()
}

/// What the crate `mxc` declares and, since it gives them to its users, the items of the crates below that it names: those it
/// exports by name, and the types of its fields, arguments and results. `None`, with a note, where the compiler is not that of
/// `rust-toolchain.toml`, whose form of JSON the reader knows.
fn public_api() -> Option<String> {
    let toolchain: toml::Table =
        toml::from_str(&fs::read_to_string(root().join("rust-toolchain.toml")).unwrap()).unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    if !succeed(Command::new("rustc").arg("-V")).starts_with(&format!("rustc {channel} ")) {
        eprintln!("skipped: the compiler is not that of rust-toolchain.toml");
        return None;
    }
    let target = Path::new(PROGRAM).ancestors().nth(2).unwrap();
    // The whole workspace, so that what clippy has checked of other crates is used again.
    succeed(
        Command::new(env!("CARGO"))
            .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--target-dir"])
            .arg(target)
            .current_dir(root())
            .env("RUSTDOC", root().join("tests/rustdoc.sh"))
            .env("RUSTDOCFLAGS", "-Zunstable-options --output-format json --cap-lints allow"),
    );
    let documents = target.join("doc");
    let mut listed = items(&documents.join("mxc.json"));

    let path = Regex::new(r"\bmxc_\w+(?:::\w+)+").unwrap();
    let mut names: BTreeSet<String> =
        listed.iter().flat_map(|item| path.find_iter(item)).map(|found| found.as_str().to_owned()).collect();
    names.extend(exported(&documents.join("mxc.json")));
    let crates: BTreeSet<&str> = names.iter().filter_map(|name| name.split("::").next()).collect();
    let below: Vec<String> =
        crates.into_iter().flat_map(|name| items(&documents.join(format!("{name}.json")))).collect();
    let subject = Regex::new(concat!(
        r"^(?:#\[[^\]]*\] )*",
        r"(?:pub (?:(?:const|unsafe|struct|enum|fn|type|trait|static|union) )*|impl(?:<.*?>)? (?:[^ ]*(?: .*)? for )?)",
        r"(mxc_\w+(?:::\w+)+)"
    ))
    .unwrap();
    let mut by_subject: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for item in &below {
        if let Some(found) = subject.captures(item) {
            by_subject.entry(found.get(1).unwrap().as_str()).or_default().push(item);
        }
    }
    let of = |name: &str| -> Vec<String> {
        let inside = format!("{name}::");
        let own = by_subject.iter().filter(|(subject, _)| **subject == name || subject.starts_with(&inside));
        own.flat_map(|(_, items)| items.iter().map(|item| (*item).clone())).collect()
    };
    let mut lower = BTreeSet::new();
    for name in names {
        let mut found = of(&name);
        if found.is_empty() {
            // Defined in a private module, and known by the module above.
            let mut parts: Vec<&str> = name.split("::").collect();
            parts.remove(parts.len() - 2);
            found = of(&parts.join("::"));
        }
        assert!(!found.is_empty(), "{name} is not found in the crates below");
        lower.extend(found);
    }
    listed.push(String::new());
    listed.extend(lower);
    Some(listed.join("\n"))
}

/// The full paths of the items that a crate exports from other crates by name.
fn exported(file: &Path) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let uses = json["index"].as_object().unwrap().values().filter_map(|item| item["inner"].get("use"));
    let paths = uses.filter_map(|each| json["paths"][each["id"].to_string()]["path"].as_array());
    paths
        .map(|path| path.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>())
        // Not whole crates: those change more often.
        .filter(|path| path.len() > 1 && path[0] != "mxc")
        .map(|path| path.join("::"))
        .collect()
}

/// Whether `new` may follow `old` when something of the API that `old` had is gone.
fn may_break(old: Version, new: Version) -> bool {
    if new[0] == 0 && old[0] == 0 { new[1] > old[1] } else { new[0] > old[0] }
}

/// The lines of `old` that `new` has not.
fn gone<'a>(old: &'a str, new: &str) -> Vec<&'a str> {
    let new: BTreeSet<&str> = new.lines().collect();
    old.lines().filter(|line| !new.contains(line)).collect()
}

#[test]
fn the_public_api_is_as_listed() {
    let Some(api) = public_api() else { return };
    insta::with_settings!({ prepend_module_to_snapshot => false }, { insta::assert_snapshot!("public-api", api) });
}

/// A snapshot's text without its head.
fn body(snapshot: &str) -> &str {
    snapshot.splitn(3, "---\n").nth(2).expect("a snapshot has a head")
}

#[test]
fn what_is_gone_from_the_api_raises_the_version() {
    for (old, new, may) in [
        ([0, 1, 0], [0, 2, 0], true),
        ([0, 1, 0], [0, 1, 1], false),
        ([0, 9, 0], [1, 0, 0], true),
        ([1, 2, 0], [1, 3, 0], false),
        ([1, 2, 0], [2, 0, 0], true),
    ] {
        assert_eq!(may_break(old, new), may, "{old:?} {new:?}");
    }
    assert_eq!(gone("a\nb", "b\nc"), ["a"]);

    let Some((tag, old)) = last_release() else { return };
    let listed = "tests/snapshots/public-api.snap";
    let before = succeed(Command::new("git").args(["show", &format!("{tag}:{listed}")]).current_dir(root()));
    let now = fs::read_to_string(root().join(listed)).unwrap();
    let gone = gone(body(&before), body(&now));
    if gone.is_empty() {
        return;
    }
    assert!(may_break(old, ours()), "since {tag} the API has lost, which needs a higher version:\n{}", gone.join("\n"));
    let (_, notes) = sections().swap_remove(0);
    let told = ["### Changed", "### Removed"].iter().any(|heading| notes.contains(heading));
    assert!(told, "CHANGELOG.md says under Changed or Removed what the API has lost since {tag}:\n{}", gone.join("\n"));
}

// The changelog

/// The changelog's sections: what stands in their heading after `## `, and their text.
fn sections() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let parts = text.split("\n## ").skip(1);
    parts.map(|part| part.split_once('\n').map(|(head, text)| (head.to_owned(), text.to_owned())).unwrap()).collect()
}

#[test]
fn the_changelog_begins_with_this_version() {
    let heading = Regex::new(r"^\[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$").unwrap();
    let sections = sections();
    let released: Vec<Version> = sections
        .iter()
        .skip(usize::from(sections[0].0 == "[Unreleased]"))
        .map(|(head, _)| {
            heading.captures(head).and_then(|found| version(&found[1])).unwrap_or_else(|| panic!("## {head}"))
        })
        .collect();
    assert!(released.is_sorted_by(|newer, older| newer > older), "{released:?}");
    if sections[0].0 == "[Unreleased]" {
        assert!(released.first().is_none_or(|last| *last < ours()), "raise the workspace's version: {released:?}");
    } else {
        assert_eq!(released[0], ours(), "the newest section is of the workspace's version");
    }
    // What is tagged is told of.
    if let Some((tag, version)) = last_release() {
        assert!(released.contains(&version), "CHANGELOG.md has no section of {tag}");
    }
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for (head, text) in &sections {
        for kind in text.lines().filter_map(|line| line.strip_prefix("### ")) {
            assert!(kinds.contains(&kind), "{head}: {kind}");
        }
    }
}
