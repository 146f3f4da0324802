//! Memory-mapping files.

use memmap2::Mmap;
use std::{fs::File, io};

/// Maps a file read-only.
///
/// The file must not be truncated or rewritten in place while it is mapped; mxc itself replaces its files by renaming,
/// which leaves the mapped one alone.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only, and the contract above rules out changes under it.
    unsafe { Mmap::map(file) }
}
