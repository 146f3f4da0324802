//! The Python package: its options are those of the sources, and, where its wheel is built, it gives the program's bytes.

use crate::common::{built, json, model, mxc as program, profile, root, small_fashion, succeed};
use clap::{Arg, ArgAction, Command as Options};
use mxc_options as options;
use std::{
    any::TypeId,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The type hint of an option.
fn hint(option: &Arg) -> String {
    if matches!(option.get_action(), ArgAction::SetTrue) {
        return "bool".to_owned();
    }
    let id = option.get_value_parser().type_id();
    let is = |known: &[TypeId]| known.iter().any(|known| id == *known);
    let words: Vec<String> =
        option.get_possible_values().iter().map(|word| format!("\"{}\"", word.get_name())).collect();
    let one = if is(&[TypeId::of::<bool>()]) {
        "bool".to_owned()
    } else if !words.is_empty() {
        format!("Literal[{}]", words.join(", "))
    } else if is(&[TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()]) {
        "int".to_owned()
    } else if is(&[TypeId::of::<f32>()]) {
        "float".to_owned()
    } else if is(&[TypeId::of::<f64>()]) {
        "float | str".to_owned()
    } else if is(&[TypeId::of::<PathBuf>()]) {
        "str | os.PathLike[str]".to_owned()
    } else if is(&[TypeId::of::<(String, Vec<usize>)>()]) {
        return "Mapping[str, Sequence[int]]".to_owned();
    } else {
        "str".to_owned()
    };
    match option.get_action() {
        ArgAction::Append => format!("{one} | Sequence[{one}]"),
        _ => one,
    }
}

/// A dictionary type of a call's options.
fn typed_dict(name: &str, command: &Options) -> String {
    let mut text = format!("\n\nclass {name}(TypedDict, total=False):\n");
    for option in command.get_arguments() {
        // `shard` is an argument of a method of its own.
        let Some(long) = option.get_long().filter(|long| *long != "shard") else { continue };
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match default.is_empty() || matches!(option.get_action(), ArgAction::SetTrue) {
            true => String::new(),
            false => format!(" [default: {}]", default.join(",")),
        };
        // Below the first line stand the models of noise, the registered ones among them.
        let help = help.lines().next().unwrap_or_default();
        text += &format!("    {}: {}\n    \"\"\"{help}{default}\"\"\"\n", long.replace('-', "_"), hint(option));
    }
    text
}

#[test]
fn the_python_options_are_those_of_the_sources() {
    use mxc_c::{compiling, model, package, passes};
    use options::named::command;
    let mut text = "\"\"\"The options of calls, by name. A test writes this file from the declarations of the command line's.\"\"\"\n\n\
        from __future__ import annotations\n\nimport os\nfrom collections.abc import Mapping, Sequence\n\
        from typing import Literal, TypedDict\n"
        .to_owned();
    for (name, command) in [
        ("ImportOptions", command::<options::Import>()),
        ("CompileOptions", command::<model::CompileCall>()),
        ("CalibrateOptions", command::<compiling::CalibrateCall>()),
        ("FinetuneOptions", command::<compiling::FinetuneCall>()),
        ("EvaluateOptions", command::<package::EvaluateCall>()),
        ("SessionOptions", command::<package::SessionCall>()),
        ("ModelSessionOptions", command::<model::SessionCall>()),
        ("ExportOptions", command::<options::Export>()),
        ("ReportOptions", command::<options::Profile>()),
        ("PassesOptions", command::<passes::PassesCall>()),
    ] {
        text += &typed_dict(name, &command);
    }
    let path = root().join("compiler/python/mxc/_options.py");
    if env::var_os("MXC_UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "MXC_UPDATE_DOCS=1 cargo test the_python_options writes it anew");
}

/// The wheel that `make wheel PROFILE=dev` built, in an environment of its own.
#[test]
fn the_wheel_gives_the_programs_bytes() {
    let Some(wheels) = built(profile().join("wheels"), "wheel PROFILE=dev") else {
        return;
    };
    let found = fs::read_dir(&wheels).unwrap().map(|entry| entry.unwrap().path());
    let wheel = found.filter(|path| path.extension().is_some_and(|extension| extension == "whl")).max().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeed(Command::new("python3").args(["-m", "venv", "venv"]).current_dir(folder));
    let python = folder.join("venv/bin/python");
    let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
    // What the examples need besides.
    succeed(Command::new(&python).args(install).arg(&wheel).args(["matplotlib==3.11.2", "ray==2.60.0"]));
    let data = small_fashion(folder, 600, 200);

    let flags = "--budget 4% --sigma 20% --mean 0.2860 --std 0.3530 --samples 64 -o model.mxa --data";
    succeed(program(folder).arg("compile").arg(model("resnet20")).args(flags.split(' ')).arg(&data));
    let flags = "finetune model.mxa --epochs 1 --limit 256 -o tuned.mxa --data";
    succeed(program(folder).args(flags.split(' ')).arg(&data));
    let flags = "eval tuned.mxa --seeds 2 --limit 200 --json --data";
    let printed = succeed(program(folder).args(flags.split(' ')).arg(&data));
    fs::write(folder.join("eval.json"), printed).unwrap();
    succeed(program(folder).args(["export", "tuned.mxa", "-o", "tuned.onnx"]));

    let mut test = Command::new(&python);
    test.arg(root().join("tests/python/package.py")).current_dir(folder).env_clear().env("HOME", folder);
    succeed(test.arg(model("resnet20")).arg(&data));

    // The examples.
    let run = |script: &Path| {
        let mut command = Command::new(&python);
        command.arg(script).current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
        command
    };
    let examples = root().join("examples/embed/python");
    let said = succeed(run(&examples.join("sigma.py")).arg(model("resnet20")).arg(&data).args(["sigma.png", "100"]));
    assert!(said.contains("sigma 20 %: noisy") && folder.join("sigma.png").exists(), "{said}");
    let spread = json(run(&examples.join("ray_shards.py")).arg(folder.join("tuned.mxa")).arg(&data).arg("5"));
    assert_eq!(spread, json(program(folder).args(["eval", "tuned.mxa", "--json", "--data"]).arg(&data)));

    // And what the page shows.
    let page = fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let shown = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let shown = shown.replace("/usr/share/datasets/fashion-mnist", &data.display().to_string());
    let prepared = "import numpy as np\nimages = np.zeros((1, 1, 28, 28), np.float32)\n";
    fs::copy(model("resnet20"), folder.join("resnet20.onnx")).unwrap();
    fs::write(folder.join("page.py"), format!("{prepared}{shown}")).unwrap();
    succeed(&mut run(&folder.join("page.py")));
    assert!(folder.join("resnet20.mxa").exists());
}
