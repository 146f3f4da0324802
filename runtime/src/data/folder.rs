//! Folders of image files, a folder a class, as torchvision's `ImageFolder` takes them; or without classes.

use super::{DataError, Numbering, Pixels, Samples, Split, picture};
use std::{
    fs,
    path::{Path, PathBuf},
};
use walkdir::WalkDir;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// torchvision's list.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// The image files of a split.
#[derive(Debug)]
pub(super) struct ImageFolder {
    root: PathBuf,
    /// Below `root`, in the order of the samples.
    files: Vec<PathBuf>,
    /// Tells these files from others: a hash of their paths and sizes.
    pub(super) hash: u128,
}

/// A split's images and how many classes there are.
pub(super) struct Found {
    pub(super) samples: Samples,
    /// 0 where the folder has images but no class folders.
    pub(super) classes: usize,
    /// What numbers them.
    pub(super) numbering: Numbering,
}

/// Reads the names of class folders, one a line in the order of the network's outputs (`--classes`). Empty lines count for
/// nothing.
///
/// # Errors
///
/// When the file cannot be read, names nothing or a folder twice.
pub fn read_classes(path: &Path) -> Result<Vec<String>, DataError> {
    let text = fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
    let names: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(DataError::format(path, format!("it names the class '{}' twice", pair[0]))),
        None if names.is_empty() => Err(DataError::format(path, "it names no class")),
        None => Ok(names),
    }
}

/// Lists the images of a split; `None` when the folder holds neither class folders nor images. `classes` numbers the class
/// folders.
pub(super) fn read(path: &Path, split: Split, classes: Option<&[String]>) -> Result<Option<Found>, DataError> {
    // A folder called train is a split if it holds folders; a class of that name holds images.
    let part = |name: &str| -> Result<Option<PathBuf>, DataError> {
        let part = path.join(name);
        Ok(if part.is_dir() && !class_names(&part)?.is_empty() { Some(part) } else { None })
    };
    let train = part("train")?;
    let test = match part("test")? {
        Some(test) => Some(test),
        None => part("val")?,
    };
    let root = match (split, &train, &test) {
        (_, None, None) => path,
        (Split::Test, _, Some(test)) => test,
        (Split::Train | Split::Holdout, Some(train), _) => train,
        (Split::Test, Some(_), None) => {
            return Err(DataError::format(path, "it holds the folder train but neither test nor val"));
        }
        (Split::Train | Split::Holdout, None, Some(test)) => {
            return Err(DataError::format(path, format!("it holds {} but not the folder train", test.display())));
        }
    };
    let names = class_names(root)?;
    if names.is_empty() {
        let files = images(root, root)?.into_iter().map(|file| (file, 0)).collect::<Vec<_>>();
        return Ok((!files.is_empty()).then(|| Found::new(root, files, 0, Numbering::Own)));
    }
    // The numbers are those of the training classes, also where a test split lacks one.
    let (known, numbering) = match (classes, &train) {
        (Some(classes), _) => (classes.to_vec(), Numbering::List),
        (None, Some(train)) if root != train => (class_names(train)?, Numbering::Training),
        (None, Some(_)) => (names.clone(), Numbering::Training),
        (None, None) => (names.clone(), Numbering::Own),
    };
    let elsewhere = match numbering {
        Numbering::List => "it is not named by --classes",
        Numbering::Own | Numbering::Training => "it is no class of the training split",
    };
    let mut files = Vec::new();
    for name in names {
        let class = root.join(&name);
        let label = known
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| DataError::format(&class, format!("{elsewhere}; rename or remove the folder")))?;
        let images = images(root, &class)?;
        if images.is_empty() {
            return Err(DataError::format(
                &class,
                format!("the class has no images ({}); remove the folder", EXTENSIONS.join(", ")),
            ));
        }
        files.extend(images.into_iter().map(|file| (file, label as u32)));
    }
    Ok(Some(Found::new(root, files, known.len(), numbering)))
}

impl Found {
    /// The images in an order that does not go class by class, so that `--limit` and `--holdout` take some of every class,
    /// and that another file does not change for the rest.
    fn new(root: &Path, files: Vec<(File, u32)>, classes: usize, numbering: Numbering) -> Self {
        let mut files: Vec<_> =
            files.into_iter().map(|(file, label)| (xxh3_64(key(&file.path).as_bytes()), file, label)).collect();
        files.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
        let mut hash = Xxh3::new();
        for (_, file, _) in &files {
            hash.update(key(&file.path).as_bytes());
            hash.update(&file.bytes.to_le_bytes());
        }
        let labels = (classes > 0).then(|| files.iter().map(|&(.., label)| label).collect());
        let folder = ImageFolder {
            root: root.to_owned(),
            files: files.into_iter().map(|(_, file, _)| file.path).collect(),
            hash: hash.digest128(),
        };
        Self { samples: Samples { pixels: Pixels::Files(folder), labels }, classes, numbering }
    }
}

/// A path's text, the same on every system.
fn key(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// A file below the root of its split.
struct File {
    path: PathBuf,
    bytes: u64,
}

/// The names of the folders in a folder, as Python sorts them: by code point.
fn class_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let path = entry.map_err(|error| DataError::io(folder, error))?.path();
        if path.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str());
            names.push(name.ok_or_else(|| DataError::format(&path, "its name is not UTF-8; rename it"))?.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a file's name is an image's.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|text| EXTENSIONS.contains(&text.to_ascii_lowercase().as_str()))
}

/// The images below a folder of `root`, links followed.
fn images(root: &Path, folder: &Path) -> Result<Vec<File>, DataError> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true) {
        let failed = |error: walkdir::Error| {
            let path = error.path().unwrap_or(folder).to_owned();
            DataError::io(&path, error.into())
        };
        let entry = entry.map_err(failed)?;
        if is_image(entry.path()) && entry.file_type().is_file() {
            let bytes = entry.metadata().map_err(failed)?.len();
            let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned();
            files.push(File { path, bytes });
        }
    }
    Ok(files)
}

impl ImageFolder {
    /// The number of files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// A sample's file.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.root.join(&self.files[index])
    }

    /// A sample's HWC bytes of `channels` channels, height and width.
    pub(super) fn decode(&self, index: usize, channels: usize) -> Result<(Vec<u8>, [usize; 2]), DataError> {
        let path = self.path(index);
        let bytes = fs::read(&path).map_err(|error| DataError::io(&path, error))?;
        picture::decode(&bytes, channels).map_err(|reason| DataError::Image { path, reason })
    }
}
