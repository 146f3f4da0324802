//! Damages files.

use super::*;

/// What parsers look for.
const WORDS: [&str; 40] = [
    "tensor<",
    "?",
    "9223372036854775807",
    "-1",
    "dense<",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "(",
    ")",
    "%0",
    "@main",
    "\"",
    "x",
    "!quant.uniform<i8:f32, 1.0>",
    "array<i64: ",
    "dense_resource<",
    "f32",
    "i64",
    "#",
    "loc(",
    "0x",
    "affine_map<",
    "=",
    "+",
    "gaussian",
    "sigma",
    "%",
    "1e309",
    "nan",
    "inf",
    "lifetime=chip",
    ",",
    "\n",
    "= 0",
    "-0.0",
    "99999999999",
];

/// One of the seeds, damaged.
pub fn damaged(seeds: &[Vec<u8>], generator: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    if seeds.is_empty() {
        return Vec::new();
    }
    let seed = &seeds[generator.random_range(0..seeds.len())];
    let other = &seeds[generator.random_range(0..seeds.len())];
    // Archives: mostly one entry, so that the checksums are right.
    if seed.starts_with(b"PK\x03\x04")
        && generator.random_bool(0.8)
        && let Ok(bytes) = damaged_archive(seed, generator)
    {
        return bytes;
    }
    let mut bytes = seed.clone();
    damage(&mut bytes, other, generator);
    if seed.starts_with(b"\x89PNG") && generator.random_bool(0.8) {
        correct_png(&mut bytes);
    }
    bytes
}

fn damaged_archive(seed: &[u8], generator: &mut Xoshiro256PlusPlus) -> Result<Vec<u8>, Failure> {
    let mut archive = zip::ZipArchive::new(Cursor::new(seed))?;
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let chosen = generator.random_range(0..archive.len().max(1));
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let options =
            zip::write::SimpleFileOptions::default().compression_method(entry.compression()).with_alignment(64);
        out.start_file(entry.name()?.into_owned(), options)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if index == chosen {
            let copy = bytes.clone();
            damage(&mut bytes, &copy, generator);
        }
        out.write_all(&bytes)?;
    }
    Ok(out.finish()?.into_inner())
}

fn damage(bytes: &mut Vec<u8>, other: &[u8], generator: &mut Xoshiro256PlusPlus) {
    let times = [1, 1, 1, 2, 3, 5, 8][generator.random_range(0..7)];
    for _ in 0..times {
        // Headers matter more than what follows.
        let end = if generator.random_bool(0.5) { bytes.len().min(256) } else { bytes.len() };
        let at = generator.random_range(0..=end);
        let rest = bytes.len() - at;
        let length = [1, 2, 4, 8, 40, 400][generator.random_range(0..6)];
        match generator.random_range(0..8) {
            0 if rest > 0 => bytes[at] ^= 1 << generator.random_range(0..8),
            1 if rest > 0 => bytes[at] = [0, 1, 127, 128, 255, generator.random()][generator.random_range(0..6)],
            2 => drop(bytes.drain(at..at + length.min(rest))),
            3 => drop(bytes.splice(at..at, (0..length).map(|_| generator.random::<u8>()).collect::<Vec<_>>())),
            4 if !other.is_empty() => {
                let from = generator.random_range(0..other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                drop(bytes.splice(at..at + generator.random_range(0..=length.min(rest)), piece));
            }
            5 => {
                let word = WORDS[generator.random_range(0..WORDS.len())].bytes();
                drop(bytes.splice(at..at + generator.random_range(0..=3.min(rest)), word));
            }
            6 => {
                // A number at a border, in either byte order.
                let number = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, 1 << 40, 0x10000]
                    [generator.random_range(0..8)];
                let width = [2, 4, 8][generator.random_range(0..3)];
                let mut number = number.to_le_bytes()[..width].to_vec();
                if generator.random() {
                    number.reverse();
                }
                drop(bytes.splice(at..at + width.min(rest), number));
            }
            7 if generator.random_bool(0.2) => bytes.truncate(at),
            _ => {}
        }
    }
}

/// Makes the checksums of a PNG's chunks right.
fn correct_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(header) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let end = at.saturating_add(8).saturating_add(length);
        if bytes.get(end..end.saturating_add(4)).is_none() {
            return;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
}
