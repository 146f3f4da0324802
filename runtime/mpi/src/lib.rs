//! The processes that an MPI launcher (`mpirun`, `srun`) has started, as [`Ranks`].
//!
//! Whether there is a launcher is read from the environment, so that a program with the feature `mpi` that nobody has launched does not
//! initialize MPI, and one without the feature knows that it should have it.

#[cfg(feature = "mpi")]
mod world;

use mxc_runtime::ranks::{Alone, Ranks};
use std::env;

/// Why ranks cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The program is one of several and cannot speak with the others.
    #[error(
        "an MPI launcher has started several processes, but this mxc is built without MPI: each would do all the work and write the same \
         file; build it with the feature mpi (make mpi), or start it once"
    )]
    NotBuilt,
    /// MPI has refused, or was initialized before.
    #[error("MPI cannot be used: {0}")]
    Refused(String),
}

/// What launchers tell the processes that they start: this one's number, and how many there are. Open MPI; MPICH, its relatives and Slurm's
/// pmi2; Slurm's pmix.
const TOLD: [[&str; 2]; 3] =
    [["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"], ["PMI_RANK", "PMI_SIZE"], ["PMIX_RANK", "SLURM_STEP_NUM_TASKS"]];

/// A process as the launcher that has started it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub count: usize,
}

/// What the launcher has told this process, if there is one.
pub fn launched() -> Option<Launched> {
    launched_by(|name| env::var(name).ok()?.parse().ok())
}

fn launched_by(told: impl Fn(&str) -> Option<usize>) -> Option<Launched> {
    TOLD.into_iter().find_map(|[rank, count]| Some(Launched { rank: told(rank)?, count: told(count)? }))
}

/// The ranks of this run: those of `MPI_COMM_WORLD`, where a launcher has started the process, else itself alone. To be called once, by
/// the thread that then uses them.
///
/// # Errors
///
/// [`StartError::NotBuilt`] for one of several processes in a program without the feature `mpi`, [`StartError::Refused`].
pub fn ranks() -> Result<Box<dyn Ranks>, StartError> {
    let Some(launched) = launched() else {
        return Ok(Box::new(Alone));
    };
    start(launched)
}

#[cfg(feature = "mpi")]
fn start(_: Launched) -> Result<Box<dyn Ranks>, StartError> {
    Ok(Box::new(world::World::start()?))
}

#[cfg(not(feature = "mpi"))]
fn start(launched: Launched) -> Result<Box<dyn Ranks>, StartError> {
    if launched.count > 1 { Err(StartError::NotBuilt) } else { Ok(Box::new(Alone)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known() {
        let told = |pairs: &'static [(&str, usize)]| {
            launched_by(move |name| pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| *value))
        };
        assert_eq!(told(&[]), None);
        let second = Some(Launched { rank: 1, count: 4 });
        assert_eq!(told(&[("OMPI_COMM_WORLD_RANK", 1), ("OMPI_COMM_WORLD_SIZE", 4), ("PMIX_RANK", 1)]), second);
        assert_eq!(told(&[("PMI_RANK", 1), ("PMI_SIZE", 4)]), second);
        assert_eq!(told(&[("PMIX_RANK", 1), ("SLURM_STEP_NUM_TASKS", 4)]), second);
        // A job's environment, not a step's.
        assert_eq!(told(&[("SLURM_STEP_NUM_TASKS", 4)]), None);
    }
}
