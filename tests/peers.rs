//! Scripts that run mxc beside onnxruntime: models as users have them (`python/cases.py`), quantised networks
//! (`python/quantised.py`), random networks (`scripts/harness.py`, which by itself runs as many as one likes); and the tests of
//! scripts that are long themselves.

use crate::common::{onnxruntime, root, succeed};
use std::{path::Path, process::Command};

/// Runs a script of the repository with the program under test; it must succeed.
fn passes(script: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let Some(python) = onnxruntime() else {
        return String::new();
    };
    let path = root().join(script);
    assert!(path.exists(), "{}", path.display());
    succeed(Command::new(python).arg(path).args(arguments).envs(variables.iter().copied()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is UTF-8")
}

const MXC: &str = env!("CARGO_BIN_EXE_mxc-under-test");

#[test]
fn models_as_users_have_them() {
    let folder = tempfile::tempdir().unwrap();
    passes("tests/python/cases.py", &[MXC, text(folder.path())], &[]);
}

#[test]
fn quantised_networks() {
    let folder = tempfile::tempdir().unwrap();
    let models = root().join("examples/models");
    passes("tests/python/quantised.py", &[MXC, text(&models), text(folder.path())], &[]);
}

/// The plan, the store and the tables of `scripts/recovery`, without a run.
#[test]
fn the_table_of_what_recovers() {
    passes("scripts/recovery/test_recovery.py", &[], &[]);
}

#[test]
fn random_networks() {
    passes("scripts/harness.py", &["--networks", "30"], &[("MXC", MXC)]);
}
