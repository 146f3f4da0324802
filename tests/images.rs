//! Folders of images against torchvision, and corrupt ones.

use crate::{
    cli::compiled,
    common::{fail, json, model, mxc, root, small_fashion, succeed},
};
use mxc_runtime::{
    data::{Dataset, Source, Split},
    package::Preprocessing,
};
use ndarray::{Array3, OwnedRepr};
use ndarray_npy::NpzReader;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    root().join("tests/data/images")
}

fn options(resize: u32, crop: u32, interpolation: &str) -> Preprocessing {
    Preprocessing {
        layout: "NHWC".into(),
        height: crop,
        width: crop,
        channels: 3,
        resize: Some(resize).filter(|&side| side > 0),
        crop: Some(crop),
        interpolation: interpolation.into(),
        ..Preprocessing::default()
    }
}

/// A copy of the fixtures' images that can be used (a 16-bit grey one is refused, see below).
fn images(folder: &Path) {
    fs::create_dir_all(folder.join("class")).unwrap();
    for entry in fs::read_dir(fixtures().join("class")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("grey16.png") {
            fs::copy(&path, folder.join("class").join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Lossless formats are equal to the byte; JPEG decoders differ, here by up to 4 levels, with and without scaling.
#[test]
fn images_are_torchvisions() {
    let folder = TempDir::new().unwrap();
    images(folder.path());
    let mut expected = NpzReader::new(File::open(fixtures().join("expected.npz")).unwrap()).unwrap();
    let mut checked = 0;
    for name in expected.names().unwrap() {
        let parts: Vec<&str> = name.split('/').collect();
        let &[file, resize, crop, interpolation] = parts.as_slice() else {
            continue;
        };
        if file == "grey16.png" {
            continue;
        }
        let wanted: Array3<u8> = expected.by_name::<OwnedRepr<u8>, _>(&name).unwrap();
        let options = options(resize.parse().unwrap(), crop.parse().unwrap(), interpolation);
        let data = Dataset::open(folder.path(), Split::Test, 0, &options).unwrap();
        let index = (0..data.len()).find(|&index| data.path(index).unwrap().ends_with(file)).unwrap();
        let mut values = Vec::new();
        data.load(&[index], &mut values).unwrap();
        let off = values.iter().zip(&wanted).map(|(value, &wanted)| (value * 255.0 - f32::from(wanted)).abs());
        let worst = off.fold(0.0, f32::max);
        let lossless = !file.ends_with("jpg") && !file.ends_with("jpeg");
        println!("{name}: {worst:.0}");
        assert!(worst < if lossless { 0.01 } else { 4.01 }, "{name}: {worst} levels off");
        checked += 1;
    }
    assert_eq!(checked, 17 * 6);
}

#[test]
fn normalized_values_are_torchvisions() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    fs::copy(fixtures().join("class/rgb.png"), folder.path().join("class/rgb.png")).unwrap();
    let options = Preprocessing {
        layout: "NCHW".into(),
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..options(30, 16, "")
    };
    let data = Dataset::open(folder.path(), Split::Train, 0, &options).unwrap();
    let mut values = Vec::new();
    data.load(&[0], &mut values).unwrap();
    let mut expected = NpzReader::new(File::open(fixtures().join("expected.npz")).unwrap()).unwrap();
    let expected: Array3<f32> = expected.by_name::<OwnedRepr<f32>, _>("normalized").unwrap();
    assert!(values.iter().zip(&expected).all(|(value, wanted)| (value - wanted).abs() < 1e-6));
}

#[test]
fn folders_are_split_and_sorted() {
    let folder = TempDir::new().unwrap();
    let put = |path: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(fixtures().join("class/rgb.png"), path).unwrap();
    };
    let open = |split, holdout| Dataset::open(folder.path(), split, holdout, &options(20, 16, ""));
    let error = |split| open(split, 0).unwrap_err().to_string();
    // Python's order: capitals first, then by code point.
    for path in ["b/1.PNG", "B/2.png", "a10/x/deep.png", "a2/1.png", "ü/1.png"] {
        put(path);
    }
    fs::write(folder.path().join("b/notes.txt"), "no image").unwrap();
    let labelled = |data: &Dataset| {
        let mut found: Vec<_> = (0..data.len())
            .map(|index| {
                let path = data.path(index).unwrap();
                let class = path.strip_prefix(folder.path()).unwrap().components().next().unwrap();
                (data.labels(&[index]).unwrap()[0], class.as_os_str().to_str().unwrap().to_owned())
            })
            .collect();
        found.sort();
        found
    };
    let data = open(Split::Train, 0).unwrap();
    let names = ["B", "a10", "a2", "b", "ü"];
    assert_eq!(labelled(&data), (0..).zip(names.map(str::to_owned)).collect::<Vec<_>>());
    assert_eq!(data.classes(), 5);
    // The same files for every split; the last ones are held out.
    assert_eq!(open(Split::Test, 0).unwrap().len(), 5);
    let (train, held) = (open(Split::Train, 2).unwrap(), open(Split::Holdout, 2).unwrap());
    assert_eq!((train.len(), held.len(), held.id(0)), (3, 2, 3));
    assert_ne!(train.fingerprint(), data.fingerprint());
    // Images beside class folders are no samples; alone, they have no labels.
    put("one.png");
    assert_eq!(open(Split::Train, 0).unwrap().len(), 5);
    let bare = Dataset::open(&folder.path().join("a2"), Split::Test, 0, &options(20, 16, "")).unwrap();
    assert_eq!((bare.len(), bare.labels(&[0]), bare.classes()), (1, None, 0));
    // An empty class is a mistake.
    fs::create_dir(folder.path().join("none")).unwrap();
    assert!(error(Split::Train).contains("none: the class has no images"), "{}", error(Split::Train));

    let folder_of = |path: &str| folder.path().join(path);
    for name in ["a10", "a2", "b", "B", "ü", "none"] {
        fs::remove_dir_all(folder_of(name)).unwrap();
    }
    for path in ["train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "val/dog/1.png"] {
        put(path);
    }
    assert_eq!(open(Split::Train, 0).unwrap().len(), 3);
    let val = open(Split::Test, 0).unwrap();
    assert_eq!((val.len(), val.classes(), val.labels(&[0])), (1, 2, Some(vec![1])), "numbered as in training");
    put("test/cat/1.png");
    assert_eq!(open(Split::Test, 0).unwrap().labels(&[0]), Some(vec![0]), "test goes before val");
    put("test/bird/1.png");
    assert!(error(Split::Test).contains("bird: it is no class of the training split"), "{}", error(Split::Test));
    fs::remove_dir_all(folder_of("train")).unwrap();
    assert!(error(Split::Train).contains("not the folder train"), "{}", error(Split::Train));
}

#[test]
fn sizes_and_kinds_that_do_not_fit_are_refused() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    let place = |name: &str| {
        fs::copy(fixtures().join("class").join(name), folder.path().join("class").join(name)).unwrap();
    };
    let load = |options: &Preprocessing| {
        let data = Dataset::open(folder.path(), Split::Test, 0, options).unwrap();
        data.load(&[0], &mut Vec::new()).unwrap_err().to_string()
    };
    place("rgb.png");
    let plain = Preprocessing { resize: None, crop: None, ..options(1, 16, "") };
    let error = load(&plain);
    assert!(error.contains("rgb.png: it is 47×61") && error.contains("--resize or --crop"), "{error}");
    fs::remove_file(folder.path().join("class/rgb.png")).unwrap();
    place("grey16.png");
    let error = load(&options(20, 16, ""));
    assert!(error.contains("grey16.png: cannot be decoded") && error.contains("8 bits"), "{error}");
    let many = Preprocessing { channels: 4, ..options(20, 16, "") };
    let error = Dataset::open(folder.path(), Split::Test, 0, &many).unwrap_err().to_string();
    assert!(error.contains("grey or RGB where the model takes 4"), "{error}");
}

/// Every way to cut or damage a file ends in an error or an image, never in a panic.
#[test]
fn damaged_images_are_named() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    for entry in fs::read_dir(fixtures().join("class")).unwrap() {
        let source = entry.unwrap().path();
        let name = source.file_name().unwrap().to_str().unwrap();
        let whole = fs::read(&source).unwrap();
        let path = folder.path().join("class").join(name);
        let decode = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let data = Dataset::open(folder.path(), Split::Test, 0, &options(20, 16, "")).unwrap();
            let error = data.load(&[0], &mut Vec::new()).err().map(|error| error.to_string());
            let (good, bad) = data.decodable(&[0]).unwrap();
            assert_eq!((good.len(), bad.len()), if error.is_some() { (0, 1) } else { (1, 0) });
            error
        };
        for cut in [0, 1, 10, whole.len() / 2, whole.len() * 3 / 4] {
            let error = decode(&whole[..cut]).unwrap_or_else(|| panic!("{name} cut to {cut} bytes passes"));
            assert!(error.contains(name) && error.contains("--skip-bad"), "{error}");
        }
        for position in (0..whole.len()).step_by(whole.len() / 40) {
            let mut damaged = whole.clone();
            damaged[position] ^= 0xff;
            decode(&damaged);
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_decoder_that_panics_means_a_bad_image() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("class")).unwrap();
    fs::copy(fixtures().join("short-palette.png"), folder.path().join("class/a.png")).unwrap();
    let data = Dataset::open(folder.path(), Split::Test, 0, &options(20, 16, "")).unwrap();
    let error = data.load(&[0], &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("a.png: cannot be decoded"), "{error}");
    assert_eq!(data.decodable(&[0]).unwrap().0, [0usize; 0]);
}

/// A copy of IDX files as PNGs in class folders, and the same samples in the same order as IDX files.
fn as_folders(idx: &Path, target: &Path) {
    let options =
        Preprocessing { layout: "NCHW".into(), height: 28, width: 28, channels: 1, ..Preprocessing::default() };
    for (split, name, file) in [(Split::Train, "train", "train"), (Split::Test, "val", "t10k")] {
        let pixels = fs::read(idx.join(format!("{file}-images-idx3-ubyte"))).unwrap();
        let labels = fs::read(idx.join(format!("{file}-labels-idx1-ubyte"))).unwrap();
        let image = |index: usize| &pixels[16 + index * 784..][..784];
        for (index, label) in labels[8..].iter().enumerate() {
            let class = target.join(name).join(label.to_string());
            fs::create_dir_all(&class).unwrap();
            let path = class.join(format!("{index}.png"));
            image::save_buffer(path, image(index), 28, 28, image::ExtendedColorType::L8).unwrap();
        }
        let data = Dataset::open(target, split, 0, &options).unwrap();
        let (mut ordered, mut classes) = (pixels[..16].to_vec(), labels[..8].to_vec());
        for sample in 0..data.len() {
            let path = data.path(sample).unwrap();
            let index: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            ordered.extend(image(index));
            classes.push(labels[8 + index]);
        }
        fs::write(idx.join(format!("{file}-images-idx3-ubyte")), ordered).unwrap();
        fs::write(idx.join(format!("{file}-labels-idx1-ubyte")), classes).unwrap();
    }
}

#[test]
fn a_folder_of_images_gives_what_idx_files_give() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let idx = small_fashion(folder, 150, 60);
    as_folders(&idx, &folder.join("images"));
    let run = |data: &str, threads: &str| {
        let (fresh, name) = (format!("{data}{threads}.fresh.mxa"), format!("{data}{threads}.mxa"));
        let common = ["--data", data, "--threads", threads];
        let arguments = ["compile", "--samples", "48", "--sigma", "20%", "--holdout", "22", "-o", &fresh];
        let preprocess = ["--mean", "0.2860", "--std", "0.3530"];
        succeed(mxc(folder).args(arguments).args(preprocess).arg(model("resnet20")).args(common));
        succeed(mxc(folder).args(["finetune", &fresh, "--epochs", "1", "--batch", "32", "-o", &name]).args(common));
        let eval = |more: &[&str]| {
            succeed(mxc(folder).args(["eval", &name, "--seeds", "2", "--json"]).args(common).args(more))
        };
        (fs::read(folder.join(&name)).unwrap(), eval(&[]), eval(&["--split", "holdout"]))
    };
    let expected = run("fashion", "2");
    for threads in ["1", "2"] {
        assert!(run("images", threads) == expected, "{threads} threads");
    }
}

#[test]
fn data_without_labels_serves_for_calibration_and_distillation() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let idx = small_fashion(folder, 40, 1);
    let pixels = fs::read(idx.join("train-images-idx3-ubyte")).unwrap();
    fs::create_dir(folder.join("bare")).unwrap();
    for (index, pixels) in pixels[16..].chunks_exact(784).enumerate() {
        let path = folder.join(format!("bare/{index}.png"));
        image::save_buffer(path, pixels, 28, 28, image::ExtendedColorType::L8).unwrap();
    }
    let compile =
        ["compile", "--samples", "32", "-o", "model.mxa", "--data", "bare", "--mean", "0.286", "--std", "0.353"];
    succeed(mxc(folder).args(compile).arg(model("resnet20")));
    for command in ["eval", "finetune --loss cross-entropy"] {
        let error = fail(mxc(folder).args(command.split(' ')).args(["model.mxa", "--data", "bare"]), 1);
        assert!(error.contains("needs label"), "{error}");
    }
    succeed(mxc(folder).args(["finetune", "model.mxa", "--epochs", "1", "--loss", "distill", "--data", "bare"]));
}

#[test]
fn corrupt_images_fail_the_run_or_are_counted() {
    let (folder, idx) = compiled(&[]);
    let folder = folder.path();
    as_folders(Path::new(&idx), &folder.join("images"));
    let bad: Vec<PathBuf> = ["train", "val"]
        .map(|split| {
            let class = folder.join("images").join(split).join("3");
            let path = fs::read_dir(class).unwrap().next().unwrap().unwrap().path();
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            path
        })
        .to_vec();
    let finetune = ["finetune", "model.mxa", "--epochs", "1", "--json", "-o", "tuned.mxa", "--data", "images"];
    let eval = ["eval", "model.mxa", "--seeds", "1", "--json", "--data", "images"];
    for (arguments, bad) in [(&finetune[..], &bad[0]), (&eval[..], &bad[1])] {
        let error = fail(mxc(folder).args(arguments), 1);
        assert!(error.contains(bad.to_str().unwrap().rsplit_once("images").unwrap().1), "{error}");
        assert!(error.contains("--skip-bad"), "{error}");
    }
    let trained = json(mxc(folder).args(finetune).arg("--skip-bad"));
    assert_eq!((&trained["skipped"], &trained["training"]["samples"]), (&1.into(), &599.into()));
    let report = json(mxc(folder).args(eval).arg("--skip-bad"));
    assert_eq!((&report["skipped"], &report["samples"]), (&1.into(), &199.into()));
    // Without the file the rest is the same but for the numbers that key the noise.
    fs::remove_file(&bad[1]).unwrap();
    let without = json(mxc(folder).args(eval));
    assert_eq!((&without["clean"], &without["skipped"]), (&report["clean"], &serde_json::Value::Null));

    let compile = ["compile", "--data", "images", "--samples", "600", "--json", "-o", "new.mxa"];
    assert!(fail(mxc(folder).args(compile).arg(model("resnet20")), 1).contains("--skip-bad"));
    // However many passes draw them, each counts once.
    let class = fs::read_dir(folder.join("images/train/5")).unwrap();
    class.take(20).for_each(|entry| fs::write(entry.unwrap().path(), "no image").unwrap());
    let report = json(mxc(folder).args(compile).arg("--skip-bad").arg(model("resnet20")));
    assert_eq!(report["skipped"], 21);
    let said =
        mxc(folder).args(compile).args(["--skip-bad", "--threads", "1"]).arg(model("resnet20")).output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.matches("left out 21 of 600 images").count(), 1, "{said}");
}
