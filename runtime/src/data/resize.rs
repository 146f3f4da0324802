//! Resizing and cropping images of bytes.

/// The size that [`resize_and_crop`] gives: the shorter side becomes `resize`, then the centre `crop`×`crop` is cut
/// out.
pub(super) fn size([height, width]: [usize; 2], resize: Option<usize>, crop: Option<usize>) -> [usize; 2] {
    let [height, width] = match resize {
        // The longer side is rounded down, as torchvision does.
        Some(side) if height <= width => [side, (side * width).checked_div(height).unwrap_or(0)],
        Some(side) => [(side * height).checked_div(width).unwrap_or(0), side],
        None => [height, width],
    };
    match crop {
        Some(side) => [height.min(side), width.min(side)],
        None => [height, width],
    }
}

/// The pixels with their channels adjacent.
pub(super) fn interleaved(pixels: &[u8], [height, width, channels]: [usize; 3], channels_last: bool) -> Vec<u8> {
    if channels_last {
        return pixels.to_vec();
    }
    let area = height * width;
    (0..area * channels).map(|index| pixels[index % channels * area + index / channels]).collect()
}

/// Resizes (bilinear, widened to an antialiasing triangle when shrinking, as Pillow and torchvision do) and crops the
/// centre. Returns the HWC pixels and their height and width.
pub(super) fn resize_and_crop(
    pixels: Vec<u8>,
    [height, width, channels]: [usize; 3],
    resize: Option<usize>,
    crop: Option<usize>,
) -> (Vec<u8>, [usize; 2]) {
    let [rows, columns] = size([height, width], resize, None);
    let mut pixels = pixels;
    if columns != width {
        pixels = resample(&pixels, [height, width, channels], columns);
    }
    if rows != height {
        // The vertical pass treats a row of pixels as the channels of one pixel.
        pixels = resample(&pixels, [1, height, columns * channels], rows);
    }
    let [to_rows, to_columns] = size([rows, columns], None, crop);
    // Half the difference, halves rounded to even, as torchvision's CenterCrop does.
    let rounded_half = |difference: usize| {
        let half = difference / 2;
        half + usize::from(difference % 2 == 1 && half % 2 == 1)
    };
    let (top, left) = if (to_rows, to_columns) == (rows, columns) {
        (0, 0)
    } else {
        (rounded_half(rows - to_rows), rounded_half(columns - to_columns))
    };
    let cropped = (0..to_rows)
        .flat_map(|row| {
            let start = ((top + row) * columns + left) * channels;
            pixels[start..start + to_columns * channels].iter().copied()
        })
        .collect();
    (cropped, [to_rows, to_columns])
}

/// Resamples the middle axis of `[outer, from, inner]` bytes to `to` positions.
fn resample(pixels: &[u8], [outer, from, inner]: [usize; 3], to: usize) -> Vec<u8> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    let mut out = vec![0; outer * to * inner];
    for position in 0..to {
        let centre = (position as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let last = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (first..last).map(|tap| (1.0 - ((tap as f64 + 0.5 - centre) / support).abs()).max(0.0)).collect();
        let total: f64 = weights.iter().sum();
        for block in 0..outer {
            for index in 0..inner {
                let sum: f64 = weights
                    .iter()
                    .enumerate()
                    .map(|(tap, weight)| f64::from(pixels[(block * from + first + tap) * inner + index]) * weight)
                    .sum();
                out[(block * to + position) * inner + index] = (sum / total).round().clamp(0.0, 255.0) as u8;
            }
        }
    }
    out
}
