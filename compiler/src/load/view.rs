//! Where the batch stands in an IR value, and what its program value has in its place.

/// How an IR value's axes map to the program value's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// How many leading axes of size 1 stand before the batch axis in the IR.
    pub lead: usize,
    /// The IR's batch axis is N·tokens long; the program has an axis of this size after the batch if it is not 1.
    pub tokens: usize,
    /// There is no batch: the axes are the program's.
    pub whole: bool,
}

impl View {
    /// The batch is axis 0 and the axes are the program's.
    pub const PLAIN: Self = Self { lead: 0, tokens: 1, whole: false };
    /// There is no batch.
    pub const WHOLE: Self = Self { lead: 0, tokens: 1, whole: true };

    /// How many program axes come before those that follow the IR's batch axis.
    pub fn head(self) -> usize {
        match (self.whole, self.tokens) {
            (true, _) => 0,
            (false, 1) => 1,
            _ => 2,
        }
    }

    /// The program axis of an IR axis after the batch axis.
    pub fn axis(self, axis: usize) -> Option<usize> {
        if self.whole {
            return Some(axis);
        }
        (axis > self.lead).then(|| axis - self.lead - 1 + self.head())
    }

    /// The rank of the IR value whose program value has the rank `program`.
    pub fn rank(self, program: usize) -> usize {
        if self.whole { program } else { program - self.head() + self.lead + 1 }
    }
}

/// The product of static sizes.
pub(super) fn product(shape: &[Option<usize>]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, size| product.checked_mul((*size)?))
}

/// Where the batch is in a reshape's result of `elements` values per sample: axis 0 if the rest has that many values,
/// else the first axis after leading ones, which then counts batch · tokens.
pub(super) fn batch_axis(shape: &[Option<usize>], batch: Option<usize>, elements: usize) -> Option<View> {
    if *shape.first()? == batch && product(&shape[1..]) == Some(elements) {
        return Some(View::PLAIN);
    }
    let lead = match batch {
        None => shape.iter().position(Option::is_none)?,
        Some(_) => shape.iter().position(|&size| size != Some(1))?,
    };
    let rest = product(&shape[lead + 1..]).filter(|&rest| rest > 0)?;
    let tokens = elements / rest;
    (shape[..lead].iter().all(|&size| size == Some(1))
        && tokens > 0
        && tokens * rest == elements
        && shape[lead] == batch.and_then(|batch| batch.checked_mul(tokens)))
    .then_some(View { lead, tokens, whole: false })
}
