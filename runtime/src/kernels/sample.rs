//! Interpolation at computed points: ONNX's GridSample over any number of spatial axes.

use super::elementwise::chain;

/// What sampling does between and beyond the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Between samples.
    pub interpolation: Interpolation,
    /// Beyond the border.
    pub padding: Padding,
    /// Whether ±1 are the centres of the outermost samples, or their edges.
    pub align_corners: bool,
}

/// Between samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interpolation {
    /// Ties to even.
    Nearest,
    Linear,
    /// With a = −3/4.
    Cubic,
}

/// Beyond the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// The samples that a point weighs on one axis.
#[derive(Clone, Copy, Debug, Default)]
struct Taps {
    count: usize,
    /// `None` outside the data, where zeros are.
    at: [Option<usize>; 4],
    weights: [f32; 4],
    /// The weights' derivatives in the point's coordinate.
    slopes: [f32; 4],
}

/// A position folded back into `low..=high`, and whether it runs against the original there.
fn reflected(position: f32, low: f32, high: f32) -> (f32, bool) {
    let range = high - low;
    let beyond = if position < low { low - position } else { position - high };
    if beyond <= 0.0 || beyond.is_nan() {
        return (position, false);
    }
    if range <= 0.0 {
        return (low, false);
    }
    let (turns, rest) = ((beyond / range).floor(), beyond % range);
    let even = turns % 2.0 == 0.0;
    let below = position < low;
    // Beyond one end and reflected there an even number of times more: it comes in from that end.
    (if below == even { low + rest } else { high - rest }, even)
}

impl Taps {
    /// On an axis of `size` samples at a coordinate in ±1.
    fn new(sampling: Sampling, size: usize, coordinate: f32) -> Self {
        let Sampling { interpolation, padding, align_corners } = sampling;
        let last = size as f32 - 1.0;
        let [low, high] = if align_corners { [0.0, last] } else { [-0.5, last + 0.5] };
        let mut speed = (high - low) / 2.0;
        let mut position = (coordinate + 1.0) / 2.0 * (high - low) + low;
        if interpolation == Interpolation::Nearest {
            position = position.round_ties_even();
        }
        if position < low || position > high {
            match padding {
                Padding::Zeros => {}
                // Whose curve goes on between samples that are all the border's.
                Padding::Border if interpolation == Interpolation::Cubic => {}
                Padding::Border => (position, speed) = (position.clamp(0.0, last), 0.0),
                Padding::Reflection => {
                    let (inside, against) = reflected(position, low, high);
                    (position, speed) = (inside, if against { -speed } else { speed });
                }
            }
        }
        let floor = position.floor();
        let t = position - floor;
        let (first, weights, slopes) = match interpolation {
            Interpolation::Nearest => (position, [1.0, 0.0, 0.0, 0.0], [0.0; 4]),
            Interpolation::Linear => (floor, [1.0 - t, t, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]),
            Interpolation::Cubic => {
                const A: f32 = -0.75;
                let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
                let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
                let near_slope = |x: f32| (3.0 * (A + 2.0) * x - 2.0 * (A + 3.0)) * x;
                let far_slope = |x: f32| (3.0 * A * x - 10.0 * A) * x + 8.0 * A;
                let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
                let slopes = [far_slope(t + 1.0), near_slope(t), -near_slope(1.0 - t), -far_slope(2.0 - t)];
                (floor - 1.0, weights, slopes)
            }
        };
        let count = match interpolation {
            Interpolation::Nearest => 1,
            Interpolation::Linear => 2,
            Interpolation::Cubic => 4,
        };
        let mut taps = Self { count, at: [None; 4], weights, slopes: slopes.map(|slope| slope * speed) };
        for (step, at) in taps.at.iter_mut().enumerate().take(count) {
            let place = first + step as f32;
            let inside = match padding {
                Padding::Zeros => place,
                Padding::Border => place.clamp(0.0, last),
                Padding::Reflection => reflected(place, low, high).0,
            };
            *at = (0.0..=last).contains(&inside).then_some(inside as usize);
        }
        taps
    }
}

/// The samples that a point weighs: where each is in one channel, its weight and its weight's slope in every coordinate.
fn neighbours(taps: &[Taps], sizes: &[usize], mut visit: impl FnMut(usize, f32, &[f32])) {
    let mut slopes = vec![0.0; taps.len()];
    let total: usize = taps.iter().map(|taps| taps.count).product();
    'combinations: for combination in 0..total {
        let (mut rest, mut offset, mut stride, mut weight) = (combination, 0, 1, 1.0);
        slopes.fill(1.0);
        for (axis, taps) in taps.iter().enumerate().rev() {
            let tap = rest % taps.count;
            rest /= taps.count;
            let Some(at) = taps.at[tap] else { continue 'combinations };
            offset += at * stride;
            stride *= sizes[axis];
            weight *= taps.weights[tap];
            for (each, slope) in slopes.iter_mut().enumerate() {
                *slope *= if each == axis { taps.slopes[tap] } else { taps.weights[tap] };
            }
        }
        visit(offset, weight, &slopes);
    }
}

/// The geometry: `[N, C, D…]` at `[N, P…, d]`.
#[derive(Clone, Copy, Debug)]
pub struct Shapes<'a> {
    /// Of the data.
    pub data: &'a [usize],
    /// Of the points.
    pub points: &'a [usize],
}

impl Shapes<'_> {
    /// Calls `visit(first element of the channels of the image, first result of the point, first coordinate, taps)` for every
    /// point.
    fn each(&self, sampling: Sampling, points: &[f32], mut visit: impl FnMut(usize, usize, usize, &[Taps])) {
        let (images, channels, sizes) = (self.data[0], self.data[1], &self.data[2..]);
        let (axes, pixels): (usize, usize) = (sizes.len(), sizes.iter().product());
        let count: usize = self.points[1..self.points.len() - 1].iter().product();
        let mut taps = vec![Taps::default(); axes];
        for (image, point) in (0..images).flat_map(|image| (0..count).map(move |point| (image, point))) {
            let first = (image * count + point) * axes;
            for (axis, taps) in taps.iter_mut().enumerate() {
                *taps = Taps::new(sampling, sizes[axis], points[first + axes - 1 - axis]);
            }
            visit(image * channels * pixels, image * channels * count + point, first, &taps);
        }
    }

    /// Elements of one channel of the data, and of the result.
    fn channel(&self) -> [usize; 2] {
        [self.data[2..].iter().product(), self.points[1..self.points.len() - 1].iter().product()]
    }
}

/// `Op::GridSample`.
pub fn forward(shapes: Shapes<'_>, sampling: Sampling, x: &[f32], points: &[f32], out: &mut [f32]) {
    let ([pixels, count], channels) = (shapes.channel(), shapes.data[1]);
    out.fill(0.0);
    shapes.each(sampling, points, |image, to, _, taps| {
        neighbours(taps, &shapes.data[2..], |offset, weight, _| {
            for channel in 0..channels {
                out[to + channel * count] += weight * x[image + channel * pixels + offset];
            }
        });
    });
}

/// Adds the data's gradient to `out`.
pub fn backward_data(shapes: Shapes<'_>, sampling: Sampling, points: &[f32], g: &[f32], out: &mut [f32]) {
    let ([pixels, count], channels) = (shapes.channel(), shapes.data[1]);
    shapes.each(sampling, points, |image, from, _, taps| {
        neighbours(taps, &shapes.data[2..], |offset, weight, _| {
            for channel in 0..channels {
                out[image + channel * pixels + offset] += chain(g[from + channel * count], weight);
            }
        });
    });
}

/// Adds the points' gradient to `out`.
pub fn backward_points(shapes: Shapes<'_>, sampling: Sampling, x: &[f32], points: &[f32], g: &[f32], out: &mut [f32]) {
    let ([pixels, count], channels) = (shapes.channel(), shapes.data[1]);
    shapes.each(sampling, points, |image, from, first, taps| {
        neighbours(taps, &shapes.data[2..], |offset, _, slopes| {
            let along: f32 = (0..channels)
                .map(|channel| chain(g[from + channel * count], x[image + channel * pixels + offset]))
                .sum();
            for (axis, &slope) in slopes.iter().enumerate() {
                out[first + slopes.len() - 1 - axis] += chain(along, slope);
            }
        });
    });
}
