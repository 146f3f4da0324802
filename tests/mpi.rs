//! Fine-tuning shared by the processes of an MPI run, by the program: a binary of its own, since the program is built with the feature.

#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod common;

use common::{commands, fail, model, mxc, root, small_fashion, succeed};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// No run of these tests takes as long, unless it hangs.
const LONG: Duration = Duration::from_secs(240);

/// `mpirun`, to be given the number of ranks and what they run.
fn mpirun(folder: &Path) -> Command {
    // Ends what hangs.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &LONG.as_secs().to_string(), "mpirun"]);
    launching(&mut command, folder);
    command
}

/// The environment of a launcher: more ranks than there are cores, maybe as root, memory checks as in other tests.
fn launching(command: &mut Command, folder: &Path) {
    let plain = mxc(folder);
    command.current_dir(folder).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs([
        ("PATH", format!("{}:/usr/bin:/bin", folder.display()).as_str()),
        ("HOME", &folder.display().to_string()),
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        // Reading another process's memory is forbidden in many containers.
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ]);
}

/// So many ranks of the program.
fn ranks(folder: &Path, count: usize, arguments: &[String]) -> Command {
    let mut command = mpirun(folder);
    command.args(["-n", &count.to_string()]).arg(mxc(folder).get_program()).args(arguments);
    command
}

/// Arguments in one.
fn all(parts: &[&[&str]]) -> Vec<String> {
    parts.concat().into_iter().map(str::to_owned).collect()
}

/// A folder with a package compiled by a recipe, and data.
fn compiled(recipe: &str) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 300, 20).display().to_string();
    let options = ["--recipe", recipe, "--samples", "32", "--data", &data, "-o", "model.mxa"];
    succeed(mxc(folder.path()).arg("compile").arg(model("resnet20")).args(options));
    (folder, data)
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

/// Batches of shards that ranks cannot share evenly, the last of an epoch a short one, with labels and with everything that
/// the recipe `best` has: samples that judge, blends, levels of noise, features.
#[test]
fn packages_are_those_of_one_process() {
    let paper: &[&str] = &["--epochs", "2", "--limit", "190", "--batch", "80"];
    let best: &[&str] = &["--epochs", "2", "--limit", "120", "--batch", "48", "--match-features", "0.5"];
    for (recipe, options) in [("paper", paper), ("best", best)] {
        let (folder, data) = compiled(recipe);
        let folder = folder.path();
        let tune =
            |name: &str| all(&[&["finetune", "model.mxa", "--data", &data, "--threads", "1", "-o", name], options]);
        let told = succeed(mxc(folder).args(tune("alone.mxa")));
        for count in 1..=4 {
            let name = format!("{count}.mxa");
            let said = succeed(&mut ranks(folder, count, &tune(&name)));
            assert_eq!(said, told.replace("alone", &count.to_string()), "said once");
            assert!(bytes(folder, &name) == bytes(folder, "alone.mxa"), "{recipe}: {count} ranks make another package");
            assert!(!folder.join(format!("{name}.ckpt")).exists());
        }
    }
}

/// A run under way.
struct Running {
    launcher: Child,
    folder: PathBuf,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Starts it and waits until it trains: progress is told after a second.
    fn start(command: &mut Command, folder: &Path) -> Self {
        let mut launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(launcher.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("finetune epoch") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ends before it trains");
        }
        Self { launcher, folder: folder.to_owned(), stderr }
    }

    /// The process id of a rank.
    fn rank(&self, rank: usize) -> String {
        let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let mut ours = processes.filter(|process| {
            let here = fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == self.folder);
            let variables = fs::read(process.join("environ")).unwrap_or_default();
            here && variables.split(|&byte| byte == 0).any(|each| each == variable.as_bytes())
        });
        ours.next().expect("the rank runs").file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// The process id of `mpirun`, which `timeout` has started.
    fn mpirun(&self) -> String {
        let id = self.launcher.id();
        fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap().trim().to_owned()
    }

    /// Waits for its end; gives what else was said.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut said).unwrap();
        (self.launcher.wait().unwrap(), said)
    }
}

fn send(signal: &str, process: &str) {
    succeed(Command::new("kill").args([&format!("-{signal}"), process]));
}

/// Waits for a file.
fn wait_for(file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < LONG, "{} does not come", file.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whatever ends a run leaves a checkpoint that any number of ranks goes on from, to the bytes of a run that nothing has ended.
#[test]
fn whatever_ends_a_run_it_is_resumed_to_the_same_bytes() {
    let (folder, data) = compiled("paper");
    let folder = folder.path();
    let tune = |name: &str| {
        let schedule = ["--epochs", "20", "--batch", "40", "--threads", "1"];
        all(&[&["finetune", "model.mxa", "--data", &data, "-o", name], &schedule])
    };
    succeed(mxc(folder).args(tune("whole.mxa")));
    let resumed = |from: &str, count: usize| {
        let name = format!("{from}-on-{count}.mxa");
        fs::copy(folder.join(format!("{from}.mxa.ckpt")), folder.join(format!("{name}.ckpt"))).unwrap();
        let arguments = [tune(&name), all(&[&["--resume"]])].concat();
        match count {
            0 => succeed(mxc(folder).args(arguments)),
            _ => succeed(&mut ranks(folder, count, &arguments)),
        };
        assert!(bytes(folder, &name) == bytes(folder, "whole.mxa"), "{name} is not what one process makes");
    };

    // Another than the first is killed: the first has just the time to write where it is.
    let running = Running::start(&mut ranks(folder, 3, &tune("killed.mxa")), folder);
    let rank = running.rank(1);
    let before = fs::metadata(folder.join("killed.mxa.ckpt")).and_then(|found| found.modified()).ok();
    send("KILL", &rank);
    let (status, said) = running.end();
    assert!(!status.success(), "{said}");
    let after = fs::metadata(folder.join("killed.mxa.ckpt")).expect(&said).modified().unwrap();
    assert!(before.is_none_or(|before| after > before), "the first writes where it is: {said}");
    assert!(!folder.join("killed.mxa").exists());
    resumed("killed", 2);
    resumed("killed", 0);

    // The first is killed: what is left is of an epoch's end.
    let running = Running::start(&mut ranks(folder, 2, &tune("beheaded.mxa")), folder);
    wait_for(&folder.join("beheaded.mxa.ckpt"));
    send("KILL", &running.rank(0));
    assert!(!running.end().0.success());
    assert!(!folder.join("beheaded.mxa").exists());
    resumed("beheaded", 4);

    // One rank is asked to stop: all stop, and the first says how to go on.
    let running = Running::start(&mut ranks(folder, 3, &tune("stopped.mxa")), folder);
    send("TERM", &running.rank(2));
    let (status, said) = running.end();
    assert!(!status.success());
    assert_eq!(said.matches("go on with the same command and --resume").count(), 1, "{said}");
    resumed("stopped", 3);

    // The launcher is.
    let running = Running::start(&mut ranks(folder, 2, &tune("interrupted.mxa")), folder);
    send("INT", &running.mpirun());
    let (status, said) = running.end();
    assert!(!status.success(), "{said}");
    assert!(!folder.join("interrupted.mxa").exists());
    resumed("interrupted", 1);
}

/// What goes wrong on one rank ends all, at once and with one message.
#[test]
fn one_message_says_what_is_wrong() {
    let (folder, data) = compiled("paper");
    let folder = folder.path();
    succeed(mxc(folder).args(["calibrate", "model.mxa", "--samples", "32", "--data", &data, "-o", "other.mxa"]));
    let program = mxc(folder).get_program().to_owned();
    let tune = |package: &str, more: &[&str]| {
        let own = ["finetune", package, "--data", &data, "--epochs", "1", "--threads", "1", "-o", "out.mxa"];
        all(&[&own, more])
    };
    for (second, message) in [
        (tune("model.mxa", &["--lr", "0.5"]), "rank 1 was started with another --lr than rank 0: 0.5, not 0.001"),
        (tune("other.mxa", &[]), "rank 1 was started with another package than rank 0: "),
        (tune("missing.mxa", &[]), "rank 1: missing.mxa: "),
        (tune("model.mxa", &["--limit", "0"]), "rank 1: there is nothing to train on"),
    ] {
        let mut command = mpirun(folder);
        command.args(["-n", "1"]).arg(&program).args(tune("model.mxa", &[]));
        command.args([":", "-n", "1"]).arg(&program).args(&second);
        let said = fail(&mut command, 1);
        assert!(said.contains(&format!("error: {message}")), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
    }
    assert!(!folder.join("out.mxa").exists());
    // What one process cannot do either, and what is not shared.
    let said = fail(&mut ranks(folder, 3, &tune("missing.mxa", &[])), 1);
    assert_eq!(said.matches("error: missing.mxa").count(), 1, "{said}");
    let said = fail(&mut ranks(folder, 3, &all(&[&["inspect", "model.mxa"]])), 1);
    assert_eq!(said.matches("only finetune is shared").count(), 1, "{said}");
}

/// The page's commands run, Slurm's launcher being `mpirun` here.
#[test]
fn commands_of_the_page_run() {
    let page = fs::read_to_string(root().join("docs/mpi.md")).unwrap();
    let folder = TempDir::new().unwrap();
    let data = small_fashion(folder.path(), 120, 20);
    symlink(mxc(folder.path()).get_program(), folder.path().join("mxc")).unwrap();
    symlink(root().join("benches"), folder.path().join("benches")).unwrap();
    fs::copy(model("resnet20"), folder.path().join("model.onnx")).unwrap();
    let launcher = "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec mpirun -n 2 \"$@\"\n";
    fs::write(folder.path().join("srun"), launcher).unwrap();
    succeed(Command::new("chmod").arg("+x").arg(folder.path().join("srun")));
    let lines = commands(&page, &["mxc ", "mpirun ", "srun ", "benches/ranks.py"]);
    assert!(lines.iter().filter(|line| line.starts_with("mpirun")).count() >= 2, "{lines:?}");
    for line in lines {
        let mut command = Command::new("timeout");
        command.args([&LONG.as_secs().to_string(), "bash", "-euo", "pipefail", "-c"]);
        command.arg(line.replace("DIR", &data.display().to_string()));
        launching(&mut command, folder.path());
        succeed(command.env("MXC", mxc(folder.path()).get_program()));
    }
}
