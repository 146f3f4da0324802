//! Decoding image files as torchvision's default loader does: `Image.open(path).convert("RGB")`.

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Pillow warns above this number of pixels; mxc refuses, so that a small file cannot claim much memory.
const MAX_PIXELS: u64 = 89_478_485;
/// Bytes that a decoder may hold.
const MAX_DECODED: u64 = 512 << 20;

/// Decodes a file of any supported format, told by its first bytes: the HWC bytes of `channels` channels (1: grey; 3: RGB),
/// height and width. An animation's first frame; alpha is dropped, not blended; EXIF orientation is not applied.
pub(super) fn decode(file: &[u8], channels: usize) -> Result<(Vec<u8>, [usize; 2]), String> {
    // Decoders panic on some damaged files (png 0.18.1 on a palette that ends within a colour), which is no more than
    // one bad image.
    std::panic::catch_unwind(|| decoded(file, channels)).unwrap_or_else(|_| Err("its decoder gave up".into()))
}

fn decoded(file: &[u8], channels: usize) -> Result<(Vec<u8>, [usize; 2]), String> {
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(file) {
        // The decoder would fill what is missing with grey.
        return Err("it is truncated".into());
    }
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED {
        return Err(format!("its {width}×{height} pixels are more than the {MAX_PIXELS} supported"));
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED);
    decoder.set_limits(limits).map_err(|error| error.to_string())?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    let mut pixels = rgb(image)?;
    if channels == 1 {
        let grey = |rgb: &[u8]| {
            let [red, green, blue] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
            ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
        };
        pixels = pixels.chunks_exact(3).map(grey).collect();
    }
    Ok((pixels, [height as usize, width as usize]))
}

/// RGB bytes. Of 16 bits Pillow keeps the upper eight.
fn rgb(image: DynamicImage) -> Result<Vec<u8>, String> {
    let upper = |value: u16| (value >> 8) as u8;
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => image.as_raw().iter().flat_map(|&grey| [grey; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => image.pixels().flat_map(|pixel| [pixel.0[0]; 3]).collect(),
        DynamicImage::ImageRgba8(image) => {
            image.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.as_raw().iter().map(|&value| upper(value)).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|pixel| [0, 1, 2].map(|c| upper(pixel.0[c]))).collect()
        }
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|pixel| [upper(pixel.0[0]); 3]).collect(),
        // torchvision turns most of a 16-bit grey image white.
        other => return Err(format!("its pixels are {:?}; convert it to 8 bits a channel", other.color())),
    })
}

/// Whether a JPEG's segments reach its end marker.
fn is_whole_jpeg(file: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 2;
    loop {
        // Entropy-coded data, and padding between segments, hold no marker: after FF comes 00 (a data byte), D0 to D7
        // (a restart) or another FF.
        let Some(found) = file.get(at..).and_then(|rest| {
            rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff))
        }) else {
            return false;
        };
        at += found + 2;
        match (file[at - 1], file.get(at..at + 2)) {
            (END, _) => return true,
            (_, Some(&[high, low])) => at += usize::from(u16::from_be_bytes([high, low])).max(2),
            (_, _) => return false,
        }
    }
}
