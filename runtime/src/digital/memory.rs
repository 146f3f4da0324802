//! Places buffers with known lifetimes in the activation memory.

/// A buffer's size and the first and last step that touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The size.
    pub bytes: usize,
    /// The first step.
    pub first: usize,
    /// The last step.
    pub last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The largest sum of sizes in use at once: no placement needs less.
pub fn live_bytes(buffers: &[Lifetime]) -> usize {
    buffers
        .iter()
        .map(|at| {
            buffers
                .iter()
                .filter(|buffer| buffer.first <= at.first && at.first <= buffer.last)
                .map(|buffer| buffer.bytes)
                .sum()
        })
        .max()
        .unwrap_or_default()
}

/// A byte address for every buffer, and the bytes they need together. Buffers in use at the same step are disjoint.
///
/// Buffers fall into groups that share no step; each group takes the first-fit placement with the lowest end over its orders,
/// up to 50,000 of them: all for eight buffers, among which is the best of all placements. The search stops at an order
/// that needs no more than what is in use at once.
pub fn allocate(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut addresses = vec![0; buffers.len()];
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&index| (buffers[index].first, index));
    let mut end = 0;
    let mut group: Vec<usize> = Vec::new();
    let mut last = 0;
    for index in order {
        if !group.is_empty() && buffers[index].first > last {
            end = end.max(place_group(buffers, &group, &mut addresses));
            group.clear();
            last = 0;
        }
        group.push(index);
        last = last.max(buffers[index].last);
    }
    end = end.max(place_group(buffers, &group, &mut addresses));
    (addresses, end)
}

fn place_group(buffers: &[Lifetime], group: &[usize], addresses: &mut [usize]) -> usize {
    let lifetimes: Vec<Lifetime> = group.iter().map(|&index| buffers[index]).collect();
    let bound = live_bytes(&lifetimes);
    let mut best: Option<(usize, Vec<usize>)> = None;
    let mut consider = |order: &[usize]| {
        let (placed, end) = first_fit(&lifetimes, order);
        if best.as_ref().is_none_or(|(least, _)| end < *least) {
            best = Some((end, placed));
        }
        best.as_ref().is_some_and(|(least, _)| *least <= bound)
    };
    let mut order: Vec<usize> = (0..group.len()).collect();
    for _ in 0..50_000 {
        if consider(&order) || !next_permutation(&mut order) {
            break;
        }
    }
    let (end, placed) = best.unwrap_or_default();
    for (&index, address) in group.iter().zip(placed) {
        addresses[index] = address;
    }
    end
}

fn first_fit(lifetimes: &[Lifetime], order: &[usize]) -> (Vec<usize>, usize) {
    let mut addresses = vec![0; lifetimes.len()];
    let mut end = 0;
    for (count, &index) in order.iter().enumerate() {
        let mut taken: Vec<(usize, usize)> = order[..count]
            .iter()
            .filter(|&&other| lifetimes[other].meets(&lifetimes[index]))
            .map(|&other| (addresses[other], addresses[other] + lifetimes[other].bytes))
            .collect();
        taken.sort_unstable();
        let mut address = 0;
        for (from, to) in taken {
            if address + lifetimes[index].bytes <= from {
                break;
            }
            address = address.max(to);
        }
        addresses[index] = address;
        end = end.max(address + lifetimes[index].bytes);
    }
    (addresses, end)
}

/// The next order in lexicographic order; `false` after the last.
fn next_permutation(order: &mut [usize]) -> bool {
    let Some(pivot) = (1..order.len()).rev().find(|&i| order[i - 1] < order[i]) else {
        return false;
    };
    let pivot = pivot - 1;
    if let Some(other) = (pivot + 1..order.len()).rev().find(|&i| order[i] > order[pivot]) {
        order.swap(pivot, other);
    }
    order[pivot + 1..].reverse();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(bytes: usize, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn finds_the_placement_that_the_order_of_use_misses() {
        // In order of use the fourth buffer fits into neither gap of the third.
        let buffers = [buffer(8, 0, 6), buffer(4, 1, 3), buffer(4, 3, 5), buffer(6, 5, 6)];
        let (addresses, end) = allocate(&buffers);
        assert_eq!(end, live_bytes(&buffers));
        assert_eq!(end, 18);
        for a in 0..4 {
            for b in 0..a {
                assert!(
                    !buffers[a].meets(&buffers[b])
                        || addresses[a] + buffers[a].bytes <= addresses[b]
                        || addresses[b] + buffers[b].bytes <= addresses[a]
                );
            }
        }
    }

    #[test]
    fn groups_that_never_meet_share_the_memory() {
        let (addresses, end) = allocate(&[buffer(8, 0, 1), buffer(6, 2, 3)]);
        assert_eq!((addresses, end), (vec![0, 0], 8));
        assert_eq!(allocate(&[]), (vec![], 0));
    }
}
