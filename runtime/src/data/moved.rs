//! Images moved about: few of them serve as more.

use super::{DataError, Layout, Source, below, generator};
use crate::exec::samples::halves;
use rand::Rng;

/// A data set that holds images several times: as they are, and moved about, each time otherwise: shifted by up to a seventh of their
/// sides, edges repeated, and half of them mirrored. Few images tell too little of how channels go together; the clean network's outputs
/// are known for any input, so that moved ones tell more. They keep the label. What is no image comes once.
pub struct Moved<'a> {
    data: &'a dyn Source,
    /// By sample: which of the data set it is, and how often that has come before.
    samples: Vec<(usize, u64)>,
}

impl<'a> Moved<'a> {
    /// The first so many samples of a data set, so many times: first as they are.
    pub fn times(data: &'a dyn Source, samples: usize, times: usize) -> Self {
        let times = if data.image().is_some() { times as u64 } else { 1 };
        Self { data, samples: (0..times).flat_map(|time| (0..samples).map(move |sample| (sample, time))).collect() }
    }

    /// These samples of a data set, and where they are two or more images and fewer than half of `count`, so many of them: twice as many
    /// are no better than as they are. Those of the first half are the first of the [`halves`], so that who fits on one and judges on the
    /// other meets no image on both; and in either an image keeps to even or to odd places, unless it is the only one.
    pub fn filled(data: &'a dyn Source, samples: &[usize], count: usize) -> Self {
        if samples.len() < 2 || 2 * samples.len() >= count || data.image().is_none() {
            return Self { data, samples: samples.iter().map(|&sample| (sample, 0)).collect() };
        }
        let half = |samples: &[usize], count: usize| -> Vec<(usize, u64)> {
            let (pairs, last) = samples.split_at(if samples.len() == 1 { 1 } else { samples.len() / 2 * 2 });
            let again = (0..).flat_map(|time| pairs.iter().map(move |&sample| (sample, time)));
            again.take(count - last.len()).chain(last.iter().map(|&sample| (sample, 0))).collect()
        };
        let both = halves(samples.len()).into_iter().zip(halves(count));
        Self { data, samples: both.flat_map(|(own, all)| half(&samples[own], all.len())).collect() }
    }

    fn own(&self, indices: &[usize]) -> Vec<usize> {
        indices.iter().map(|&index| self.samples[index].0).collect()
    }
}

impl Source for Moved<'_> {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample_len(&self) -> usize {
        self.data.sample_len()
    }

    fn image(&self) -> Option<Layout> {
        self.data.image()
    }

    /// That of the sample; what is moved has one that no data set of less than 2⁴⁸ samples has.
    fn id(&self, index: usize) -> u64 {
        let (sample, time) = self.samples[index];
        self.data.id(sample) + (time << 48)
    }

    fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
        self.data.load(&self.own(indices), out)?;
        if let Some(layout) = self.data.image() {
            for (&index, image) in indices.iter().zip(out.chunks_exact_mut(layout.len())) {
                if self.samples[index].1 > 0 {
                    shift_and_mirror(image, layout, &mut generator(0, "moved", self.id(index)));
                }
            }
        }
        Ok(())
    }

    fn announce(&self, batches: Vec<Vec<usize>>) {
        self.data.announce(batches.iter().map(|batch| self.own(batch)).collect());
    }

    fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
        self.data.labels(&self.own(indices))
    }

    fn check_classes(&self, outputs: usize) -> Result<(), DataError> {
        self.data.check_classes(outputs)
    }

    fn fingerprint(&self) -> String {
        self.data.fingerprint()
    }
}

/// Shifts an image by a whole number of pixels each way and mirrors it left to right or not, every way as likely.
fn shift_and_mirror(image: &mut [f32], layout: Layout, generator: &mut impl Rng) {
    /// The part of a side that an image is shifted by at most.
    const PART: usize = 7;
    let [height, width, channels] = layout.shape;
    // Where a pixel's channels are adjacent they move together; of planes each is an image.
    let (planes, adjacent) = if layout.channels_last { (1, channels) } else { (channels, 1) };
    let [down, right] = [height, width].map(|side| below(2 * (side / PART) + 1, generator));
    let mirrored = below(2, generator) == 1;
    let from = |at: usize, shift: usize, side: usize| (at + shift).saturating_sub(side / PART).min(side - 1);
    let own = image.to_vec();
    for plane in 0..planes {
        for y in 0..height {
            let row = (plane * height + from(y, down, height)) * width;
            for x in 0..width {
                let column = from(if mirrored { width - 1 - x } else { x }, right, width);
                let [to, from] = [(plane * height + y) * width + x, row + column].map(|pixel| pixel * adjacent);
                image[to..to + adjacent].copy_from_slice(&own[from..from + adjacent]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const LAYOUT: Layout = Layout { shape: [14, 21, 2], channels_last: true };

    /// Images whose values say where they are: 100,000 a sample, 10,000 a channel, 100 a row.
    struct Places(Option<Layout>);

    impl Source for Places {
        fn len(&self) -> usize {
            1000
        }

        fn sample_len(&self) -> usize {
            LAYOUT.len()
        }

        fn image(&self) -> Option<Layout> {
            self.0
        }

        fn id(&self, index: usize) -> u64 {
            1000 + index as u64
        }

        fn load(&self, indices: &[usize], out: &mut Vec<f32>) -> Result<(), DataError> {
            out.clear();
            for &index in indices {
                let start = out.len();
                out.resize(start + LAYOUT.len(), 0.0);
                let layout = self.0.unwrap_or(LAYOUT);
                for (at, [y, x, c]) in places(layout) {
                    out[start + at] = (100_000 * index + 10_000 * c + 100 * y + x) as f32;
                }
            }
            Ok(())
        }

        fn labels(&self, indices: &[usize]) -> Option<Vec<u32>> {
            Some(indices.iter().map(|&index| index as u32).collect())
        }

        fn fingerprint(&self) -> String {
            String::new()
        }
    }

    /// Every value of an image: where it is, and its row, column and channel.
    fn places(Layout { shape: [height, width, channels], channels_last }: Layout) -> Vec<(usize, [usize; 3])> {
        let all = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..channels).map(move |c| [y, x, c])));
        let at = |[y, x, c]: [usize; 3]| match channels_last {
            true => (y * width + x) * channels + c,
            false => (c * height + y) * width + x,
        };
        all.map(|place| (at(place), place)).collect()
    }

    /// All pixels of an image have come the same way, or from the edge; every shift and both directions occur, about as often as they
    /// should.
    #[test]
    fn images_are_shifted_and_mirrored_as_a_whole() {
        for channels_last in [false, true] {
            let layout = Layout { channels_last, ..LAYOUT };
            let [height, width, _] = layout.shape;
            let data = Places(Some(layout));
            let moved = Moved::times(&data, 1, 701);
            let (mut own, mut all) = (Vec::new(), Vec::new());
            data.load(&[0], &mut own).unwrap();
            moved.load(&(0..701).collect::<Vec<_>>(), &mut all).unwrap();
            assert_eq!(all[..own.len()], own);
            let mut seen = BTreeMap::<_, u32>::new();
            for image in all.chunks(own.len()).skip(1) {
                let within = |at: isize, side: usize| at.clamp(0, side as isize - 1) as usize;
                let is = |&(down, right, mirrored): &(isize, isize, bool)| {
                    places(layout).into_iter().all(|(at, [y, x, c])| {
                        let column = if mirrored { width - 1 - x } else { x };
                        let (y, x) = (within(y as isize + down, height), within(column as isize + right, width));
                        image[at] == (10_000 * c + 100 * y + x) as f32
                    })
                };
                let ways = (-2..=2).flat_map(|down| (-3..=3).map(move |right| (down, right)));
                let way = ways.flat_map(|(down, right)| [(down, right, false), (down, right, true)]).find(is);
                *seen.entry(way.expect("moved as a whole")).or_default() += 1;
            }
            // 70 ways, ten times each by expectation: that one never comes has a chance of 70·e⁻¹⁰ = 0.3 %, and the draws are fixed.
            assert_eq!(seen.len(), 70);
            assert!(seen.values().all(|&count| count < 30), "{seen:?}");
        }
    }

    /// An image of few pixels is mirrored at most.
    #[test]
    fn small_images_are_not_shifted() {
        for time in 0..20 {
            let mut image = [1.0, 2.0, 3.0, 4.0];
            let layout = Layout { shape: [2, 2, 1], channels_last: false };
            shift_and_mirror(&mut image, layout, &mut generator(0, "moved", time));
            assert!([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]].contains(&image), "{image:?}");
        }
    }

    /// What is fitted on is not judged by, in halves nor by turns.
    #[test]
    fn halves_share_no_image() {
        let data = Places(Some(LAYOUT));
        for (images, count) in [(4, 16), (10, 128), (31, 128), (62, 128), (63, 128), (33, 67)] {
            let own: Vec<usize> = (0..images).map(|image| 3 * image).collect();
            let moved = Moved::filled(&data, &own, count);
            assert_eq!(moved.len(), count);
            let all: Vec<usize> = (0..count).collect();
            assert_eq!(moved.own(&all).into_iter().collect::<BTreeSet<_>>(), own.iter().copied().collect());
            let labels = moved.labels(&all).unwrap();
            let ids: BTreeSet<u64> = all.iter().map(|&at| moved.id(at)).collect();
            assert_eq!(ids.len(), count);
            let of = |keep: &dyn Fn(usize) -> bool| -> BTreeSet<u32> {
                all.iter().filter(|&&at| keep(at)).map(|&at| labels[at]).collect()
            };
            let [first, second] = halves(count);
            assert!(of(&|at| first.contains(&at)).is_disjoint(&of(&|at| second.contains(&at))), "{images} of {count}");
            for within in [first, second] {
                let turn = |turn| of(&|at| within.contains(&at) && (at - within.start) % 2 == turn);
                assert!(turn(0).is_disjoint(&turn(1)), "{images} of {count}: {:?}", moved.samples);
            }
        }
    }

    #[test]
    fn what_is_enough_or_no_image_stays() {
        let (images, numbers) = (Places(Some(LAYOUT)), Places(None));
        let stays = |data: &Places, samples: &[usize], count| {
            let moved = Moved::filled(data, samples, count);
            let all: Vec<usize> = (0..moved.len()).collect();
            moved.own(&all) == samples && all.iter().all(|&at| moved.id(at) == data.id(samples[at]))
        };
        assert!([2, 3, 6].iter().all(|&count| stays(&images, &[5, 7, 9], count)) && !stays(&images, &[5, 7, 9], 7));
        assert!(stays(&images, &[5], 128) && stays(&images, &[], 128));
        assert!(stays(&numbers, &[5, 7, 9], 128));
        assert_eq!([Moved::times(&numbers, 10, 3).len(), Moved::times(&images, 10, 3).len()], [10, 30]);
    }
}
