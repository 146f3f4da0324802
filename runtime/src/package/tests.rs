use super::*;
use crate::store::Weight;
use std::fs;

fn example() -> Package {
    let mut backbone = WeightStore::new();
    for index in 0..5usize {
        let len = 10 + index;
        let values: Vec<f32> = (0..len).map(|i| i as f32 * 0.5 - index as f32).collect();
        let weight = Weight::new(vec![1, len], values).unwrap();
        backbone.insert(format!("conv{index}.weight"), weight);
    }
    let mut denoisers = WeightStore::new();
    denoisers.insert("conv0.scale", Weight::new(vec![4], vec![1.0; 4]).unwrap());
    Package {
        manifest: Manifest {
            format_version: FORMAT_VERSION,
            hardware: "clock = 500".into(),
            task: "classification".into(),
            noise: Some(Noise { spec: "gaussian(sigma=6%)".into(), scale: "range".into(), reference: "rms".into() }),
            placement: Some(Placement {
                kind: "greedy".into(),
                budget_percent: 4.0,
                layers: vec![PlacedLayer { name: "conv0".into(), rank: Some(1), ..Default::default() }],
                ..Default::default()
            }),
            ..Default::default()
        },
        module: b"module {}\n".to_vec(),
        program: b"\x2a\x0eclassification".to_vec(),
        backbone,
        denoisers,
    }
}

#[test]
fn round_trip_is_exact_aligned_and_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mxa");
    let package = example();
    package.write(&path).unwrap();
    let read = Package::open(&path).unwrap();
    assert_eq!(read.manifest, package.manifest);
    assert_eq!(read.module, package.module);
    assert_eq!(read.program, package.program);
    assert_eq!(read.backbone.to_safetensors(), package.backbone.to_safetensors());
    assert_eq!(read.denoisers.get("conv0.scale").unwrap().values(), [1.0; 4]);
    assert_eq!(read.weights().len(), 6);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(read.to_bytes().unwrap(), bytes);

    let map = Bytes::new(store::ffi::map(&File::open(&path).unwrap()).unwrap());
    let ranges = entries(&map).unwrap();
    assert_eq!(ranges.len(), 5);
    for (name, (offset, _)) in ranges {
        assert_eq!(offset % store::ALIGNMENT, 0, "{name}");
    }
    // Nothing but the package is left in the folder.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // Overwriting a package that is mapped leaves the mapped one alone.
    let mut other = example();
    other.denoisers.insert("conv0.scale", Weight::new(vec![4], vec![2.0; 4]).unwrap());
    other.write(&path).unwrap();
    assert_eq!(read.denoisers.get("conv0.scale").unwrap().values(), [1.0; 4]);
}

#[test]
fn damage_is_refused_without_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mxa");
    let package = example();
    let bytes = package.to_bytes().unwrap();
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        assert!(Package::open(&path).is_err(), "truncated to {len}");
    }
    // A flipped bit is noticed, or (in ZIP fields without meaning here, such as dates) changes nothing.
    for index in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1 << bit;
            fs::write(&path, &damaged).unwrap();
            if let Ok(read) = Package::open(&path) {
                assert!(read.to_bytes().unwrap() == bytes, "byte {index} bit {bit}");
            }
        }
    }
    // Garbage of various kinds.
    for seed in 0..64u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut damaged = bytes.clone();
        for _ in 0..1 + seed % 9 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = (state >> 33) as usize % damaged.len();
            damaged[index] = (state >> 25) as u8;
        }
        fs::write(&path, &damaged).unwrap();
        let _ = Package::open(&path);
    }
}

#[test]
fn foreign_packages_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mxa");
    let refuse = |package: &Package, needle: &str| {
        package.write(&path).unwrap();
        let error = Package::open(&path).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    let mut package = example();
    package.manifest.format_version = 9;
    refuse(&package, "format version 9");
    let mut package = example();
    package.manifest.required_features = vec!["quantum".into()];
    refuse(&package, "the feature `quantum`");
    let mut package = example();
    package.module = b"ML\xefR".to_vec();
    refuse(&package, "module.mlir is not text");
    let mut package = example();
    package.denoisers.insert("conv0.weight", Weight::new(vec![1], vec![0.0]).unwrap());
    refuse(&package, "`conv0.weight` is in the backbone and the denoisers");

    let write = |names: &[&str], method| {
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for name in names {
            let options = SimpleFileOptions::default().compression_method(method);
            zip.start_file(*name, options).unwrap();
            zip.write_all(&example().manifest.encode_to_vec()).unwrap();
        }
        zip.finish().unwrap();
        Package::open(&path).unwrap_err().to_string()
    };
    let error = write(&[MANIFEST, "virus.exe"], CompressionMethod::Stored);
    assert!(error.contains("unknown entry `virus.exe`"), "{error}");
    let error = write(&[MANIFEST], CompressionMethod::Deflated);
    assert!(error.contains("`manifest.pb` is compressed"), "{error}");
    let error = write(&[], CompressionMethod::Stored);
    assert!(error.contains("entry `manifest.pb` is missing"), "{error}");
    fs::write(&path, b"").unwrap();
    assert!(Package::open(&path).is_err());
    let error = Package::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

/// Every message's fields as `name: type = tag`, read from the schema and from the prost attributes.
#[test]
fn schema_and_messages_agree() {
    let schema = include_str!("../../proto/manifest.proto");
    let mut from_schema = Vec::new();
    let mut message = "";
    for line in schema.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let words: Vec<&str> = line.trim_end_matches([';', '{']).split_whitespace().collect();
        match words.as_slice() {
            ["message", name] => message = name,
            [label @ ("optional" | "repeated"), kind, name, "=", tag] => {
                from_schema.push(format!("{message}.{name}: {label} {kind} = {tag}"));
            }
            [kind, name, "=", tag] if *kind != "syntax" => {
                from_schema.push(format!("{message}.{name}: {kind} = {tag}"));
            }
            _ => {}
        }
    }
    let mut from_source = Vec::new();
    let (mut message, mut attribute) = ("", "");
    for line in include_str!("manifest.rs").lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            message = rest.trim_end_matches(" {");
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            attribute = rest.trim_end_matches(")]");
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|l| l.split_once(": ")) {
            let parts: Vec<&str> = attribute.split(", ").collect();
            let tag = parts.last().unwrap().trim_start_matches("tag = ").trim_matches('"');
            let inner = kind
                .trim_end_matches(',')
                .trim_start_matches("Option<")
                .trim_start_matches("Vec<")
                .trim_end_matches('>');
            // Sub-messages are optional by nature in proto3; only `training` says so in the schema.
            let (kind, label) = match parts[0] {
                "message" if parts[1] == "repeated" => (inner, "repeated "),
                "message" if name == "training" => (inner, "optional "),
                "message" => (inner, ""),
                kind => (
                    kind,
                    match parts[1] {
                        "repeated" => "repeated ",
                        "optional" => "optional ",
                        _ => "",
                    },
                ),
            };
            from_source.push(format!("{message}.{name}: {label}{kind} = {tag}"));
        }
    }
    assert_eq!(from_schema, from_source);
    assert!(from_schema.len() > 40);
}
