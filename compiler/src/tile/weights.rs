//! Where programs' weights lie in the weight memory.

/// A program's part of the weight memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The byte address of each of its weights.
    pub addresses: Vec<usize>,
    /// The words that it brings along before every sample; 0 where they stay in the memory.
    pub load_words: usize,
}

/// Places the weights of programs, given by their bytes: all of them one behind the other where they fit a memory of so many
/// bytes together; else every program's from address 0 on, to be brought along. `Err` is a program that does not fit by itself.
pub fn place(programs: &[Vec<usize>], capacity: usize) -> Result<Vec<Placed>, TooLarge> {
    let sizes: Vec<usize> =
        programs.iter().map(|weights| weights.iter().fold(0, |sum: usize, bytes| sum.saturating_add(*bytes))).collect();
    if let Some(program) = sizes.iter().position(|bytes| *bytes > capacity) {
        return Err(TooLarge { program, bytes: sizes[program] });
    }
    let resident = sizes.iter().fold(0, |sum: usize, bytes| sum.saturating_add(*bytes)) <= capacity;
    let mut next = 0;
    let placed = programs.iter().zip(sizes).map(|(weights, bytes)| {
        if !resident {
            next = 0;
        }
        let addresses = weights.iter().map(|bytes| {
            next += bytes;
            next - bytes
        });
        Placed { addresses: addresses.collect(), load_words: if resident { 0 } else { bytes / 2 } }
    });
    Ok(placed.collect())
}

/// A program whose weights the memory does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Which.
    pub program: usize,
    /// The bytes of its weights.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_where_all_fit_and_take_turns_where_not() {
        let programs = [vec![8, 2], vec![], vec![6]];
        let placed = |addresses: &[usize], load_words| Placed { addresses: addresses.to_vec(), load_words };
        assert_eq!(place(&programs, 16), Ok(vec![placed(&[0, 8], 0), placed(&[], 0), placed(&[10], 0)]));
        assert_eq!(place(&programs, 15), Ok(vec![placed(&[0, 8], 5), placed(&[], 0), placed(&[0], 3)]));
        assert_eq!(place(&programs, 9), Err(TooLarge { program: 0, bytes: 10 }));
        assert_eq!(place(&[], 0), Ok(vec![]));
    }
}
