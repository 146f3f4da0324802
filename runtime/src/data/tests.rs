use super::*;
use flate2::{Compression, write::GzEncoder};
use ndarray::{Array, IxDyn};
use ndarray_npy::NpzWriter;
use std::{fs, io::Write};

fn preprocessing(layout: &str, [height, width, channels]: [u32; 3]) -> Preprocessing {
    Preprocessing { layout: layout.into(), height, width, channels, ..Default::default() }
}

fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    file.extend(bytes);
    file
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn message(result: Result<Dataset, DataError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn idx_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let put = |name: &str, bytes: &[u8]| fs::write(path.join(name), bytes).unwrap();
    let pixels: Vec<u8> = (0..3 * 2 * 2).map(|i| i * 20).collect();
    put("train-images-idx3-ubyte", &idx(&[3, 2, 2], &pixels));
    put("train-labels-idx1-ubyte.gz", &gz(&idx(&[3], &[5, 6, 7])));
    let options = Preprocessing { mean: vec![0.5], std: vec![0.25], ..preprocessing("NCHW", [2, 2, 1]) };
    let data = Dataset::open(path, Split::Train, 1, &options).unwrap();
    assert_eq!((data.len(), data.sample_len(), data.classes()), (2, 4, 8));
    let mut out = Vec::new();
    data.load(&[1, 0], &mut out).unwrap();
    assert_eq!(out[0], (80.0 / 255.0 - 0.5) / 0.25);
    assert_eq!(out[4], -2.0);
    assert_eq!(data.labels(&[1, 0]), Some(vec![6, 5]));
    let held = Dataset::open(path, Split::Holdout, 1, &options).unwrap();
    assert_eq!((held.len(), held.id(0), held.labels(&[0])), (1, 2, Some(vec![7])));
    assert_ne!(held.fingerprint(), data.fingerprint());

    // Grey is replicated for RGB models.
    let rgb = Dataset::open(path, Split::Train, 0, &preprocessing("NHWC", [2, 2, 3])).unwrap();
    rgb.load(&[0], &mut out).unwrap();
    assert_eq!(out[3..6], [20.0 / 255.0; 3]);

    let error = message(Dataset::open(path, Split::Test, 0, &options));
    assert!(error.contains("but no t10k-images-idx3-ubyte"), "{error}");
    let error = message(Dataset::open(path, Split::Train, 3, &options));
    assert!(error.contains("--holdout 3 leaves nothing"), "{error}");
    let error = message(Dataset::open(path, Split::Holdout, 0, &options));
    assert!(error.contains("--holdout N"), "{error}");
    let error = message(Dataset::open(path, Split::Train, 0, &preprocessing("NCHW", [4, 4, 1])));
    assert!(error.contains("images are 2×2 where the model takes 4×4"), "{error}");
    let error = message(Dataset::open(path, Split::Train, 0, &preprocessing("CHWN", [2, 2, 1])));
    assert!(error.contains("`CHWN` is neither"), "{error}");
    for (resize, crop, interpolation, needle) in [
        (Some(0), None, "", "--resize 0"),
        (None, Some(0), "", "--crop 0"),
        (None, None, "cubic", "`cubic` is neither"),
    ] {
        let options = Preprocessing { resize, crop, interpolation: interpolation.into(), ..options.clone() };
        let error = message(Dataset::open(path, Split::Train, 0, &options));
        assert!(error.contains(needle), "{error}");
    }
    for bad in [vec![0.0], vec![f32::NAN], vec![1.0, 1.0]] {
        let options = Preprocessing { std: bad, ..options.clone() };
        assert!(message(Dataset::open(path, Split::Train, 0, &options)).contains("--std"));
    }

    for (bytes, needle) in [
        (idx(&[3, 2, 2], &pixels[..11]), "truncated: 11 bytes"),
        (idx(&[3, 2, 2], &[&pixels[..], &[1]].concat()), "more data"),
        (idx(&[3, 2, 2], &pixels)[..10].to_vec(), "it is truncated"),
        (idx(&[u32::MAX, u32::MAX, u32::MAX], &pixels), "overflow"),
        (idx(&[u32::MAX, 2, 2], &pixels), "truncated"),
        (b"PK\x03\x04 zip".to_vec(), "magic number"),
        (vec![0, 0, 13, 3], "IDX type 0x0d"),
        (idx(&[3], &[1, 2, 3]), "1 dimensions, not images"),
        (idx(&[2, 2, 2], &pixels[..8]), "[3] labels but"),
        (Vec::new(), "it is truncated"),
    ] {
        put("train-images-idx3-ubyte", &bytes);
        let error = message(Dataset::open(path, Split::Train, 0, &options));
        assert!(error.contains(needle) && error.contains("-ubyte"), "{needle}: {error}");
    }
    fs::remove_file(path.join("train-images-idx3-ubyte")).unwrap();
    let error = message(Dataset::open(path, Split::Train, 0, &options));
    assert!(error.contains("not the images that belong to it"), "{error}");
    put("train-images-idx3-ubyte.gz", &gz(&idx(&[3, 2, 2], &pixels)));
    assert_eq!(Dataset::open(path, Split::Train, 0, &options).unwrap().len(), 3);
    let whole = gz(&idx(&[3, 2, 2], &pixels));
    put("train-images-idx3-ubyte.gz", &whole[..whole.len() / 2]);
    let error = message(Dataset::open(path, Split::Train, 0, &options));
    assert!(error.contains("idx3-ubyte.gz: "), "{error}");
}

#[test]
fn cifar_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let record = |labels: &[u8], base: u8| {
        let mut bytes = labels.to_vec();
        bytes.extend((0..3072usize).map(|i| base + (i / 1024) as u8));
        bytes
    };
    for batch in 1..=5u8 {
        let bytes = [record(&[batch], batch * 10), record(&[0], 0)].concat();
        fs::write(path.join(format!("data_batch_{batch}.bin")), bytes).unwrap();
    }
    fs::write(path.join("test_batch.bin"), record(&[9], 7)).unwrap();
    let options = preprocessing("NHWC", [32, 32, 3]);
    let train = Dataset::open(path, Split::Train, 0, &options).unwrap();
    assert_eq!(train.len(), 10);
    let mut out = Vec::new();
    train.load(&[2], &mut out).unwrap();
    assert_eq!(out[..3], [20.0, 21.0, 22.0].map(|byte: f32| byte / 255.0));
    assert_eq!(train.labels(&[2, 3]), Some(vec![2, 0]));
    let planes = Dataset::open(path, Split::Test, 0, &preprocessing("NCHW", [32, 32, 3])).unwrap();
    planes.load(&[0], &mut out).unwrap();
    assert_eq!(out[1024], 8.0 / 255.0);
    fs::write(path.join("test_batch.bin"), &record(&[9], 7)[1..]).unwrap();
    let error = message(Dataset::open(path, Split::Test, 0, &options));
    assert!(error.contains("no whole number of 3073-byte records"), "{error}");
    fs::write(path.join("test_batch.bin"), record(&[10], 7)).unwrap();
    let error = message(Dataset::open(path, Split::Test, 0, &options));
    assert!(error.contains("label 10 in a file of 10 classes"), "{error}");
    fs::remove_file(path.join("data_batch_3.bin")).unwrap();
    let error = message(Dataset::open(path, Split::Train, 0, &options));
    assert!(error.contains("data_batch_3.bin: No such file"), "{error}");
    let error = message(Dataset::open(path, Split::Test, 0, &preprocessing("NCHW", [32, 32, 1])));
    assert!(error.contains("label 10"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train.bin"), record(&[3, 99], 1)).unwrap();
    let data = Dataset::open(folder.path(), Split::Train, 0, &options).unwrap();
    assert_eq!(data.labels(&[0]), Some(vec![99]));
    let error = message(Dataset::open(folder.path(), Split::Train, 0, &preprocessing("NCHW", [32, 32, 1])));
    assert!(error.contains("3 channels where the model takes 1"), "{error}");
}

/// A model of numbers takes floats of its shape; one of bytes takes them as words of i32.
#[test]
fn samples_that_are_no_images_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let write = |x: Array<f32, IxDyn>| {
        let mut npz = NpzWriter::new(fs::File::create(&path).unwrap());
        npz.add_array("x", &x).unwrap();
        npz.finish().unwrap();
    };
    let open = |options: &Preprocessing| Dataset::open(&path, Split::Train, 0, options);
    let values = |shape: &[u64]| Preprocessing { shape: shape.to_vec(), ..Preprocessing::default() };
    let mut out = Vec::new();
    write(Array::from_shape_fn(IxDyn(&[3, 2, 1, 2, 1, 2]), |at| at[0] as f32 - 0.5 * at[5] as f32));
    let data = open(&values(&[2, 1, 2, 1, 2])).unwrap();
    assert_eq!((data.len(), data.sample_len()), (3, 8));
    data.load(&[2], &mut out).unwrap();
    assert_eq!(out, [2.0, 1.5, 2.0, 1.5, 2.0, 1.5, 2.0, 1.5]);
    assert!(message(open(&values(&[8]))).contains("shape [2, 1, 2, 1, 2] where the model takes [8]"));
    assert!(message(open(&values(&[]))).contains("models with one input"));
    assert!(message(open(&values(&[u64::MAX, 4]))).contains("models with one input"));
    let images = tempfile::tempdir().unwrap();
    fs::write(images.path().join("train-images-idx3-ubyte"), idx(&[1, 2, 2], &[1, 2, 3, 255])).unwrap();
    fs::write(images.path().join("train-labels-idx1-ubyte"), idx(&[1], &[0])).unwrap();
    let error = message(Dataset::open(images.path(), Split::Train, 0, &values(&[4])));
    assert!(error.contains("give an .npz of floats"), "{error}");

    let bytes = Preprocessing { bytes: true, ..preprocessing("NCHW", [2, 2, 1]) };
    let words =
        |values: &[i64]| crate::program::DType::I32.encode(values).iter().map(|w| w.to_bits()).collect::<Vec<_>>();
    let bits = |out: &[f32]| out.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let data = Dataset::open(images.path(), Split::Train, 0, &bytes).unwrap();
    data.load(&[0], &mut out).unwrap();
    assert_eq!(bits(&out), words(&[1, 2, 3, 255]));
    write(Array::from_shape_vec(IxDyn(&[1, 1, 2, 2]), vec![0.0, 7.0, 128.0, 255.0]).unwrap());
    open(&bytes).unwrap().load(&[0], &mut out).unwrap();
    assert_eq!(bits(&out), words(&[0, 7, 128, 255]));
    for bad in [0.5, -1.0, 256.0, f32::NAN] {
        write(Array::from_elem(IxDyn(&[1, 1, 2, 2]), bad));
        assert!(message(open(&bytes)).contains("bytes, 0 to 255"), "{bad}");
    }
    let scaled = Preprocessing { mean: vec![0.5], ..bytes };
    assert!(message(open(&scaled)).contains("--mean and --std"));
}

#[test]
fn npz_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let write = |add: &dyn Fn(&mut NpzWriter<fs::File>)| {
        let mut npz = NpzWriter::new_compressed(fs::File::create(&path).unwrap());
        add(&mut npz);
        npz.finish().unwrap();
    };
    let bytes = |shape: &[usize]| Array::from_shape_fn(IxDyn(shape), |index| (index[0] * 10 + index[1]) as u8);
    write(&|npz| {
        npz.add_array("x", &bytes(&[2, 3, 4, 4])).unwrap();
        npz.add_array("y", &Array::from_vec(vec![1i64, 0])).unwrap();
    });
    let options = preprocessing("NHWC", [4, 4, 3]);
    let data = Dataset::open(&path, Split::Test, 0, &options).unwrap();
    let mut out = Vec::new();
    data.load(&[1], &mut out).unwrap();
    assert_eq!(out[..3], [10.0, 11.0, 12.0].map(|byte: f32| byte / 255.0));

    // Without labels.
    write(&|npz| npz.add_array("x", &bytes(&[2, 3, 4, 4])).unwrap());
    let bare = Dataset::open(&path, Split::Train, 0, &options).unwrap();
    assert_eq!((bare.len(), bare.labels(&[0]), bare.classes()), (2, None, 0));
    assert_ne!(bare.fingerprint(), data.fingerprint());

    // Floats are the model's input; splits by name; labels in a column.
    write(&|npz| {
        let floats = Array::from_shape_fn(IxDyn(&[3, 1, 2, 2]), |index| index[0] as f32 - 0.5);
        npz.add_array("x_train", &floats).unwrap();
        npz.add_array("y_train", &Array::from_shape_vec((3, 1), vec![0u8, 1, 2]).unwrap()).unwrap();
        npz.add_array("x_test", &bytes(&[1, 2, 2])).unwrap();
        npz.add_array("y_test", &Array::from_vec(vec![4i32])).unwrap();
    });
    let options = preprocessing("NCHW", [2, 2, 1]);
    let train = Dataset::open(&path, Split::Train, 1, &options).unwrap();
    train.load(&[1], &mut out).unwrap();
    assert_eq!(out, [0.5; 4]);
    assert_eq!(train.len(), 2);
    let test = Dataset::open(&path, Split::Test, 1, &options).unwrap();
    assert_eq!(test.labels(&[0]), Some(vec![4]));

    let refused = |add: &dyn Fn(&mut NpzWriter<fs::File>), needle: &str| {
        write(add);
        let error = message(Dataset::open(&path, Split::Train, 0, &options));
        assert!(error.contains(needle), "{error}");
    };
    let labels = Array::from_vec(vec![0i64, 1]);
    refused(&|npz| npz.add_array("X", &bytes(&[2, 2, 2])).unwrap(), "[\"X\"] but no x");
    refused(
        &|npz| {
            npz.add_array("x", &bytes(&[3, 2, 2])).unwrap();
            npz.add_array("y", &labels).unwrap();
        },
        "`x` holds 3 samples but `y` 2 labels",
    );
    refused(
        &|npz| {
            npz.add_array("x", &bytes(&[2, 5, 7, 9])).unwrap();
            npz.add_array("y", &labels).unwrap();
        },
        "images are [N, H, W]",
    );
    refused(
        &|npz| {
            npz.add_array("x", &bytes(&[2, 2, 2]).mapv(|value| value as f32)).unwrap();
            npz.add_array("y", &labels).unwrap();
        },
        "samples have shape [2, 2] where the model takes [1, 2, 2]",
    );
    refused(
        &|npz| {
            npz.add_array("x", &bytes(&[2, 2, 2])).unwrap();
            npz.add_array("y", &labels.mapv(|value| -value)).unwrap();
        },
        "negative or too large",
    );
    refused(
        &|npz| {
            npz.add_array("x", &bytes(&[2, 2, 2])).unwrap();
            npz.add_array("y", &labels.mapv(|value| value as f32)).unwrap();
        },
        "`y` must hold integers",
    );
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(Dataset::open(&path, Split::Train, 0, &options).is_err());
    }
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 0x55;
        fs::write(&path, &damaged).unwrap();
        let _ = Dataset::open(&path, Split::Train, 0, &options);
    }
}

#[test]
fn unknown_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = preprocessing("NCHW", [2, 2, 1]);
    let error = message(Dataset::open(folder.path(), Split::Train, 0, &options));
    assert!(error.contains("unknown kind of data") && error.contains("class folders"), "{error}");
    let file = folder.path().join("data.csv");
    fs::write(&file, "1,2").unwrap();
    let error = message(Dataset::open(&file, Split::Train, 0, &options));
    assert!(error.contains("data.csv: unknown kind of data"), "{error}");
    let error = message(Dataset::open(&folder.path().join("none"), Split::Train, 0, &options));
    assert!(error.contains("none: No such file"), "{error}");
}

#[test]
fn real_fashion_mnist() {
    let path = Path::new("/usr/share/datasets/fashion-mnist");
    if !path.exists() {
        return;
    }
    let options = preprocessing("NCHW", [28, 28, 1]);
    let test = Dataset::open(path, Split::Test, 0, &options).unwrap();
    assert_eq!((test.len(), test.classes()), (10_000, 10));
    assert_eq!(test.labels(&[0, 1, 2, 3]), Some(vec![9, 2, 1, 1]));
}

#[test]
fn resizing_and_cropping() {
    let sizing = |resize, crop| Sizing { resize, crop, interpolation: Interpolation::Bilinear };
    assert_eq!(sizing(Some(20), Some(16)).size([40, 80]), [16, 16]);
    assert_eq!(sizing(Some(20), None).size([80, 41]), [39, 20]);
    // Hostile sizes cost no more than what the crop shows.
    assert_eq!(sizing(Some(2), Some(2)).apply(&[7; 3_000_000], [1_000_000, 1, 3]), [7; 12]);
    // A constant image stays constant; channels do not mix.
    let image: Vec<u8> = (0..9 * 7).flat_map(|_| [10, 200, 60]).collect();
    let out = sizing(Some(4), Some(3)).apply(&image, [9, 7, 3]);
    assert!(out.len() == 27 && out.chunks(3).all(|pixel| pixel == [10, 200, 60]));
    // Halving averages with the triangle's weights 1, 3, 3, 1 (Pillow gives the same).
    let row: Vec<u8> = [0u8, 0, 80, 80, 160, 160, 240, 240].repeat(8);
    assert_eq!(sizing(Some(4), None).apply(&row, [8, 8, 1])[..4], [11, 80, 160, 229]);
    // A crop that is larger pads with black, the odd pixel after.
    assert_eq!(sizing(None, Some(4)).apply(&[9], [1, 1, 1])[4..8], [0, 9, 0, 0]);

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("t10k-images-idx3-ubyte", &idx(&[1, 8, 8], &[255; 64]));
    write("t10k-labels-idx1-ubyte", &idx(&[1], &[0]));
    let options = Preprocessing { resize: Some(6), crop: Some(4), ..preprocessing("NCHW", [4, 4, 3]) };
    let data = Dataset::open(folder.path(), Split::Test, 0, &options).unwrap();
    let mut out = Vec::new();
    data.load(&[0], &mut out).unwrap();
    assert_eq!(out, [1.0; 48]);
}

#[test]
fn announced_batches_are_the_same_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let pixels: Vec<u8> = (0..50 * 64).map(|i| (i * 7 % 251) as u8).collect();
    write("t10k-images-idx3-ubyte", &idx(&[50, 8, 8], &pixels));
    write("t10k-labels-idx1-ubyte", &idx(&[50], &[0; 50]));
    let options = Preprocessing { resize: Some(5), crop: Some(4), ..preprocessing("NCHW", [4, 4, 1]) };
    let open = |threads| Dataset::open(folder.path(), Split::Test, 0, &options).unwrap().with_threads(threads);
    let order = permutation(50, 1, "test", 0);
    let batches: Vec<Vec<usize>> = order.chunks(7).map(<[usize]>::to_vec).collect();
    let all = |data: &Dataset, skip: usize| {
        let mut out = Vec::new();
        let mut values = Vec::new();
        for batch in &batches[skip..] {
            data.load(batch, &mut out).unwrap();
            values.push(out.clone());
        }
        values
    };
    let expected = all(&open(1), 0);
    for threads in [1, 2, 5] {
        let data = open(threads);
        data.announce(batches.clone());
        assert!(all(&data, 0) == expected);
        // Another order than announced, and an announcement that nobody follows.
        data.announce(batches.clone());
        assert!(all(&data, 3) == expected[3..]);
        data.announce(batches.clone());
    }
}

#[test]
fn the_first_failing_item_is_reported() {
    for threads in [1, 2, 8] {
        let result = for_each(0..100, threads, |item| match item {
            13 | 14 | 60 => Err(DataError::Mismatch(item.to_string())),
            _ => Ok(()),
        });
        assert_eq!(result.unwrap_err().to_string(), "13");
    }
}

#[test]
fn draws_are_keyed() {
    let order = permutation(100, 1, "train", 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..100));
    assert_eq!(order, permutation(100, 1, "train", 0));
    for other in [permutation(100, 2, "train", 0), permutation(100, 1, "train", 1), permutation(100, 1, "x", 0)] {
        assert_ne!(order, other);
    }
    let drawn = sample(1000, 10, 3);
    assert_eq!(drawn.len(), 10);
    assert!(drawn.is_sorted_by(|a, b| a < b));
    assert_eq!(sample(5, 10, 3), [0, 1, 2, 3, 4]);
    assert!(permutation(0, 0, "", 0).is_empty());

    let synthetic = Synthetic::new(&[3, 8, 8], 50, 9);
    let (mut all, mut one) = (Vec::new(), Vec::new());
    synthetic.load(&(0..50).collect::<Vec<_>>(), &mut all).unwrap();
    synthetic.load(&[7], &mut one).unwrap();
    assert_eq!(one, all[7 * 192..8 * 192]);
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    let square = all.iter().map(|value| value * value).sum::<f32>() / all.len() as f32;
    assert!(mean.abs() < 0.05 && (square - 1.0).abs() < 0.05, "{mean} {square}");
    assert!(synthetic.labels(&[0]).is_none());
}
