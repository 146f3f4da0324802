//! `MPI_COMM_WORLD`.

use crate::StartError;
use mpi::{
    Count, Threading,
    datatype::PartitionMut,
    environment::Universe,
    request::{self, Request, Scope},
    topology::SimpleCommunicator,
    traits::{Communicator, CommunicatorCollectives},
};
use mxc_runtime::ranks::{Ranks, RanksError};
use std::{
    thread,
    time::{Duration, Instant},
};

/// All processes of the run. MPI's own errors end the process, which the launcher has the others follow (`MPI_ERRORS_ARE_FATAL`, MPI's
/// default). Dropped, it waits for the other ranks to drop theirs (`MPI_Finalize`).
pub(crate) struct World {
    communicator: SimpleCommunicator,
    _universe: Universe,
}

impl World {
    /// Initializes MPI for programs of which one thread alone calls it (`MPI_THREAD_FUNNELED`): this one.
    pub fn start() -> Result<Self, StartError> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| StartError::Refused("it has been initialized before".to_owned()))?;
        if threading < Threading::Funneled {
            return Err(StartError::Refused("it is built for programs of one thread".to_owned()));
        }
        Ok(Self { communicator: universe.world(), _universe: universe })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The others do not know, and would wait for ever.
        if thread::panicking() {
            self.communicator.abort(101);
        }
    }
}

/// How long a rank that waits asks without a pause, and how long it then sleeps: what waits on the same cores may be what it waits for.
const PATIENCE: Duration = Duration::from_micros(200);
const NAP: Duration = Duration::from_micros(50);

impl Ranks for World {
    fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    fn count(&self) -> usize {
        self.communicator.size() as usize
    }

    fn all_gather(&self, message: &[u8], waiting: &mut dyn FnMut()) -> Result<Vec<Vec<u8>>, RanksError> {
        let mut lens = vec![0u64; self.count()];
        let own = [message.len() as u64];
        request::scope(|scope| {
            finish(self.communicator.immediate_all_gather_into(scope, &own[..], &mut lens[..]), waiting);
        });
        // MPI counts in C's int. All ranks see the same lengths.
        let total: u64 = lens.iter().sum();
        if Count::try_from(total).is_err() {
            return Err(RanksError::Lost(format!("{total} bytes are more than MPI takes at once")));
        }
        let counts: Vec<Count> = lens.iter().map(|&len| len as Count).collect();
        let mut end = 0;
        let places: Vec<Count> = counts
            .iter()
            .map(|count| {
                end += count;
                end - count
            })
            .collect();
        let mut all = vec![0u8; total as usize];
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &places[..]);
        request::scope(|scope| {
            finish(self.communicator.immediate_all_gather_varcount_into(scope, message, &mut parts), waiting);
        });
        let mut rest = all.as_slice();
        let messages = lens.iter().map(|&len| {
            let (message, others) = rest.split_at(len as usize);
            rest = others;
            message.to_vec()
        });
        Ok(messages.collect())
    }
}

/// Waits until it is done.
fn finish<'a, D: ?Sized, S: Scope<'a>>(mut left: Request<'a, D, S>, waiting: &mut dyn FnMut()) {
    let start = Instant::now();
    while let Err(again) = left.test() {
        left = again;
        waiting();
        if start.elapsed() < PATIENCE { thread::yield_now() } else { thread::sleep(NAP) }
    }
}
