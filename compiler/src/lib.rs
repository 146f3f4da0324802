//! mxc
