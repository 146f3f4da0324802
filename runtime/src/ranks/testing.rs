//! Ranks that are threads of one process, for tests.

use super::{Ranks, RanksError};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

/// One of them.
pub(crate) struct Thread {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// What so many ranks' work gives, in their order.
pub(crate) fn on<R: Send>(count: usize, work: impl Fn(&Thread) -> R + Sync) -> Vec<R> {
    let mut threads: Vec<Thread> = (0..count).map(|rank| Thread { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..count {
        for to in 0..count {
            let (sender, receiver) = channel();
            threads[from].to.push(sender);
            threads[to].from.push(receiver);
        }
    }
    thread::scope(|scope| {
        // A rank that is done hangs up.
        let running: Vec<_> = threads.into_iter().map(|rank| scope.spawn(|| work(&{ rank }))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn all_gather(&self, message: &[u8], waiting: &mut dyn FnMut()) -> Result<Vec<Vec<u8>>, RanksError> {
        // Who has hung up is noticed below.
        self.to.iter().for_each(|to| drop(to.send(message.to_vec())));
        let start = Instant::now();
        let receive = |from: &Receiver<Vec<u8>>| {
            loop {
                match from.recv_timeout(Duration::from_millis(1)) {
                    Ok(message) => return Ok(message),
                    Err(RecvTimeoutError::Timeout) if start.elapsed() < Duration::from_secs(100) => waiting(),
                    Err(error) => return Err(RanksError::Lost(error.to_string())),
                }
            }
        };
        self.from.iter().map(receive).collect()
    }
}
